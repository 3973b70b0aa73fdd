//! Pauses of sending: a rejected key stops all reports, a missing meter only its own.

use fake_stripe::Fault;
use usage_client::{ForceReport, ReportState};

use super::stripe_faults::five_units;
use crate::support::world::{World, hours_ago, on_both_engines};

const EVENTS: &str = "/v1/billing/meter_events";

on_both_engines!(
    a_refused_key_pauses_sending_until_it_is_replaced,
    force_report_ends_the_pause_after_a_refused_key,
    a_missing_meter_does_not_delay_other_meters,
    an_archived_meter_does_not_delay_other_meters,
);

async fn a_refused_key_pauses_sending_until_it_is_replaced(mut world: World) {
    world
        .reconfigure(&["--stripe-concurrency=1", "--stripe-retry-ms=20"])
        .await;
    five_units(&world, "a").await;
    five_units(&world, "b").await;
    let denied = Fault::status(401).on_path(EVENTS);
    world.stripe().script(denied.times(2)).await.unwrap();
    let run = world
        .client()
        .force_report(ForceReport::all())
        .await
        .unwrap();
    drop(run);
    for account in ["a", "b"] {
        world
            .wait_until_reports_are(account, &[ReportState::Accepted])
            .await;
    }
    let mut calls = world.attempts_for("cus_a").await;
    calls.extend(world.attempts_for("cus_b").await);
    calls.sort_by_key(|call| call.sequence);
    let statuses: Vec<_> = calls.iter().map(|call| call.status).collect();
    assert_eq!(statuses, [Some(401), Some(401), Some(200), Some(200)]);
    // A pause is 30 times the retry delay of 20 ms. Without a pause, the next request would follow immediately.
    for pair in calls[..3].windows(2) {
        let gap = pair[1].received_at_ms - pair[0].received_at_ms;
        assert!(gap >= 500, "{gap} ms");
    }
    world.finish().await;
}

async fn force_report_ends_the_pause_after_a_refused_key(mut world: World) {
    // The pause is a quarter of an hour.
    world.reconfigure(&["--stripe-retry-ms=60000"]).await;
    five_units(&world, "acct").await;
    world
        .stripe()
        .script(Fault::status(401).always())
        .await
        .unwrap();
    let refused = world.report_all().await;
    assert_eq!(refused.retried_later.quantity, 5);
    let report = world.reports("acct").await.pop().unwrap();
    assert!(report.last_error.unwrap().contains("401"));
    world.stripe().clear_faults().await.unwrap();
    world.report_all().await;
    assert_eq!(world.usage("acct").await, (5, 5, 0, 0));
    world.finish().await;
}

/// Asserts that usage of a meter that Stripe does not accept waits, while usage of the other meter is sent.
async fn check_meter_waits_alone(world: &World, account: &str) {
    for (meter, hours) in [
        ("tokens", 1),
        ("api_calls", 1),
        ("tokens", 2),
        ("api_calls", 2),
    ] {
        world.count_of(account, meter, 5, hours_ago(hours)).await;
    }
    let run = world
        .client()
        .force_report(ForceReport::all())
        .await
        .unwrap();
    drop(run);
    let is_refused = async || {
        let reports = world.reports(account).await;
        let refused = |state| state == ReportState::Sending;
        world.usage(account).await == (10, 10, 0, 0)
            && reports
                .iter()
                .any(|report| refused(report.state) && report.last_error.is_some())
    };
    world.wait_until("the other meter", is_refused).await;
    assert_eq!(world.usage_of(account, "tokens").await, (10, 0, 10, 0));
    let reports = world.reports(account).await;
    let error = reports
        .iter()
        .find_map(|report| report.last_error.as_ref())
        .unwrap();
    assert!(error.contains("No active meter found"), "{error}");
    world.stripe().create_meter("llm_tokens").await.unwrap();
    world.report_all().await;
    assert_eq!(world.usage_of(account, "tokens").await, (10, 10, 0, 0));
    assert_eq!(world.meter_events(&format!("cus_{account}")).await.len(), 4);
}

async fn a_missing_meter_does_not_delay_other_meters(mut world: World) {
    for bare in [false, true] {
        let name = format!("seats{bare}");
        world.stripe().set_bare_error_codes(bare).await.unwrap();
        let meters = format!("--meters=api_calls,tokens={name}");
        world.reconfigure(&[&meters]).await;
        five_units(&world, &name).await;
        world.count_of(&name, "tokens", 3, hours_ago(1)).await;
        let summary = world.report_all().await;
        assert_eq!(
            (summary.accepted.quantity, summary.retried_later.quantity),
            (5, 3)
        );
        let (stripe, customer) = (world.stripe(), format!("cus_{name}"));
        stripe.create_meter(&name).await.unwrap();
        // Its price is new too.
        let subscription = format!("sub_of_{name}");
        let subscribed = stripe.subscribe_to_all_meters(&customer, &subscription);
        subscribed.await.unwrap();
        world.report_all().await;
        world
            .wait_until("the new meter's usage", async || {
                world.stripe_total(&customer, &name).await == 3
            })
            .await;
    }
    world.finish().await;
}

async fn an_archived_meter_does_not_delay_other_meters(mut world: World) {
    for bare in [false, true] {
        // The id of a meter is remembered for a while.
        world.restart().await;
        world.stripe().set_bare_error_codes(bare).await.unwrap();
        let account = format!("acct-{bare}");
        let customer = format!("cus_{account}");
        world.link_to_new_customer(&account, &customer).await;
        world.stripe().deactivate_meter("llm_tokens").await.unwrap();
        check_meter_waits_alone(&world, &account).await;
    }
    world.finish().await;
}
