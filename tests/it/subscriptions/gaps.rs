//! Usage between an end of the subscription that was found at Stripe and what follows: it is held and told, and a next
//! subscription, a link or a person decides on it.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::NewSubscription;
use usage_client::{CancelSubscription, PutAccount, ReportState};
use usage_server::commands::doctor::Severity;

use crate::support::world::{World, at, billing::BASIC, on_both_engines};

on_both_engines!(
    usage_after_an_end_found_at_stripe_is_held_and_told,
    a_subscription_that_began_before_charges_the_gap,
    a_subscription_that_begins_later_leaves_the_gap_to_a_person,
    an_account_made_free_after_the_end_owes_nothing_since_then,
    another_customer_can_be_billed_for_the_gap,
    an_end_scheduled_at_stripe_is_not_one_requested_here,
    a_requested_end_that_was_taken_back_is_not_one,
    a_link_after_a_requested_end_bills_from_the_time_that_it_names,
);

const START: &str = "2027-03-10T13:12:34Z";
const END: &str = "2027-04-10T13:12:34Z";
const NOW: &str = "2027-03-20T08:30:10Z";

/// The states of an account's reports, with their quantities.
async fn states(world: &World) -> Vec<(i64, ReportState)> {
    let reports = world.reports("acct").await;
    let mut states: Vec<(i64, ReportState)> = reports
        .iter()
        .map(|report| (report.quantity, report.state))
        .collect();
    states.sort_by_key(|(quantity, _)| *quantity);
    states
}

async fn wait_until_gap_is(world: &World, state: ReportState) {
    wait_until_state(world, 100, state).await;
}

async fn wait_until_state(world: &World, quantity: i64, state: ReportState) {
    world
        .wait_until("a decision on the gap", async || {
            states(world).await.contains(&(quantity, state))
        })
        .await;
}

/// 4 calls before the subscription was cancelled in Stripe's dashboard, and 100 after it. No webhook tells.
async fn start_with_gap(world: &mut World) -> DateTime<Utc> {
    let now = at(NOW);
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count("acct", 4, now - TimeDelta::hours(5)).await;
    world.report_all().await;
    world.wait_until_sent("acct").await;
    let form = [("invoice_now", "true")];
    world
        .call_stripe("DELETE", "/v1/subscriptions/sub_acct", &form)
        .await;
    world.move_clocks(now + TimeDelta::minutes(1)).await;
    world
        .wait_until_subscription("acct", |known| known.ended_at.is_some())
        .await;
    let later = now + TimeDelta::hours(1);
    world.move_clocks(later).await;
    world.count("acct", 100, later).await;
    world.report_all().await;
    wait_until_gap_is(world, ReportState::Uncharged).await;
    world.assert_invoiced(&[4]).await;
    later
}

/// A next subscription of the customer.
async fn subscribe_again(world: &World, customer: &str, anchor: Option<DateTime<Utc>>) {
    let next = NewSubscription {
        id: "sub_next".to_owned(),
        customer: customer.to_owned(),
        prices: vec![BASIC.to_owned()],
        anchor: anchor.map(|anchor| anchor.timestamp()),
        ..NewSubscription::default()
    };
    world.subscribe_as(next).await;
}

async fn usage_after_an_end_found_at_stripe_is_held_and_told(mut world: World) {
    let transitions = r#"usage_reports_total{transition="uncharged"}"#;
    let before = world.metric(transitions).await;
    start_with_gap(&mut world).await;
    assert_eq!(world.usage("acct").await, (104, 4, 100, 0));
    let (severity, told) = world.doctor_says(None, "reports").await;
    assert_eq!(severity, Severity::Bad, "{told}");
    assert!(
        told.contains("uncharged: 1 reports, 100 units, of acct"),
        "{told}"
    );
    let (severity, told) = world.doctor_says(None, "customers").await;
    assert_eq!(severity, Severity::Warn, "{told}");
    assert!(told.contains("cus_acct (acct)"), "{told}");
    world.wait_until_metric_is_above(transitions, before).await;
    // In time a person decides.
    world.move_clocks(world.now() + TimeDelta::days(36)).await;
    wait_until_gap_is(&world, ReportState::TooLate).await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 4);
    world.finish().await;
}

async fn a_subscription_that_began_before_charges_the_gap(mut world: World) {
    let later = start_with_gap(&mut world).await;
    subscribe_again(&world, "cus_acct", Some(later - TimeDelta::minutes(10))).await;
    world.move_clocks(later + TimeDelta::minutes(1)).await;
    world
        .wait_until("the gap at Stripe", async || {
            world.stripe_total("cus_acct", "api_calls").await == 104
        })
        .await;
    let end = at("2027-04-20T09:20:10Z");
    world.move_clocks(end).await;
    world.advance_past_draft(end).await;
    world.assert_invoiced(&[4, 100]).await;
    world.finish().await;
}

async fn a_subscription_that_begins_later_leaves_the_gap_to_a_person(mut world: World) {
    let later = start_with_gap(&mut world).await;
    world.move_clocks(later + TimeDelta::hours(2)).await;
    subscribe_again(&world, "cus_acct", None).await;
    world.move_clocks(later + TimeDelta::hours(3)).await;
    wait_until_gap_is(&world, ReportState::TooLate).await;
    world.count("acct", 8, world.now()).await;
    world.report_all().await;
    world.wait_until_all_sent().await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 12);
    world.finish().await;
}

async fn an_account_made_free_after_the_end_owes_nothing_since_then(mut world: World) {
    let later = start_with_gap(&mut world).await;
    world.move_clocks(later + TimeDelta::hours(2)).await;
    let client = world.client();
    let free = client.put_account(PutAccount::free("acct")).await.unwrap();
    assert!(free.account.valid_from < later, "{free:?}");
    wait_until_gap_is(&world, ReportState::NotBillable).await;
    world.count("acct", 7, world.now()).await;
    world.report_all().await;
    assert_eq!(world.usage("acct").await, (111, 4, 0, 107));
    world.finish().await;
}

async fn another_customer_can_be_billed_for_the_gap(mut world: World) {
    let later = start_with_gap(&mut world).await;
    world.move_clocks(later + TimeDelta::hours(2)).await;
    let began = later - TimeDelta::minutes(10);
    subscribe_again(&world, "cus_other", Some(began)).await;
    let link = PutAccount::stripe("acct", "cus_other").bill_from(began);
    world.client().put_account(link).await.unwrap();
    world
        .wait_until("the gap at Stripe", async || {
            world.stripe_total("cus_other", "api_calls").await == 100
        })
        .await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 4);
    world.finish().await;
}

/// Schedules the end of the subscription in Stripe's dashboard, and counts usage after it.
async fn end_by_hand(world: &World) {
    let form = [("cancel_at_period_end", "true")];
    world
        .call_stripe("POST", "/v1/subscriptions/sub_acct", &form)
        .await;
    world.move_clocks(world.now() + TimeDelta::minutes(1)).await;
    world
        .wait_until_subscription("acct", |known| known.cancel_at.is_some())
        .await;
    let end = at(END);
    world.move_clocks(end - TimeDelta::milliseconds(1)).await;
    world.count("acct", 9, world.now()).await;
    world.move_clocks(end).await;
    world.count("acct", 100, end).await;
    world.advance_past_draft(end).await;
    world.report_all().await;
    wait_until_gap_is(world, ReportState::Uncharged).await;
    world.assert_invoiced(&[9]).await;
    assert_eq!(world.usage("acct").await, (109, 9, 100, 0));
}

async fn an_end_scheduled_at_stripe_is_not_one_requested_here(mut world: World) {
    let now = at(END) - TimeDelta::days(2);
    world.start_subscribed(now, &[BASIC], at(START)).await;
    end_by_hand(&world).await;
    world.finish().await;
}

async fn a_requested_end_that_was_taken_back_is_not_one(mut world: World) {
    let now = at(END) - TimeDelta::days(2);
    world.start_subscribed(now, &[BASIC], at(START)).await;
    let cancel = CancelSubscription::at_period_end("acct");
    world.client().cancel_subscription(cancel).await.unwrap();
    let requested = "subscriptions WHERE end_requested";
    assert_eq!(world.count_rows(requested).await, 1);
    let form = [("cancel_at_period_end", "false")];
    world
        .call_stripe("POST", "/v1/subscriptions/sub_acct", &form)
        .await;
    world.move_clocks(now + TimeDelta::minutes(1)).await;
    world
        .wait_until("it goes on", async || {
            world.count_rows(requested).await == 0
        })
        .await;
    end_by_hand(&world).await;
    world.finish().await;
}

async fn a_link_after_a_requested_end_bills_from_the_time_that_it_names(mut world: World) {
    let now = at(NOW);
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count("acct", 4, now - TimeDelta::hours(5)).await;
    let client = world.client().clone();
    let cancel = client.cancel_subscription(CancelSubscription::now("acct"));
    world.while_clock_moves(cancel).await.unwrap();
    world
        .wait_until_subscription("acct", |known| known.ended_at.is_some())
        .await;
    let later = now + TimeDelta::days(1);
    world.move_clocks(later).await;
    world.count("acct", 7, later - TimeDelta::hours(1)).await;
    world.report_all().await;
    wait_until_state(&world, 7, ReportState::NotBillable).await;
    world.count("acct", 100, later).await;
    world.report_all().await;
    wait_until_gap_is(&world, ReportState::NotBillable).await;

    let link = PutAccount::stripe("acct", "cus_acct").bill_from(later - TimeDelta::minutes(10));
    world.client().put_account(link).await.unwrap();
    wait_until_gap_is(&world, ReportState::Uncharged).await;
    let (severity, told) = world.doctor_says(None, "reports").await;
    assert_eq!(severity, Severity::Bad, "{told}");
    let told_of = "uncharged: 1 reports, 100 units, of acct";
    assert!(told.contains(told_of), "{told}");
    assert_eq!(world.usage("acct").await, (111, 4, 100, 7));

    subscribe_again(&world, "cus_acct", Some(later - TimeDelta::minutes(10))).await;
    world.move_clocks(later + TimeDelta::minutes(1)).await;
    world
        .wait_until("the gap at Stripe", async || {
            world.stripe_total("cus_acct", "api_calls").await == 104
        })
        .await;
    world.wait_until_all_sent().await;
    assert_eq!(world.usage("acct").await, (111, 104, 0, 7));
    world.finish().await;
}
