//! Restoring a backup: nothing is billed twice, however old the backup is, and also if callers repeat their usage.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use fake_stripe::Fault;
use usage_client::{
    ForceReport, Increment, PutAccount, ReportKind, ReportState,
    proto::{KeyRole, RevokeKeyRequest},
};
use usage_server::commands::doctor::Severity;

use crate::operations::access::{access, client, create, first_admin, new_key};
use crate::support::world::{Backup, Engine, World, hours_ago, on_both_engines};

const EVENTS: &str = "/v1/billing/meter_events";
const ACCOUNTS: [&str; 5] = ["grown", "waiting", "same", "unsent", "later"];

on_both_engines!(
    a_restore_at_once_bills_nothing_twice,
    a_restore_after_1_hour_bills_nothing_twice,
    a_restore_after_25_hours_bills_nothing_twice,
    a_restore_after_40_hours_bills_nothing_twice,
    usage_of_a_week_after_the_backup_is_not_billed_twice,
    a_restored_database_pauses_when_stripe_knows_what_it_has_not_sent,
    sending_stays_paused_until_a_restore_is_confirmed,
    a_dry_run_changes_nothing,
    an_account_that_was_linked_after_the_backup_is_not_billed_twice,
    a_restore_beside_a_running_server_is_refused,
    a_restore_without_marks_asks_for_the_time_of_the_backup,
    keys_that_a_backup_makes_valid_again_are_named,
    a_backup_from_before_the_first_key_is_told,
);

fn backup_at() -> DateTime<Utc> {
    hours_ago(60) + TimeDelta::minutes(30)
}

async fn count(world: &World, account: &str, key: &str, quantity: i64, minutes: i64) {
    let at = backup_at() + TimeDelta::minutes(minutes);
    let increment = Increment::new(account)
        .quantity(quantity)
        .key(format!("{account}-{key}"))
        .timestamp(at);
    world.client().increment(increment).await.expect("counted");
}

async fn link(world: &World, account: &str) {
    let customer = format!("cus_{account}");
    let from = backup_at() - TimeDelta::days(2);
    let link = PutAccount::stripe(account, customer).bill_from(from);
    world.client().put_account(link).await.expect("a link");
}

/// Requests with meter events of an account fail.
async fn fail(world: &World, account: &str) {
    let fault = Fault::drop_connection().always().on_path(EVENTS);
    let fault = fault.on_customer(&format!("cus_{account}"));
    world.stripe().script(fault).await.unwrap();
}

/// Usage that callers repeat after the restore: what was counted after the backup.
async fn count_after_the_backup(world: &World) {
    count(world, "grown", "b", 7, -5).await;
    count(world, "later", "c", 6, 1).await;
}

async fn count_before_the_failure(world: &World) {
    count(world, "grown", "d", 100, 6).await;
    count(world, "later", "e", 50, 6).await;
}

/// A backup with open, waiting and unsent reports. After it, all but one were sent, one of them with more usage; some
/// more usage was acknowledged and not sent. Then the backup is put back, some hours later.
async fn put_back_after(world: &mut World, hours: i64) -> Backup {
    world.freeze(backup_at()).await;
    for account in ACCOUNTS {
        let customer = format!("cus_{account}");
        world
            .stripe()
            .create_subscribed_customer(&customer)
            .await
            .unwrap();
        link(world, account).await;
    }
    count(world, "grown", "a", 10, -10).await;
    count(world, "waiting", "a", 4, -10).await;
    count(world, "same", "a", 3, -10).await;
    count(world, "unsent", "a", 5, -10).await;
    fail(world, "waiting").await;
    let only = ForceReport::accounts(["waiting"]);
    drop(world.client().force_report(only).await.unwrap());
    world
        .wait_until_reports_are("waiting", &[ReportState::Sending])
        .await;
    let backup = world.back_up().await;
    world.stripe().clear_faults().await.unwrap();
    fail(world, "unsent").await;
    world.move_clocks(backup_at() + TimeDelta::minutes(5)).await;
    count_after_the_backup(world).await;
    world.start_run().await;
    for account in ["grown", "waiting", "same", "later"] {
        let sent = [ReportState::Accepted, ReportState::Confirmed];
        world.wait_until_reports_are(account, &sent).await;
    }
    count_before_the_failure(world).await;
    world.put_back(&backup).await;
    world.stripe().clear_faults().await.unwrap();
    let now = backup_at() + TimeDelta::hours(hours) + TimeDelta::minutes(10);
    world.move_clocks(now).await;
    backup
}

async fn totals(world: &World) -> [i64; 5] {
    let mut totals = [0; 5];
    for (total, account) in totals.iter_mut().zip(ACCOUNTS) {
        *total = world
            .stripe_total(&format!("cus_{account}"), "api_calls")
            .await;
    }
    totals
}

async fn counted(world: &World) -> [i64; 5] {
    let mut totals = [0; 5];
    for (total, account) in totals.iter_mut().zip(ACCOUNTS) {
        *total = world.usage(account).await.0;
    }
    totals
}

/// Lets hours pass, with a run in each, until Stripe has everything.
async fn report_until(world: &World, expected: [i64; 5]) {
    let mut now = DateTime::from_timestamp_millis(world.clock.now()).unwrap();
    for _ in 0..4 {
        world.report_all().await;
        now += TimeDelta::minutes(61);
        world.move_clocks(now).await;
        world.wait_until_all_sent().await;
    }
    assert_eq!(totals(world).await, expected, "at Stripe");
    assert_eq!(counted(world).await, expected, "counted");
}

/// Runs the command with the time of the backup.
async fn restore(world: &World, yes: bool, dry_run: bool) -> (bool, String) {
    world.restore(Some(backup_at()), (yes, dry_run)).await
}

async fn restored_after(mut world: World, hours: i64) {
    put_back_after(&mut world, hours).await;
    assert_eq!(totals(&world).await, [17, 4, 3, 0, 6]);
    let (is_done, printed) = restore(&world, true, false).await;
    assert!(is_done, "{printed}");
    for part in [
        "13 units that the database lacks",
        "1 reports with 5 units",
        "spool",
        "import",
    ] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
    world.start_server().await;
    // What Stripe has is shown; what was neither sent nor in the backup is lost.
    assert_eq!(counted(&world).await, [17, 4, 3, 5, 6]);
    let now = (world.clock.now() - backup_at().timestamp_millis()) / 60_000;
    count(&world, "grown", "new", 1, now).await;
    report_until(&world, [18, 4, 3, 5, 6]).await;
    // Run again, it finds nothing.
    world.stop().await;
    let (_, printed) = restore(&world, true, false).await;
    assert!(printed.contains("Stripe has nothing"), "{printed}");
    world.start_server().await;
    // Callers repeat everything from the backup on, with their keys.
    let now = DateTime::from_timestamp_millis(world.clock.now()).unwrap();
    world.move_clocks(now + TimeDelta::minutes(1)).await;
    count_after_the_backup(&world).await;
    count_before_the_failure(&world).await;
    report_until(&world, [118, 4, 3, 5, 56]).await;
    world.finish().await;
}

async fn a_restore_at_once_bills_nothing_twice(world: World) {
    restored_after(world, 0).await;
}

async fn a_restore_after_1_hour_bills_nothing_twice(world: World) {
    restored_after(world, 1).await;
}

async fn a_restore_after_25_hours_bills_nothing_twice(world: World) {
    restored_after(world, 25).await;
}

async fn a_restore_after_40_hours_bills_nothing_twice(world: World) {
    restored_after(world, 40).await;
}

async fn usage_of_a_week_after_the_backup_is_not_billed_twice(mut world: World) {
    world.freeze(backup_at()).await;
    world
        .stripe()
        .create_subscribed_customer("cus_later")
        .await
        .unwrap();
    link(&world, "later").await;
    count(&world, "later", "a", 1, -10).await;
    world.report_all().await;
    let backup = world.back_up().await;
    let week = TimeDelta::days(7);
    world.move_clocks(backup_at() + week).await;
    count(&world, "later", "b", 6, week.num_minutes() - 90).await;
    world.report_all().await;
    assert_eq!(world.stripe_total("cus_later", "api_calls").await, 7);
    world.put_back(&backup).await;
    let (is_done, printed) = restore(&world, true, false).await;
    assert!(is_done, "{printed}");
    let found = "6 units that the database lacks";
    assert!(printed.contains(found), "{printed}");
    world.start_server().await;
    count(&world, "later", "b", 6, week.num_minutes() - 90).await;
    world.report_all().await;
    // Until the repeated usage is looked up, it is shown beside what was entered for it.
    let at_stripe = [ReportState::Accepted, ReportState::Confirmed];
    world.wait_until_reports_are("later", &at_stripe).await;
    assert_eq!(world.stripe_total("cus_later", "api_calls").await, 7);
    assert_eq!(world.usage("later").await.0, 7);
    world.finish().await;
}

async fn a_restored_database_pauses_when_stripe_knows_what_it_has_not_sent(mut world: World) {
    put_back_after(&mut world, 1).await;
    // The server is started without the command.
    let (severity, totals_line) = world.doctor_says(None, "totals").await;
    assert_eq!(severity, Severity::Bad, "{totals_line}");
    assert!(
        totals_line.contains("usage-server restore"),
        "{totals_line}"
    );
    // The key may not read the marks that databases leave at products, which would be found first.
    let no_marks = Fault::status(403).on_path("/v1/prices").always();
    world.stripe().script(no_marks).await.unwrap();
    world.start_server().await;
    world.report_all().await;
    let grown = world.reports("grown").await.remove(0);
    assert_eq!(grown.state, ReportState::Unknown, "{grown:?}");
    let (severity, line) = world.doctor_says(None, "sending").await;
    assert_eq!(severity, Severity::Bad);
    assert!(line.contains("usage-server restore"), "{line}");
    let [grown, waiting, same, _, later] = totals(&world).await;
    assert_eq!((grown, waiting, same, later), (17, 4, 3, 6));
    world.stop().await;
    // The server has changed the database since the backup was made.
    let stated = Some(backup_at().timestamp_millis());
    let mut printed = Vec::new();
    let done = world.try_restore(true, false, stated, &mut printed).await;
    assert!(done.unwrap(), "{}", String::from_utf8_lossy(&printed));
    world.start_server().await;
    report_until(&world, [17, 4, 3, 5, 6]).await;
    assert_eq!(world.doctor_says(None, "sending").await.0, Severity::Ok);
    assert_eq!(world.doctor_says(None, "totals").await.0, Severity::Ok);
    world.finish().await;
}

async fn sending_stays_paused_until_a_restore_is_confirmed(mut world: World) {
    put_back_after(&mut world, 25).await;
    // There is no terminal to confirm at.
    let (is_done, printed) = restore(&world, false, false).await;
    assert!(
        !is_done && printed.contains("Sending stays paused"),
        "{printed}"
    );
    let audited = async |outcome: &str, message: &str| {
        let rows = format!("action = 'Restore' AND outcome = '{outcome}' AND {message}");
        world
            .count_rows(&format!("audit_entries WHERE {rows}"))
            .await
    };
    assert_eq!(audited("begun", "message IS NULL").await, 1);
    let why = "message = 'it is not confirmed'";
    assert_eq!(audited("failed", why).await, 1);
    assert_eq!(audited("done", "message IS NULL").await, 0);
    world.start_server().await;
    count(&world, "same", "new", 2, 25 * 60).await;
    world.report_all().await;
    let reports = world.reports("same").await;
    let error = reports[0].last_error.clone().unwrap_or_default();
    assert!(error.contains("usage-server restore"), "{reports:?}");
    assert_eq!(totals(&world).await, [17, 4, 3, 0, 6]);
    world.stop().await;
    // It goes on with the time that was stated.
    assert!(world.restore(None, (true, false)).await.0);
    world.start_server().await;
    report_until(&world, [17, 4, 5, 5, 6]).await;
    let entered = world.reports("grown").await;
    let entered = entered
        .iter()
        .find(|one| one.kind == ReportKind::AlreadySent);
    assert_eq!(entered.map(|one| one.quantity), Some(7));
    world.finish().await;
}

async fn a_dry_run_changes_nothing(mut world: World) {
    put_back_after(&mut world, 25).await;
    let (_, printed) = restore(&world, false, true).await;
    assert!(printed.contains("dry run"), "{printed}");
    assert_eq!(
        world
            .count_rows("usage_reports WHERE state = 'unknown'")
            .await,
        0
    );
    assert_eq!(
        world
            .count_rows("sending WHERE paused_at IS NULL AND restored_at IS NULL")
            .await,
        1
    );
    world.finish().await;
}

async fn an_account_that_was_linked_after_the_backup_is_not_billed_twice(mut world: World) {
    world.freeze(backup_at()).await;
    count(&world, "new", "a", 10, -10).await;
    let backup = world.back_up().await;
    world
        .stripe()
        .create_subscribed_customer("cus_new")
        .await
        .unwrap();
    link(&world, "new").await;
    count(&world, "new", "b", 2, -9).await;
    world.report_all().await;
    assert_eq!(world.stripe_total("cus_new", "api_calls").await, 12);
    world.put_back(&backup).await;
    world.move_clocks(backup_at() + TimeDelta::hours(40)).await;
    restore(&world, true, false).await;
    world.start_server().await;
    link(&world, "new").await;
    world.report_all().await;
    let confirmed = [ReportState::Confirmed];
    world.wait_until_reports_are("new", &confirmed).await;
    assert_eq!(world.stripe_total("cus_new", "api_calls").await, 12);
    world.finish().await;
}

async fn a_restore_beside_a_running_server_is_refused(world: World) {
    let refused = world.try_restore(true, false, None, &mut Vec::new()).await;
    let why = refused.unwrap_err().to_string();
    assert!(
        why.contains(match world.engine {
            Engine::Sqlite => "another usage-server uses this SQLite file",
            Engine::Postgres => "stop every server first",
        }),
        "{why}"
    );
    world.finish().await;
}

async fn a_restore_without_marks_asks_for_the_time_of_the_backup(mut world: World) {
    put_back_after(&mut world, 1).await;
    for dry_run in [true, false] {
        let mut printed = Vec::new();
        let refused = world.try_restore(!dry_run, dry_run, None, &mut printed);
        let why = refused.await.unwrap_err().to_string();
        assert!(why.contains("--backup-at"), "{why}");
        // The clock stands still until the backup is made.
        assert!(
            why.contains(&backup_at().to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            "{why}"
        );
    }
    assert_eq!(world.count_rows("sending WHERE paused_at IS NULL").await, 1);
    world.finish().await;
}

async fn keys_that_a_backup_makes_valid_again_are_named(mut world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut keys = access(&world, Some(&admin)).await;
    let leaked = create(&mut keys, new_key("leaked", KeyRole::Writer)).await;
    let backup = world.back_up().await;
    let mut keys = access(&world, Some(&admin)).await;
    let id = leaked.key.unwrap().id;
    keys.revoke_key(RevokeKeyRequest { id: id.clone() })
        .await
        .unwrap();
    world.put_back(&backup).await;
    let (_, printed) = world.restore(Some(world.now()), (true, false)).await;
    assert!(printed.contains("2 API keys are valid"), "{printed}");
    assert!(
        printed.contains(&format!("{id} writer \"leaked\"")),
        "{printed}"
    );
    // What was said is true.
    world.start_server().await;
    let client = client(world.endpoint(), &leaked.text).await;
    client.increment("acct").await.unwrap();
    world.finish().await;
}

async fn a_backup_from_before_the_first_key_is_told(mut world: World) {
    let backup = world.back_up().await;
    first_admin(&world).await;
    world.put_back(&backup).await;
    let (_, printed) = world.restore(Some(world.now()), (true, false)).await;
    assert!(printed.contains("has no API key"), "{printed}");
    world.start_server().await;
    world.finish().await;
}
