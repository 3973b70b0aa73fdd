//! Deletions that were begun and have not ended: the process died between the two steps, or the second one failed.

use chrono::TimeDelta;
use usage_client::{Batch, Increment, IncrementResult, PutAccount, Reason};
use usage_server::commands::doctor::Severity;

use super::{assert_reason, delete, finished, preview};
use crate::support::world::{Engine, World, hours_ago, on_both_engines};

on_both_engines!(
    a_deletion_that_failed_in_between_is_continued,
    doctor_names_a_deletion_that_has_not_ended,
);

/// Lets every deletion fail at its last statement, or no longer.
pub(crate) async fn fail_deletions(world: &World, fails: bool) {
    let sql = match (world.engine, fails) {
        (Engine::Sqlite, true) => {
            "CREATE TRIGGER stop BEFORE UPDATE ON deleted_accounts BEGIN SELECT RAISE(ABORT, 'stopped'); END"
        }
        (Engine::Sqlite, false) => "DROP TRIGGER stop",
        (Engine::Postgres, true) => {
            "ALTER TABLE deleted_accounts ADD CONSTRAINT stop CHECK (anonymised_at IS NULL) NOT VALID"
        }
        (Engine::Postgres, false) => "ALTER TABLE deleted_accounts DROP CONSTRAINT stop",
    };
    world.execute_sql(sql).await;
}

async fn a_deletion_that_failed_in_between_is_continued(mut world: World) {
    finished(&world, "acct", 5).await;
    fail_deletions(&world, true).await;
    delete(&world.client(), "acct").await.unwrap_err();
    // Its rows are as they were, and nothing is added to them.
    assert_eq!(world.usage("acct").await, (5, 0, 0, 5));
    let begun = preview(&world, "acct").await;
    assert!(begun.deleted_at.is_some() && !begun.duplicate, "{begun:?}");
    world.restart().await;
    let client = world.client();
    let one = client.increment(Increment::new("acct")).await;
    assert_reason(one, &Reason::AccountDeleted);
    let put = client.put_account(PutAccount::free("acct")).await;
    assert_reason(put, &Reason::AccountDeleted);
    fail_deletions(&world, false).await;
    let done = delete(&client, "acct").await.unwrap();
    assert_eq!(done.deleted_at, begun.deleted_at);
    assert_eq!(world.usage("acct").await.0, 0);
    assert_eq!(world.usage(&done.token.unwrap()).await.0, 5);
    world.finish().await;
}

async fn doctor_names_a_deletion_that_has_not_ended(mut world: World) {
    world.freeze(hours_ago(0)).await;
    finished(&world, "acct", 5).await;
    finished(&world, "done", 5).await;
    delete(&world.client(), "done").await.unwrap();
    fail_deletions(&world, true).await;
    delete(&world.client(), "acct").await.unwrap_err();
    // It may still be at work.
    let (severity, line) = world.doctor_says(None, "deletions").await;
    assert_eq!(severity, Severity::Ok, "{line}");
    // Others count beside an account whose usage is refused.
    let both = Batch::new().push("acct").push("other").without_key();
    let outcome = world.client().increment_batch(both).await.unwrap();
    let [refused, counted] = &outcome.results[..] else {
        panic!("{outcome:?}")
    };
    assert!(matches!(refused, IncrementResult::Refused { .. }));
    assert_eq!(*counted, IncrementResult::Counted);
    world.stop().await;
    world.move_clocks(world.now() + TimeDelta::hours(2)).await;
    world.start_server().await;
    let (severity, line) = world.doctor_says(None, "deletions").await;
    assert_eq!(severity, Severity::Bad, "{line}");
    for part in [
        "1 deletions",
        ": acct (since ",
        "usagectl accounts delete acct",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    fail_deletions(&world, false).await;
    delete(&world.client(), "acct").await.unwrap();
    let (severity, line) = world.doctor_says(None, "deletions").await;
    assert_eq!(severity, Severity::Ok, "{line}");
    world.finish().await;
}
