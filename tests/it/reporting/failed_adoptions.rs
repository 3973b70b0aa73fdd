//! `usage-server adopt-stripe-account` that fails: nothing is changed, and it can be run again.

use fake_stripe::{FakeStripe, Fault, Settings};
use usage_server::commands::offline::OfflineError;

use super::stripe_accounts::{other_account, own_total, report_first, total, use_key_of};
use crate::support::world::{Engine, World, hours_ago, on_both_engines};

on_both_engines!(
    an_adoption_that_fails_halfway_changes_nothing,
    an_account_that_does_not_answer_is_not_adopted,
    nothing_is_adopted_beside_a_running_server,
);

/// Lets every end of a pause fail, or no longer. It is the last change of an adoption.
async fn fail_ends_of_pauses(world: &World, fails: bool) {
    let sql = match (world.engine, fails) {
        (Engine::Sqlite, true) => {
            "CREATE TRIGGER stop BEFORE UPDATE ON sending WHEN NEW.paused_at IS NULL \
             BEGIN SELECT RAISE(ABORT, 'stopped'); END"
        }
        (Engine::Sqlite, false) => "DROP TRIGGER stop",
        (Engine::Postgres, true) => {
            "ALTER TABLE sending ADD CONSTRAINT stopped CHECK (paused_at IS NOT NULL)"
        }
        (Engine::Postgres, false) => "ALTER TABLE sending DROP CONSTRAINT stopped",
    };
    world.execute_sql(sql).await;
}

async fn audited(world: &World, outcome: &str) -> i64 {
    let rows = format!("action = 'AdoptStripeAccount' AND outcome = '{outcome}'");
    world
        .count_rows(&format!("audit_entries WHERE {rows}"))
        .await
}

/// Sending to the former account is paused: 5 units were accepted, 4 sent without an answer, and 3 wait.
async fn pause(world: &mut World) {
    report_first(world).await;
    let lost = Fault::accept_then_drop()
        .always()
        .on_path("/v1/billing/meter_events");
    world.stripe().script(lost).await.unwrap();
    world.count("acct", 4, hours_ago(2)).await;
    world.start_run().await;
    world
        .wait_until("the event", async || own_total(world).await == 9)
        .await;
    world.stop().await;
    world
        .execute_sql("UPDATE sending SET paused_at = 1, paused_why = 'foreign_mark'")
        .await;
    world.start_server().await;
    world.count("acct", 3, hours_ago(1)).await;
    world.stop().await;
}

/// The database is as before an adoption.
async fn assert_unchanged(world: &World) {
    for rows in [
        "sending WHERE adopted_at IS NULL AND paused_why = 'foreign_mark' AND stripe_account = 'acct_fake'",
        "usage_reports WHERE state = 'accepted' AND quantity = 5",
        "usage_reports WHERE state = 'sending' AND quantity = 4",
        "open_reports WHERE quantity = 3",
    ] {
        assert_eq!(world.count_rows(rows).await, 1, "{rows}");
    }
}

async fn an_adoption_that_fails_halfway_changes_nothing(mut world: World) {
    pause(&mut world).await;
    let other = other_account().await;
    use_key_of(&mut world, &other).await;
    world.stop().await;
    fail_ends_of_pauses(&world, true).await;
    let (failed, printed) = world.try_adopt(true).await;
    let why = failed.unwrap_err().to_string();
    assert!(why.contains("stopped"), "{why}");
    assert!(!printed.contains("Done"), "{printed}");
    assert_unchanged(&world).await;
    assert_eq!(audited(&world, "begun").await, 1);
    let failed =
        "action = 'AdoptStripeAccount' AND outcome = 'failed' AND message LIKE '%stopped%'";
    let failed = format!("audit_entries WHERE {failed}");
    assert_eq!(world.count_rows(&failed).await, 1);
    assert_eq!(audited(&world, "done").await, 0);
    fail_ends_of_pauses(&world, false).await;
    // It is simply run again.
    let (is_done, printed) = world.adopt(true).await;
    assert!(
        is_done && printed.contains("Sending is paused"),
        "{printed}"
    );
    assert_eq!(audited(&world, "done").await, 1);
    world.start_server().await;
    world.report_all().await;
    world.wait_until_sent("acct").await;
    assert_eq!((total(&other).await, own_total(&world).await), (3, 9));
    other.stop().await;
    world.finish().await;
}

async fn an_account_that_does_not_answer_is_not_adopted(mut world: World) {
    pause(&mut world).await;
    // It has none of the meters.
    let empty = FakeStripe::start(Settings {
        account_id: "acct_empty".to_owned(),
        ..Settings::default()
    });
    let empty = empty.await.unwrap();
    use_key_of(&mut world, &empty).await;
    world.stop().await;
    let (refused, _) = world.try_adopt(true).await;
    let why = refused.unwrap_err().to_string();
    assert!(why.contains("usage-server stripe setup"), "{why}");
    let other = other_account().await;
    let silent = Fault::status(500).always().on_path("/v1/billing/meters");
    other.control().script(silent).await.unwrap();
    use_key_of(&mut world, &other).await;
    world.stop().await;
    let (refused, printed) = world.try_adopt(true).await;
    assert!(matches!(refused, Err(OfflineError::Failed(_))), "{printed}");
    assert_unchanged(&world).await;
    // Nothing was begun.
    assert_eq!(audited(&world, "begun").await, 0);
    other.stop().await;
    empty.stop().await;
    world.finish().await;
}

async fn nothing_is_adopted_beside_a_running_server(mut world: World) {
    report_first(&world).await;
    let other = other_account().await;
    use_key_of(&mut world, &other).await;
    let (refused, _) = world.try_adopt(true).await;
    let why = refused.unwrap_err().to_string();
    let says = match world.engine {
        Engine::Sqlite => "another usage-server uses this SQLite file",
        Engine::Postgres => "stop every server first",
    };
    assert!(why.contains(says), "{why}");
    let kept = "sending WHERE adopted_at IS NULL AND stripe_account = 'acct_fake'";
    assert_eq!(world.count_rows(kept).await, 1);
    other.stop().await;
    world.finish().await;
}
