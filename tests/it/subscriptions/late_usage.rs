//! Late or moved usage around a change of a subscription: it is charged before the change or needs a decision, and is
//! never sent to a subscription that no longer charges for it.

use chrono::TimeDelta;
use fake_stripe::Fault;
use usage_client::{
    CancelSubscription, ChangePlan, ForceReport, Reason, ReportState, ResolveAction, ResolveReport,
    UsageReport,
};

use crate::support::world::{
    TIMEOUT, World, at,
    billing::{BASIC, PRO},
    on_both_engines,
};

on_both_engines!(
    late_usage_during_a_drain_is_charged_by_the_old_plan,
    late_usage_after_a_change_needs_a_decision,
    a_cancel_after_a_plan_change_waits_for_usage_of_the_new_plan,
    usage_moved_to_the_current_period_is_not_lost_by_a_cancel,
    usage_without_a_subscription_cannot_be_billed_in_the_current_period,
    a_key_refused_after_a_lost_response_undoes_nothing,
);

const START: &str = "2027-03-10T13:12:34Z";
const END: &str = "2027-04-10T13:12:34Z";
const NOW: &str = "2027-03-20T08:30:10Z";

/// An account with 4 units of usage of its plan.
async fn used_four(world: &mut World) {
    world.start_subscribed(at(NOW), &[BASIC], at(START)).await;
    world.count("acct", 4, at(NOW)).await;
}

async fn block_calls(world: &World, name: &str, path: &str) {
    let hold = Fault::block_until_released(name)
        .on_method("POST")
        .on_path(path);
    world.stripe().script(hold).await.unwrap();
}

async fn wait_until_held(world: &World, name: &str) {
    let stripe = world.stripe();
    stripe.wait_for_blocked(name, 1, TIMEOUT).await.unwrap();
}

async fn late_usage_during_a_drain_is_charged_by_the_old_plan(mut world: World) {
    used_four(&mut world).await;
    block_calls(&world, "draining", "/v1/billing/meter_events").await;
    let client = world.client().clone();
    let (changed, ()) = tokio::join!(client.change_plan(ChangePlan::new("acct", PRO)), async {
        wait_until_held(&world, "draining").await;
        world.count("acct", 3, at(NOW) - TimeDelta::hours(1)).await;
        world.stripe().release("draining").await.unwrap();
        world.advance_once_change_begins().await;
    });
    assert!(changed.unwrap().change.is_some());
    world.assert_invoiced(&[7]).await;
    world.finish().await;
}

async fn late_usage_after_a_change_needs_a_decision(mut world: World) {
    used_four(&mut world).await;
    block_calls(&world, "changing", "/v1/subscriptions/").await;
    let client = world.client().clone();
    let (changed, ()) = tokio::join!(client.change_plan(ChangePlan::new("acct", PRO)), async {
        world.advance_once_change_begins().await;
        wait_until_held(&world, "changing").await;
        world.count("acct", 3, at(NOW) - TimeDelta::hours(1)).await;
        let _run = client.force_report(ForceReport::all()).await.unwrap();
        let now = world.now().timestamp_millis();
        let is_held_back = async || {
            let waits = format!("usage_reports WHERE quantity = 3 AND next_attempt_at > {now}");
            world.count_rows(&waits).await == 1
        };
        world.wait_until("it waits", is_held_back).await;
        world.stripe().release("changing").await.unwrap();
    });
    assert!(changed.unwrap().change.is_some());
    world.move_clocks(world.now() + TimeDelta::minutes(1)).await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted, ReportState::TooLate])
        .await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 4);
    world.assert_invoiced(&[4]).await;
    assert_eq!(world.usage("acct").await.0, 7, "it is counted and kept");
    world.finish().await;
}

async fn a_cancel_after_a_plan_change_waits_for_usage_of_the_new_plan(mut world: World) {
    used_four(&mut world).await;
    let client = world.client().clone();
    let change = client.change_plan(ChangePlan::new("acct", PRO));
    world.while_clock_moves(change).await.unwrap();
    world.count("acct", 5, world.now()).await;
    world.move_clocks(world.now() + TimeDelta::minutes(5)).await;
    block_calls(&world, "draining", "/v1/billing/meter_events").await;
    let cancel = CancelSubscription::now("acct");
    let (cancelled, ()) = tokio::join!(client.cancel_subscription(cancel), async {
        wait_until_held(&world, "draining").await;
        world.move_clocks(world.now() + TimeDelta::seconds(2)).await;
        // It was checked.
        let checked = format!(
            "subscription_changes WHERE heartbeat_at >= {} AND finished_at IS NULL",
            world.now().timestamp_millis()
        );
        world
            .wait_until("a check", async || world.count_rows(&checked).await == 1)
            .await;
        let stripe = world.stripe();
        assert_eq!(
            world
                .count_rows("subscription_changes WHERE step IN ('drain', 'draining')")
                .await,
            1
        );
        stripe.release("draining").await.unwrap();
    });
    cancelled.unwrap();
    world.assert_invoiced(&[4, 5]).await;
    assert_eq!(world.stripe().discarded_usage().await.unwrap(), []);
    world.finish().await;
}

/// Usage of a period whose invoice is final, so that it needs a decision.
async fn missed(world: &mut World) -> UsageReport {
    world
        .start_subscribed(at(END) - TimeDelta::days(1), &[BASIC], at(START))
        .await;
    world.advance_past_draft(at(END)).await;
    world.count("acct", 6, at(END) - TimeDelta::hours(2)).await;
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::TooLate])
        .await;
    world.reports("acct").await.remove(0)
}

fn bill_now(report: &UsageReport) -> ResolveReport {
    ResolveReport::new(
        &report.account_id,
        &report.id,
        ResolveAction::BillInCurrentPeriod,
        "it is owed",
    )
}

async fn usage_moved_to_the_current_period_is_not_lost_by_a_cancel(mut world: World) {
    let report = missed(&mut world).await;
    let client = world.client().clone();
    client.resolve_report(bill_now(&report)).await.unwrap();
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    let losing = CancelSubscription::now("acct").invoice_now(false);
    let refused = client.cancel_subscription(losing).await.unwrap_err();
    assert_eq!(
        refused.reason(),
        Some(&Reason::SubscriptionNotChangeable),
        "{refused}"
    );
    let cancel = client.cancel_subscription(CancelSubscription::now("acct"));
    world.while_clock_moves(cancel).await.unwrap();
    world.assert_invoiced(&[0, 6]).await;
    world.finish().await;
}

async fn usage_without_a_subscription_cannot_be_billed_in_the_current_period(mut world: World) {
    let report = missed(&mut world).await;
    let client = world.client().clone();
    // Reports of an earlier period that need a decision do not block a cancellation.
    let cancel = client.cancel_subscription(CancelSubscription::now("acct"));
    world.while_clock_moves(cancel).await.unwrap();
    let refused = client.resolve_report(bill_now(&report)).await.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::NotResolvable), "{refused}");
    assert!(refused.to_string().contains("no subscription"), "{refused}");
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 0);
    world.finish().await;
}

async fn a_key_refused_after_a_lost_response_undoes_nothing(mut world: World) {
    used_four(&mut world).await;
    let stripe = world.stripe();
    let lost = Fault::accept_then_drop()
        .blocked_until_released("changing")
        .on_method("POST")
        .on_path("/v1/subscriptions/");
    stripe.script(lost).await.unwrap();
    let client = world.client().clone();
    let (changed, ()) = tokio::join!(client.change_plan(ChangePlan::new("acct", PRO)), async {
        world.advance_once_change_begins().await;
        wait_until_held(&world, "changing").await;
        let refused = Fault::status(401)
            .on_method("GET")
            .on_path("/v1/subscriptions/")
            .times(2);
        world.stripe().script(refused).await.unwrap();
        world.stripe().release("changing").await.unwrap();
    });
    assert!(changed.unwrap().change.is_some());
    assert_eq!(world.stripe().faults().await.unwrap(), [], "both were met");
    assert_eq!(
        world
            .count_rows("subscription_changes WHERE step = 'done'")
            .await,
        1
    );
    world.assert_invoiced(&[4]).await;
    world.finish().await;
}
