//! Usage whose invoice is already final, or that no item charges: it needs a decision, unless the service is configured
//! to bill late usage in the current period.

use chrono::TimeDelta;
use usage_client::{Correct, ReportState};

use crate::support::world::{
    World, at,
    billing::{BASIC, TOKENS},
    on_both_engines,
};

const START: &str = "2027-03-10T13:12:34Z";
const END: &str = "2027-04-10T13:12:34Z";

on_both_engines!(
    usage_after_an_item_was_removed_waits,
    usage_of_a_final_invoice_needs_a_decision,
    late_usage_goes_to_the_current_period_when_configured,
    negative_correction_after_finalization_needs_decision,
    a_period_that_ended_during_downtime_is_billed,
);

async fn usage_after_an_item_was_removed_waits(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world
        .start_subscribed(now, &[BASIC, TOKENS], at(START))
        .await;
    world.count("acct", 4, now).await;
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    let subscriptions = world.stripe().subscriptions().await.unwrap();
    let calls = subscriptions[0]
        .items
        .iter()
        .find(|item| item.price == BASIC);
    let remove = [
        ("items[0][id]", &*calls.unwrap().id),
        ("items[0][deleted]", "true"),
        ("proration_behavior", "always_invoice"),
    ];
    world
        .call_stripe("POST", "/v1/subscriptions/sub_acct", &remove)
        .await;
    world
        .advance_to(now + TimeDelta::hours(3), TimeDelta::minutes(30))
        .await;
    world.count("acct", 6, world.now()).await;
    world.report_all().await;
    world
        .wait_until_reports_are(
            "acct",
            &[
                ReportState::Accepted,
                ReportState::Confirmed,
                ReportState::Invoiced,
                ReportState::Uncharged,
            ],
        )
        .await;
    assert_eq!(world.usage("acct").await, (10, 4, 6, 0));
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 4);
    world.assert_invoiced(&[4]).await;
    world.finish().await;
}

async fn usage_of_a_final_invoice_needs_a_decision(mut world: World) {
    late(&mut world).await;
    let report = world
        .reports("acct")
        .await
        .into_iter()
        .find(|report| report.quantity == 6)
        .unwrap();
    assert_eq!(report.state, ReportState::TooLate);
    assert!(report.last_error.unwrap().contains("final"));
    world
        .advance_to(at("2027-05-10T14:40:00Z"), TimeDelta::days(10))
        .await;
    world.assert_invoiced(&[5, 0]).await;
    world.finish().await;
}

async fn late_usage_goes_to_the_current_period_when_configured(mut world: World) {
    world.reconfigure(&["--late-usage=current_period"]).await;
    late(&mut world).await;
    world
        .advance_to(at("2027-05-10T13:12:34Z"), TimeDelta::days(10))
        .await;
    world
        .advance_to(at("2027-05-10T14:40:00Z"), TimeDelta::minutes(20))
        .await;
    world.assert_invoiced(&[5, 6]).await;
    world.finish().await;
}

async fn negative_correction_after_finalization_needs_decision(mut world: World) {
    world.reconfigure(&["--late-usage=current_period"]).await;
    late(&mut world).await;
    let back = Correct::new("acct", -3, "counted twice").timestamp(at(END) - TimeDelta::hours(3));
    let id = world.client().correct(back).await.unwrap().report.id;
    world
        .advance_to(at("2027-05-10T14:40:00Z"), TimeDelta::days(5))
        .await;
    let reports = world.reports("acct").await;
    let correction = reports.iter().find(|report| report.id == id).unwrap();
    assert_eq!(correction.state, ReportState::TooLate);
    world.assert_invoiced(&[5, 6]).await;
    world.finish().await;
}

/// Counts usage of a period whose invoice is final, and waits until its report has its final state.
async fn late(world: &mut World) {
    world
        .start_subscribed(at(END) - TimeDelta::days(1), &[BASIC], at(START))
        .await;
    world.count("acct", 5, world.now()).await;
    world.advance_past_draft(at(END)).await;
    world.count("acct", 6, at(END) - TimeDelta::hours(2)).await;
    world
        .advance_to(at(END) + TimeDelta::minutes(120), TimeDelta::minutes(10))
        .await;
}

async fn a_period_that_ended_during_downtime_is_billed(mut world: World) {
    world
        .start_subscribed(at(END) - TimeDelta::hours(2), &[BASIC], at(START))
        .await;
    world.count("acct", 5, world.now()).await;
    world.stop().await;
    world.move_clocks(at(END) + TimeDelta::minutes(50)).await;
    world.start_server().await;
    // The invoice is first read from Stripe, because it may still be a draft.
    world
        .advance_to(at(END) + TimeDelta::minutes(52), TimeDelta::seconds(30))
        .await;
    world.advance_past_draft(at(END)).await;
    world.assert_invoiced(&[5]).await;
    // Whole periods pass without a sync.
    world.stop().await;
    world.move_clocks(at("2027-07-01T00:00:00Z")).await;
    world.start_server().await;
    world.wait_until_idle().await;
    world.count("acct", 8, world.now()).await;
    world.count("acct", 2, at("2027-06-09T00:00:00Z")).await;
    world
        .advance_to(at("2027-07-10T13:12:34Z"), TimeDelta::days(5))
        .await;
    world
        .advance_to(at("2027-07-10T14:40:00Z"), TimeDelta::minutes(20))
        .await;
    world.assert_invoiced(&[5, 0, 0, 8]).await;
    let missed = world
        .reports("acct")
        .await
        .into_iter()
        .find(|report| report.quantity == 2)
        .unwrap();
    assert_eq!(missed.state, ReportState::TooLate);
    world.finish().await;
}
