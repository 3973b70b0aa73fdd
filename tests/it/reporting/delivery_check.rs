//! Delivery checks: after a day without a response, the service checks whether an event arrived. It sends the event
//! again only if Stripe certainly does not have it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::Fault;
use usage_client::{PutAccount, ReportState, UsageReport};

use crate::support::world::{TIMEOUT, World, hours_ago, on_both_engines};

const EVENTS: &str = "/v1/billing/meter_events";

on_both_engines!(
    an_event_without_a_response_that_stripe_shows_is_accepted,
    an_event_without_a_response_is_not_sent_again_without_proof,
    an_event_proven_lost_is_sent_again_once,
    a_later_event_that_stripe_does_not_show_proves_nothing,
    a_later_event_sent_before_the_last_attempt_proves_nothing,
    an_event_lost_three_times_stays_unknown,
    reports_refused_for_days_are_never_unknown,
    an_event_too_old_to_retry_is_checked_and_not_rejected,
    usage_too_old_for_stripe_is_too_late,
    a_lost_event_that_grew_too_old_is_too_late,
);

/// The time at which these tests begin, on the clocks of the server and of the fake Stripe.
fn start() -> DateTime<Utc> {
    hours_ago(2) + TimeDelta::minutes(30)
}

fn hours(hours: i64) -> TimeDelta {
    TimeDelta::hours(hours)
}

/// Links an account to a new customer from so early on that all accepted usage is billable.
async fn link(world: &World, account: &str, customer: &str) {
    world
        .stripe()
        .create_subscribed_customer(customer)
        .await
        .unwrap();
    let link = PutAccount::stripe(account, customer).bill_from(hours_ago(34 * 24));
    world.client().put_account(link).await.unwrap();
}

/// A world with stopped clocks in which the first attempt to send 5 units failed.
async fn send_without_response(world: &mut World, fault: Fault) {
    link(world, "acct", "cus_acct").await;
    world.freeze(start()).await;
    world.count("acct", 5, hours_ago(5)).await;
    world.stripe().script(fault.on_path(EVENTS)).await.unwrap();
    let summary = world.report_all().await;
    assert_eq!(summary.retried_later.quantity, 5);
    assert_eq!(report(world, 5).await.state, ReportState::Sending);
}

/// The report with a quantity.
async fn report(world: &World, quantity: i64) -> UsageReport {
    let reports = world.reports("acct").await;
    reports
        .into_iter()
        .find(|report| report.quantity == quantity)
        .expect("a report")
}

async fn wait_until_error_says(world: &World, quantity: i64, state: ReportState, words: &str) {
    world
        .wait_until(words, || async {
            let report = report(world, quantity).await;
            report.state == state && report.last_error.is_some_and(|error| error.contains(words))
        })
        .await;
}

/// Counts another quantity of the same customer and meter, so old that it is sent without a run. A run would also retry
/// the lost report.
async fn count_another(world: &World, quantity: i64, now: DateTime<Utc>) {
    let used = now - TimeDelta::days(33) - hours(1);
    world.count("acct", quantity, used).await;
}

/// Counts another quantity, and waits until Stripe has accepted it.
async fn send_another(world: &World, quantity: i64, now: DateTime<Utc>) {
    count_another(world, quantity, now).await;
    world
        .wait_until("another event", || async {
            report(world, quantity).await.state == ReportState::Accepted
        })
        .await;
}

async fn an_event_without_a_response_that_stripe_shows_is_accepted(mut world: World) {
    send_without_response(&mut world, Fault::accept_then_drop()).await;
    world.move_clocks(start() + hours(23)).await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    assert_eq!(
        world.attempts_for("cus_acct").await.len(),
        1,
        "checked, not sent"
    );
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 5);
    assert_eq!(world.usage("acct").await, (5, 5, 0, 0));
    world.finish().await;
}

async fn an_event_without_a_response_is_not_sent_again_without_proof(mut world: World) {
    send_without_response(&mut world, Fault::drop_connection()).await;
    for days in 1..4 {
        world.move_clocks(start() + TimeDelta::days(days)).await;
        wait_until_error_says(&world, 5, ReportState::Unknown, "no later event").await;
        world.report_all().await;
    }
    assert_eq!(world.attempts_for("cus_acct").await.len(), 1);
    assert_eq!(world.usage("acct").await, (5, 0, 5, 0));
    world.finish().await;
}

async fn an_event_proven_lost_is_sent_again_once(mut world: World) {
    send_without_response(&mut world, Fault::drop_connection()).await;
    world.move_clocks(start() + hours(23)).await;
    wait_until_error_says(&world, 5, ReportState::Unknown, "no later event").await;
    send_another(&world, 7, start() + hours(23)).await;
    // The next check is an hour later, or in a forced run.
    world.move_clocks(start() + hours(25)).await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted, ReportState::Confirmed])
        .await;
    let anew = report(&world, 5).await;
    assert!(anew.identifier.ends_with("_1"), "{}", anew.identifier);
    let mut values: Vec<_> = world
        .meter_events("cus_acct")
        .await
        .iter()
        .map(|event| event.value)
        .collect();
    values.sort_unstable();
    assert_eq!(values, [5, 7]);
    let attempts = world.attempts_for("cus_acct").await;
    let identifiers: Vec<_> = attempts
        .iter()
        .map(|call| call.identifier.as_deref().unwrap())
        .collect();
    let first = anew.identifier.strip_suffix("_1").unwrap();
    assert_eq!(
        (identifiers.len(), identifiers[0], identifiers[2]),
        (3, first, &*anew.identifier)
    );
    world.finish().await;
}

async fn a_later_event_that_stripe_does_not_show_proves_nothing(mut world: World) {
    world
        .stripe()
        .set_summary_delay(Duration::from_hours(30))
        .await
        .unwrap();
    send_without_response(&mut world, Fault::accept_then_drop()).await;
    world.move_clocks(start() + hours(23)).await;
    wait_until_error_says(&world, 5, ReportState::Unknown, "no later event").await;
    send_another(&world, 7, start() + hours(23)).await;
    world.move_clocks(start() + hours(25)).await;
    wait_until_error_says(&world, 5, ReportState::Unknown, "behind").await;
    world.move_clocks(start() + hours(31)).await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    assert_eq!(world.attempts_for("cus_acct").await.len(), 2);
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 12);
    world.finish().await;
}

async fn a_later_event_sent_before_the_last_attempt_proves_nothing(mut world: World) {
    send_without_response(&mut world, Fault::drop_connection()).await;
    // An hour later, the 5 are lost again. Then the 7 arrive, but the response is lost.
    for fault in [Fault::drop_connection(), Fault::accept_then_drop()] {
        world.stripe().script(fault.on_path(EVENTS)).await.unwrap();
    }
    world.move_clocks(start() + hours(1)).await;
    world
        .wait_until("losing it again", || async {
            report(&world, 5).await.attempts == 2
        })
        .await;
    count_another(&world, 7, start() + hours(1)).await;
    world
        .wait_until("an attempt", || async {
            report(&world, 7).await.last_error.is_some()
        })
        .await;
    // The last attempt of the 5 starts before the 7 are known to have arrived, and ends after that.
    let gate = Fault::drop_connection()
        .blocked_until_released("gate")
        .on_path(EVENTS);
    world.stripe().script(gate).await.unwrap();
    world.move_clocks(start() + hours(2)).await;
    world
        .stripe()
        .wait_for_blocked("gate", 1, TIMEOUT)
        .await
        .unwrap();
    world.move_clocks(start() + hours(3)).await;
    world.stripe().release("gate").await.unwrap();
    world
        .wait_until("the other", || async { report(&world, 7).await.reported })
        .await;
    let (lost, other) = (report(&world, 5).await, report(&world, 7).await);
    assert_eq!(lost.state, ReportState::Sending);
    assert!(
        other.reported_at.unwrap() > start() + hours(2),
        "its answer came after"
    );
    assert!(
        other.first_sent_at.unwrap() < start() + hours(2),
        "it was sent before"
    );
    world.move_clocks(start() + hours(26)).await;
    wait_until_error_says(&world, 5, ReportState::Unknown, "no later event").await;
    world.finish().await;
}

async fn an_event_lost_three_times_stays_unknown(mut world: World) {
    send_without_response(&mut world, Fault::drop_connection()).await;
    let lost = report(&world, 5).await.last_error;
    assert!(lost.is_some(), "the attempt failed");
    for round in 1..=3 {
        let now = start() + hours(48 * round);
        world.move_clocks(now).await;
        wait_until_error_says(&world, 5, ReportState::Unknown, "not found").await;
        send_another(&world, 7 + round, now).await;
        if round < 3 {
            world
                .stripe()
                .script(Fault::drop_connection().on_path(EVENTS))
                .await
                .unwrap();
            world.move_clocks(now + hours(2)).await;
            let name = format!("_{round}");
            world
                .wait_until("another attempt", || async {
                    let report = report(&world, 5).await;
                    report.identifier.ends_with(&name)
                        && report.state == ReportState::Sending
                        && report.last_error == lost
                })
                .await;
        }
    }
    world.move_clocks(start() + hours(48 * 3 + 2)).await;
    wait_until_error_says(
        &world,
        5,
        ReportState::Unknown,
        "maximum number of new identifiers",
    )
    .await;
    assert_eq!(world.usage("acct").await.2, 5);
    assert_eq!(
        world.stripe_total("cus_acct", "api_calls").await,
        8 + 9 + 10
    );
    world.finish().await;
}

async fn reports_refused_for_days_are_never_unknown(mut world: World) {
    const DAYS: i64 = 2;
    let no_meter = Fault::status(400).with_error("no_meter", "No active meter found.");
    for (quantity, fault) in [
        (5, Fault::status(401)),
        (6, Fault::status(403)),
        (7, no_meter),
    ] {
        world
            .stripe()
            .script(fault.on_customer(&format!("cus_{quantity}")).always())
            .await
            .unwrap();
        link(
            &world,
            &format!("acct-{quantity}"),
            &format!("cus_{quantity}"),
        )
        .await;
    }
    world.freeze(start()).await;
    for day in 0..DAYS {
        world.move_clocks(start() + TimeDelta::days(day)).await;
        for quantity in 5..8 {
            world
                .count(&format!("acct-{quantity}"), quantity, hours_ago(5))
                .await;
        }
        world.report_all().await;
    }
    world.stripe().clear_faults().await.unwrap();
    world.report_all().await;
    for quantity in 5..8 {
        let account = format!("acct-{quantity}");
        assert_eq!(
            world.usage(&account).await,
            (DAYS * quantity, DAYS * quantity, 0, 0)
        );
        let reports = world.reports(&account).await;
        assert!(
            reports
                .iter()
                .all(|report| !report.identifier.ends_with("_1"))
        );
        assert_eq!(
            world.meter_events(&format!("cus_{quantity}")).await.len(),
            2
        );
    }
    world.finish().await;
}

async fn an_event_too_old_to_retry_is_checked_and_not_rejected(mut world: World) {
    world.freeze(start()).await;
    let used = hours_ago(33 * 24);
    world.count("acct", 5, used).await;
    world.report_all().await;
    // Linked just before the event becomes too old, so that the retry is after that time.
    world
        .stripe()
        .create_subscribed_customer("cus_acct")
        .await
        .unwrap();
    world
        .stripe()
        .script(Fault::accept_then_drop().on_path(EVENTS))
        .await
        .unwrap();
    world.move_clocks(used + hours(35 * 24 - 1)).await;
    let link = PutAccount::stripe("acct", "cus_acct").bill_from(used);
    world.client().put_account(link).await.unwrap();
    world
        .wait_until("an attempt", || async {
            report(&world, 5).await.last_error.is_some()
        })
        .await;
    world.move_clocks(used + hours(35 * 24 + 2)).await;
    world.report_all().await;
    let refused = report(&world, 5).await;
    assert_eq!(refused.state, ReportState::Sending, "{refused:?}");
    assert!(refused.last_error.unwrap().contains("too far in the past"));
    world.move_clocks(used + hours(36 * 24)).await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 5);
    world.finish().await;
}

async fn usage_too_old_for_stripe_is_too_late(mut world: World) {
    world.freeze(start()).await;
    world.count("acct", 5, hours_ago(33 * 24)).await;
    world.count("acct", 7, hours_ago(5)).await;
    world.report_all().await;
    world.move_clocks(start() + TimeDelta::days(3)).await;
    world
        .stripe()
        .create_subscribed_customer("cus_acct")
        .await
        .unwrap();
    let link = PutAccount::stripe("acct", "cus_acct").bill_from(hours_ago(34 * 24));
    world.client().put_account(link).await.unwrap();
    world.wait_until_sent("acct").await;
    let missed = report(&world, 5).await;
    assert_eq!(
        (missed.state, missed.reported),
        (ReportState::TooLate, false)
    );
    assert!(missed.last_error.unwrap().contains("35 days"));
    assert_eq!(world.usage("acct").await.1, 7);
    assert_eq!(
        world.attempts_for("cus_acct").await.len(),
        1,
        "it is not sent"
    );
    world.finish().await;
}

async fn a_lost_event_that_grew_too_old_is_too_late(mut world: World) {
    link(&world, "acct", "cus_acct").await;
    world.freeze(start()).await;
    world.count("acct", 5, hours_ago(29 * 24)).await;
    world
        .stripe()
        .script(Fault::drop_connection().on_path(EVENTS))
        .await
        .unwrap();
    world.report_all().await;
    let now = start() + TimeDelta::days(7);
    world.move_clocks(now).await;
    wait_until_error_says(&world, 5, ReportState::Unknown, "no later event").await;
    send_another(&world, 7, now).await;
    world.move_clocks(now + hours(2)).await;
    wait_until_error_says(&world, 5, ReportState::TooLate, "35 days").await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 7);
    world.finish().await;
}
