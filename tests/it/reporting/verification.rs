//! Verification: Stripe's totals decide whether each report arrived. A missing report is shown to the admin, and never
//! sent again automatically.

use chrono::{DateTime, TimeDelta, Timelike as _, Utc};
use fake_stripe::Fault;
use usage_client::{Correct, PutAccount, ReportState};

use crate::support::world::{Engine, TIMEOUT, World, hours_ago, on_both_engines};

const EVENTS: &str = "/v1/billing/meter_events";
const METERS: &str = "/v1/billing/meters/";

on_both_engines!(
    one_read_confirms_the_reports_of_all_days,
    only_lost_reports_are_missing_after_a_day,
    a_missing_report_that_appears_later_is_confirmed,
    reports_that_stripe_shows_late_are_not_missing_meanwhile,
    excess_usage_at_stripe_does_not_affect_other_reports,
    a_refused_summary_request_changes_nothing,
    a_verification_that_a_stop_ended_continues_with_the_next_customer,
    a_day_with_too_many_events_delays_no_other_day,
);

/// The time at which these tests begin, on the clocks of the server and of the fake Stripe. It is always after noon,
/// because verification compares UTC days.
fn start() -> DateTime<Utc> {
    let ago = hours_ago(24 * 6);
    ago - TimeDelta::hours(ago.hour().into()) + TimeDelta::minutes(12 * 60 + 30)
}

/// A frozen world with a linked account.
async fn begin(world: &mut World) {
    world
        .stripe()
        .create_subscribed_customer("cus_acct")
        .await
        .unwrap();
    let link = PutAccount::stripe("acct", "cus_acct").bill_from(start() - TimeDelta::days(20));
    world.client().put_account(link).await.unwrap();
    world.freeze(start()).await;
    // Set the job's last run to the start of these tests.
    world.set_last_run("verification", start()).await;
}

/// Advances both clocks.
async fn advance_by(world: &World, time: TimeDelta) {
    let now = DateTime::from_timestamp_millis(world.clock.now()).unwrap() + time;
    world.move_clocks(now).await;
}

async fn state_of(world: &World, quantity: i64) -> ReportState {
    let reports = world.reports("acct").await;
    let report = reports.iter().find(|report| report.quantity == quantity);
    report.expect("a report").state
}

async fn wait_until_state(world: &World, quantity: i64, state: ReportState) {
    let what = format!("the report of {quantity} to be {state:?}");
    world
        .wait_until(&what, async || state_of(world, quantity).await == state)
        .await;
}

/// The number of requests for totals.
async fn reads(world: &World) -> usize {
    let requests = world.stripe().requests().await.unwrap();
    let is_read = |path: &str| path.starts_with(METERS) && path.ends_with("event_summaries");
    requests.iter().filter(|one| is_read(&one.path)).count()
}

/// The number of verifications in a state.
async fn found(world: &World, state: &str) -> i64 {
    world
        .count_rows(&format!("verifications WHERE finding = '{state}'"))
        .await
}

async fn one_read_confirms_the_reports_of_all_days(mut world: World) {
    begin(&mut world).await;
    for days in 1..5 {
        for hour in 0..3 {
            let used = start() - TimeDelta::days(days) - TimeDelta::hours(hour);
            world.count("acct", 10 * days + hour, used).await;
        }
    }
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    advance_by(&world, TimeDelta::minutes(61)).await;
    world
        .wait_until_reports_are("acct", &[ReportState::Confirmed])
        .await;
    let reports = world.reports("acct").await;
    assert!(
        reports
            .iter()
            .all(|report| report.confirmed_at.is_some() && report.reported)
    );
    assert_eq!(reads(&world).await, 1);
    // Confirmed days are not read again.
    world
        .count("acct", 7, start() + TimeDelta::minutes(1))
        .await;
    world.report_all().await;
    advance_by(&world, TimeDelta::minutes(61)).await;
    wait_until_state(&world, 7, ReportState::Confirmed).await;
    assert_eq!(reads(&world).await, 2);
    world.finish().await;
}

async fn only_lost_reports_are_missing_after_a_day(mut world: World) {
    begin(&mut world).await;
    let used = start() - TimeDelta::hours(26);
    world.count("acct", 5, used).await;
    world.report_all().await;
    world
        .stripe()
        .script(Fault::lose().on_path(EVENTS))
        .await
        .unwrap();
    world.count("acct", 7, used + TimeDelta::minutes(1)).await;
    world.report_all().await;
    world.count("acct", 11, used + TimeDelta::hours(1)).await;
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    advance_by(&world, TimeDelta::minutes(61)).await;
    world
        .wait_until("a first verification", || async {
            found(&world, "behind").await == 1
        })
        .await;
    assert_eq!(state_of(&world, 7).await, ReportState::Accepted);
    advance_by(&world, TimeDelta::hours(24)).await;
    wait_until_state(&world, 7, ReportState::Missing).await;
    wait_until_state(&world, 5, ReportState::Confirmed).await;
    wait_until_state(&world, 11, ReportState::Confirmed).await;
    assert_eq!(
        world.attempts_for("cus_acct").await.len(),
        3,
        "nothing is sent again"
    );
    assert_eq!(world.usage("acct").await, (23, 16, 7, 0));
    world.finish().await;
}

async fn a_missing_report_that_appears_later_is_confirmed(mut world: World) {
    begin(&mut world).await;
    let late = std::time::Duration::from_hours(60);
    world.stripe().set_summary_delay(late).await.unwrap();
    world.count("acct", 5, start() - TimeDelta::hours(3)).await;
    world.report_all().await;
    advance_by(&world, TimeDelta::hours(25)).await;
    wait_until_state(&world, 5, ReportState::Missing).await;
    // Sixty hours after acceptance, Stripe's totals include it.
    advance_by(&world, TimeDelta::hours(36)).await;
    wait_until_state(&world, 5, ReportState::Confirmed).await;
    assert_eq!(world.attempts_for("cus_acct").await.len(), 1);
    assert_eq!(world.usage("acct").await, (5, 5, 0, 0));
    world.finish().await;
}

async fn reports_that_stripe_shows_late_are_not_missing_meanwhile(mut world: World) {
    begin(&mut world).await;
    let late = std::time::Duration::from_hours(5);
    world.stripe().set_summary_delay(late).await.unwrap();
    world.count("acct", 50, start() - TimeDelta::hours(3)).await;
    world.report_all().await;
    let take = Correct::new("acct", -8, "too much").timestamp(start() - TimeDelta::hours(2));
    world.client().correct(take).await.unwrap();
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    for _ in 0..4 {
        advance_by(&world, TimeDelta::minutes(61)).await;
    }
    world
        .wait_until("a verification", || async {
            found(&world, "behind").await == 1
        })
        .await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    advance_by(&world, TimeDelta::minutes(61)).await;
    world
        .wait_until_reports_are("acct", &[ReportState::Confirmed])
        .await;
    assert_eq!(found(&world, "equal").await, 1);
    world.finish().await;
}

/// Sends an event to the fake Stripe without the service.
async fn send_unknown_event(world: &World, value: i64, at: DateTime<Utc>) {
    let form = [
        ("event_name", "api_calls"),
        ("payload[stripe_customer_id]", "cus_acct"),
        ("payload[value]", &value.to_string()),
        ("timestamp", &at.timestamp().to_string()),
        ("identifier", &format!("unknown-{value}")),
    ];
    world.call_stripe("POST", EVENTS, &form).await;
}

async fn excess_usage_at_stripe_does_not_affect_other_reports(mut world: World) {
    begin(&mut world).await;
    let used = start() - TimeDelta::hours(3);
    world.count("acct", 5, used).await;
    world.count("acct", 6, used - TimeDelta::hours(1)).await;
    world.report_all().await;
    let stamp = world.meter_events("cus_acct").await[1].timestamp;
    let stamp = DateTime::from_timestamp(stamp, 0).unwrap();
    send_unknown_event(&world, 100, stamp).await;
    advance_by(&world, TimeDelta::minutes(61)).await;
    wait_until_state(&world, 6, ReportState::Confirmed).await;
    world
        .wait_until("over", || async { found(&world, "over").await == 1 })
        .await;
    assert_eq!(
        state_of(&world, 5).await,
        ReportState::Accepted,
        "its minute is not right"
    );
    advance_by(&world, TimeDelta::hours(25)).await;
    let total = reads(&world).await;
    advance_by(&world, TimeDelta::minutes(61)).await;
    world
        .wait_until("another verification", || async {
            reads(&world).await > total
        })
        .await;
    assert_eq!(
        state_of(&world, 5).await,
        ReportState::Accepted,
        "no report is missing"
    );
    assert_eq!(world.attempts_for("cus_acct").await.len(), 3);
    assert_eq!(found(&world, "over").await, 1);
    world.finish().await;
}

async fn a_refused_summary_request_changes_nothing(mut world: World) {
    begin(&mut world).await;
    world.count("acct", 5, start() - TimeDelta::hours(3)).await;
    world.report_all().await;
    let broken = Fault::status(500).on_path(METERS).always();
    world.stripe().script(broken).await.unwrap();
    let before = world.stripe().stats().await.unwrap().faults_met;
    advance_by(&world, TimeDelta::minutes(61)).await;
    world
        .wait_until("a fault", || async {
            world.stripe().stats().await.unwrap().faults_met > before
        })
        .await;
    assert_eq!(state_of(&world, 5).await, ReportState::Accepted);
    world.stripe().clear_faults().await.unwrap();
    // A run to which Stripe answered nothing is none, so it is repeated before the next hour.
    wait_until_state(&world, 5, ReportState::Confirmed).await;
    world.finish().await;
}

async fn a_verification_that_a_stop_ended_continues_with_the_next_customer(mut world: World) {
    begin(&mut world).await;
    let used = start() - TimeDelta::hours(2);
    for name in ["a", "b", "c"] {
        let customer = format!("cus_{name}");
        world
            .stripe()
            .create_subscribed_customer(&customer)
            .await
            .unwrap();
        let link = PutAccount::stripe(name, &customer).bill_from(start() - TimeDelta::days(20));
        world.client().put_account(link).await.unwrap();
        world.count(name, 5, used).await;
    }
    // Without its event, the first customer is read again in every run.
    let lost = Fault::lose().on_path(EVENTS).on_customer("cus_a");
    world.stripe().script(lost).await.unwrap();
    world.report_all().await;
    let gate = Fault::block_until_released("gate")
        .on_path(METERS)
        .on_customer("cus_b");
    world.stripe().script(gate).await.unwrap();
    advance_by(&world, TimeDelta::hours(1)).await;
    let blocked = world.stripe().wait_for_blocked("gate", 1, TIMEOUT).await;
    blocked.unwrap();
    world.stop().await;
    world.stripe().clear_faults().await.unwrap();
    let before = read_customers(&world).await.len();
    world.start_server().await;
    advance_by(&world, TimeDelta::hours(1)).await;
    world
        .wait_until("the next run", async || {
            read_customers(&world).await.len() >= before + 2
        })
        .await;
    let next = &read_customers(&world).await[before..][..2];
    assert_eq!(next, ["cus_b", "cus_c"], "before the first one again");
    advance_by(&world, TimeDelta::hours(1)).await;
    world
        .wait_until("the first customer again", async || {
            let read = read_customers(&world).await;
            read[before + 2..].contains(&"cus_a".to_owned())
        })
        .await;
    world.finish().await;
}

/// The customers whose totals were requested, in order.
async fn read_customers(world: &World) -> Vec<String> {
    let requests = world.stripe().requests().await.unwrap();
    let reads = requests
        .into_iter()
        .filter(|one| one.path.starts_with(METERS) && one.path.ends_with("event_summaries"));
    reads.filter_map(|one| one.customer).collect()
}

/// Inserts as many reports as one query reads, whose events are on one day.
async fn insert_a_full_day(world: &World, day: DateTime<Utc>) {
    const REPORTS: i64 = 20_000;
    let id = match world.engine {
        Engine::Sqlite => "randomblob(16)",
        Engine::Postgres => "gen_random_uuid()",
    };
    let at = format!("({} + i * 4000)", day.timestamp_millis());
    let last = REPORTS - 1;
    world
        .execute_sql(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {last}) \
             INSERT INTO usage_reports (account_id, id, meter, quantity, customer, first_at, last_at, closed_at, \
             window_start, window_end, period_end, state, event_timestamp, first_sent_at, reported_at) \
             SELECT 'acct', {id}, 'api_calls', 1, 'cus_acct', {at}, {at}, {at}, {at}, {at} + 4000, {at} + 4000, \
             'accepted', {at}, {at}, {at} FROM n"
        ))
        .await;
    let commit = format!(
        "INSERT INTO commits VALUES ({id}, 1, {REPORTS}, {})",
        day.timestamp_millis()
    );
    world.execute_sql(&commit).await;
}

async fn a_day_with_too_many_events_delays_no_other_day(mut world: World) {
    begin(&mut world).await;
    let noon = start() - TimeDelta::days(3);
    let midnight = noon - TimeDelta::minutes(12 * 60 + 30);
    insert_a_full_day(&world, midnight).await;
    world.count("acct", 5, start() - TimeDelta::hours(26)).await;
    world.report_all().await;
    advance_by(&world, TimeDelta::minutes(61)).await;
    let confirmed = "usage_reports WHERE quantity = 5 AND state = 'confirmed'";
    world
        .wait_until("the other day", async || {
            world.count_rows(confirmed).await == 1
        })
        .await;
    world.finish().await;
}
