//! Meters that only another living subscription of the customer charges than the one that the account's link follows.
//! Nothing but polling tells the service of them.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::{Fault, NewSubscription};
use usage_client::{CancelSubscription, ChangePlan, PutAccount, Reason, ReportState};

use crate::support::world::{
    TIMEOUT, World, at,
    billing::{BASIC, PRO, SEATS, TOKENS},
    on_both_engines,
};

on_both_engines!(
    usage_before_a_companion_began_is_not_sent,
    usage_in_a_companions_trial_is_not_billable,
    each_period_of_a_companion_is_sent_in_time_and_invoiced,
    a_companions_end_ends_only_its_own_meter,
    usage_of_a_paused_companion_waits,
    the_accounts_own_subscription_takes_a_meter_over,
    what_was_read_before_a_companion_ended_is_not_applied,
    a_cancel_leaves_a_companion_as_it_is,
    a_plan_change_leaves_a_companion_as_it_is,
    subscriptions_on_several_pages_are_read_from_the_lists,
);

const START: &str = "2027-03-10T13:12:34Z";
const END: &str = "2027-04-10T13:12:34Z";
const NOW: &str = "2027-03-20T08:30:10Z";

/// Another subscription of the customer, with the price of tokens.
fn companion() -> NewSubscription {
    NewSubscription {
        id: "sub_other".to_owned(),
        customer: "cus_acct".to_owned(),
        prices: vec![TOKENS.to_owned()],
        ..NewSubscription::default()
    }
}

/// An account whose subscription charges calls only, and a companion.
async fn start_with(world: &mut World, other: NewSubscription) -> DateTime<Utc> {
    let now = at(NOW);
    world.with_prices_at(now).await;
    world.subscribe("acct", &[BASIC], at(START)).await;
    world.subscribe_as(other).await;
    let linked = world.link_to_subscription("acct").await;
    assert_eq!(linked.subscription.unwrap().id, "sub_acct");
    now
}

/// A companion that began before.
async fn start_with_companion(world: &mut World, since: DateTime<Utc>) -> DateTime<Utc> {
    let other = NewSubscription {
        anchor: Some(since.timestamp()),
        ..companion()
    };
    start_with(world, other).await
}

/// The quantities of reports of tokens in a state.
async fn tokens_in(world: &World, state: ReportState) -> Vec<i64> {
    let reports = world.reports("acct").await;
    let found = reports
        .iter()
        .filter(|report| report.meter == "tokens" && report.state == state);
    let mut quantities: Vec<i64> = found.map(|report| report.quantity).collect();
    quantities.sort_unstable();
    quantities
}

async fn wait_until_tokens_are(world: &World, state: ReportState, quantities: &[i64]) {
    world
        .wait_until("a decision on tokens", async || {
            tokens_in(world, state).await == quantities
        })
        .await;
}

/// Counts and reports calls, which the account's own subscription charges.
async fn assert_calls_are_sent(world: &World, quantity: i64, total: i64) {
    world.count("acct", quantity, world.now()).await;
    world.report_all().await;
    world
        .wait_until("calls at Stripe", async || {
            world.stripe_total("cus_acct", "api_calls").await == total
        })
        .await;
}

async fn cancel_companion(world: &World) {
    let form = [("invoice_now", "true")];
    world
        .call_stripe("DELETE", "/v1/subscriptions/sub_other", &form)
        .await;
}

async fn invoiced_tokens(world: &World) -> Vec<i64> {
    world.invoiced_quantities("cus_acct", "llm_tokens").await
}

async fn usage_before_a_companion_began_is_not_sent(mut world: World) {
    let now = at(NOW);
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count_of("acct", "tokens", 7, now).await;
    world.report_all().await;
    assert_eq!(tokens_in(&world, ReportState::Uncharged).await, [7]);
    let begun = now + TimeDelta::hours(2);
    world.move_clocks(begun).await;
    world.subscribe_as(companion()).await;
    world.move_clocks(begun + TimeDelta::minutes(1)).await;
    wait_until_tokens_are(&world, ReportState::TooLate, &[7]).await;
    world.count_of("acct", "tokens", 4, world.now()).await;
    world.report_all().await;
    world.wait_until_all_sent().await;
    let events = world.meter_events("cus_acct").await;
    assert_eq!(events.len(), 1, "{events:#?}");
    assert!(events[0].timestamp >= begun.timestamp(), "{events:#?}");
    let end = at("2027-04-20T10:30:10Z");
    world.move_clocks(end).await;
    world.advance_past_draft(end).await;
    assert_eq!(invoiced_tokens(&world).await, [4]);
    assert_eq!(world.stripe().discarded_usage().await.unwrap(), []);
    world.finish().await;
}

async fn usage_in_a_companions_trial_is_not_billable(mut world: World) {
    let trial_end = at(NOW) + TimeDelta::days(2);
    let other = NewSubscription {
        trial_end: Some(trial_end.timestamp()),
        ..companion()
    };
    let now = start_with(&mut world, other).await;
    world.move_clocks(now + TimeDelta::hours(1)).await;
    world
        .count_of("acct", "tokens", 5, now + TimeDelta::minutes(10))
        .await;
    assert_calls_are_sent(&world, 3, 3).await;
    assert_eq!(tokens_in(&world, ReportState::NotBillable).await, [5]);
    world
        .advance_to(trial_end + TimeDelta::hours(1), TimeDelta::hours(6))
        .await;
    world.count_of("acct", "tokens", 7, world.now()).await;
    world.report_all().await;
    world.wait_until_all_sent().await;
    assert_eq!(world.stripe_total("cus_acct", "llm_tokens").await, 7);
    let end = at("2027-04-22T08:30:10Z");
    world.advance_past_draft(end).await;
    assert_eq!(invoiced_tokens(&world).await.iter().sum::<i64>(), 7);
    assert_eq!(world.stripe().discarded_usage().await.unwrap(), []);
    world.finish().await;
}

async fn each_period_of_a_companion_is_sent_in_time_and_invoiced(mut world: World) {
    let (end, next) = (at("2027-04-04T09:20:30Z"), at("2027-05-04T09:20:30Z"));
    start_with_companion(&mut world, at("2027-03-04T09:20:30Z")).await;
    // No report is requested: the end of its own period closes and sends.
    world.move_clocks(end - TimeDelta::seconds(1)).await;
    world.count_of("acct", "tokens", 70, world.now()).await;
    world.move_clocks(end).await;
    world.count_of("acct", "tokens", 5, end).await;
    world.advance_past_draft(end).await;
    assert_eq!(invoiced_tokens(&world).await, [70]);
    world.advance_past_draft(next).await;
    assert_eq!(invoiced_tokens(&world).await, [70, 5]);
    world
        .advance_until_found(
            "invoice_comparisons WHERE meter = 'tokens' AND finding = 'equal' AND reported = 5",
        )
        .await;
    let compared = "invoice_comparisons WHERE meter = 'tokens' AND subscription = 'sub_other'";
    assert_eq!(world.count_rows(compared).await, 2);
    assert_eq!(tokens_in(&world, ReportState::Invoiced).await, [5, 70]);
    let account = world.client().get_account("acct").await.unwrap();
    let own = account.subscription.unwrap();
    assert_eq!(own.id, "sub_acct", "the account shows its own subscription");
    assert!(own.periods.iter().all(|period| period.meter == "api_calls"));
    assert_eq!(world.stripe().discarded_usage().await.unwrap(), []);
    world.finish().await;
}

async fn a_companions_end_ends_only_its_own_meter(mut world: World) {
    let now = start_with_companion(&mut world, at(START) - TimeDelta::days(2)).await;
    world.count_of("acct", "tokens", 9, now).await;
    world.report_all().await;
    world.wait_until_all_sent().await;
    cancel_companion(&world).await;
    assert_eq!(invoiced_tokens(&world).await, [9]);
    world.move_clocks(now + TimeDelta::minutes(1)).await;
    world
        .wait_until("its end", async || {
            let ended = "subscriptions WHERE subscription = 'sub_other' AND ended_at IS NOT NULL";
            world.count_rows(ended).await == 1
        })
        .await;
    world.count_of("acct", "tokens", 6, world.now()).await;
    assert_calls_are_sent(&world, 3, 3).await;
    assert_eq!(tokens_in(&world, ReportState::Uncharged).await, [6]);
    let account = world.client().get_account("acct").await.unwrap();
    assert_eq!(account.subscription.unwrap().status, "active");
    assert_eq!(world.count_rows("account_links WHERE ended").await, 0);
    world.advance_past_draft(at(END)).await;
    world.assert_invoiced(&[3]).await;
    assert_eq!(invoiced_tokens(&world).await, [9]);
    assert_eq!(tokens_in(&world, ReportState::Uncharged).await, [6]);
    world.finish().await;
}

async fn usage_of_a_paused_companion_waits(mut world: World) {
    let trial_end = at(NOW) + TimeDelta::hours(2);
    let other = NewSubscription {
        trial_end: Some(trial_end.timestamp()),
        missing_payment_method: Some("pause".to_owned()),
        ..companion()
    };
    start_with(&mut world, other).await;
    let paused = trial_end + TimeDelta::hours(1);
    world.advance_to(paused, TimeDelta::hours(1)).await;
    world
        .wait_until("the pause", async || {
            let paused = "subscriptions WHERE subscription = 'sub_other' AND status = 'paused'";
            world.count_rows(paused).await == 1
        })
        .await;
    world.count_of("acct", "tokens", 5, paused).await;
    assert_calls_are_sent(&world, 3, 3).await;
    assert_eq!(tokens_in(&world, ReportState::Uncharged).await, [5]);
    world.move_clocks(paused + TimeDelta::hours(1)).await;
    world
        .call_stripe("POST", "/v1/subscriptions/sub_other/resume", &[])
        .await;
    world.move_clocks(paused + TimeDelta::hours(2)).await;
    world.count_of("acct", "tokens", 6, world.now()).await;
    world.report_all().await;
    wait_until_tokens_are(&world, ReportState::TooLate, &[5]).await;
    assert_eq!(world.stripe_total("cus_acct", "llm_tokens").await, 6);
    world.finish().await;
}

async fn the_accounts_own_subscription_takes_a_meter_over(mut world: World) {
    let now = start_with_companion(&mut world, at(START) - TimeDelta::days(2)).await;
    world.count_of("acct", "tokens", 9, now).await;
    world.report_all().await;
    world.wait_until_all_sent().await;
    let moved = now + TimeDelta::minutes(5);
    world.move_clocks(moved).await;
    cancel_companion(&world).await;
    let form = [("items[0][price]", TOKENS)];
    world
        .call_stripe("POST", "/v1/subscriptions/sub_acct", &form)
        .await;
    world.move_clocks(moved + TimeDelta::minutes(1)).await;
    world
        .wait_until_subscription("acct", |known| {
            known.periods.iter().any(|period| period.meter == "tokens")
        })
        .await;
    world.count_of("acct", "tokens", 6, world.now()).await;
    world.report_all().await;
    world.wait_until_all_sent().await;
    world.advance_past_draft(at(END)).await;
    assert_eq!(invoiced_tokens(&world).await, [9, 6]);
    assert_eq!(world.stripe().discarded_usage().await.unwrap(), []);
    world.finish().await;
}

async fn what_was_read_before_a_companion_ended_is_not_applied(mut world: World) {
    let now = start_with_companion(&mut world, at(START) - TimeDelta::days(2)).await;
    world.wait_until_idle().await;
    world.receive_webhooks().await;
    let hold = Fault::block_until_released("late").after_executing();
    let hold = hold.on_method("GET").on_path("/v1/subscriptions");
    world.stripe().script(hold).await.unwrap();
    world.move_clocks(now + TimeDelta::seconds(11)).await;
    let stripe = world.stripe();
    stripe.wait_for_blocked("late", 1, TIMEOUT).await.unwrap();
    let later = now + TimeDelta::seconds(13);
    world.move_clocks(later).await;
    cancel_companion(&world).await;
    let ended = "subscriptions WHERE subscription = 'sub_other' AND ended_at IS NOT NULL";
    world
        .wait_until("its end", async || world.count_rows(ended).await == 1)
        .await;
    // The poll with the late answer ends, and the next one begins.
    let next = Fault::block_until_released("next").after_executing();
    let next = next.on_method("GET").on_path("/v1/subscriptions");
    stripe.script(next).await.unwrap();
    stripe.release("late").await.unwrap();
    world.move_clocks(later + TimeDelta::seconds(11)).await;
    stripe.wait_for_blocked("next", 1, TIMEOUT).await.unwrap();
    assert_eq!(world.count_rows(ended).await, 1);
    stripe.release("next").await.unwrap();
    world.count_of("acct", "tokens", 6, world.now()).await;
    world.report_all().await;
    assert_eq!(tokens_in(&world, ReportState::Uncharged).await, [6]);
    world.finish().await;
}

async fn a_cancel_leaves_a_companion_as_it_is(mut world: World) {
    let since = at("2027-03-04T09:20:30Z");
    let now = start_with_companion(&mut world, since).await;
    world.count("acct", 3, now).await;
    world.count_of("acct", "tokens", 9, now).await;
    let client = world.client().clone();
    let cancel = client.cancel_subscription(CancelSubscription::now("acct"));
    let cancelled = world.while_clock_moves(cancel).await.unwrap();
    world.assert_invoiced(&[3]).await;
    let later = now + TimeDelta::hours(1);
    world.move_clocks(later).await;
    world
        .wait_until_subscription("acct", |known| known.id == "sub_other")
        .await;
    let again = client.cancel_subscription(CancelSubscription::now("acct"));
    assert_eq!(again.await.unwrap().change, cancelled.change, "the same");
    world.count("acct", 100, later).await;
    world.count_of("acct", "tokens", 4, later).await;
    world.report_all().await;
    world.wait_until_all_sent().await;
    assert_eq!(world.stripe_total("cus_acct", "llm_tokens").await, 13);
    world
        .wait_until("a decision on calls", async || {
            world.usage("acct").await == (103, 3, 0, 100)
        })
        .await;
    let end = at("2027-04-04T09:20:30Z");
    world.advance_past_draft(end).await;
    assert_eq!(invoiced_tokens(&world).await, [13]);
    world.assert_invoiced(&[3]).await;
    world.finish().await;
}

async fn a_plan_change_leaves_a_companion_as_it_is(mut world: World) {
    let since = at("2027-03-04T09:20:30Z");
    let now = start_with_companion(&mut world, since).await;
    world.count("acct", 3, now).await;
    world.count_of("acct", "tokens", 9, now).await;
    let client = world.client().clone();
    let twice = client.change_plan(ChangePlan::new("acct", TOKENS)).await;
    let refused = twice.unwrap_err();
    assert_eq!(
        refused.reason(),
        Some(&Reason::SubscriptionNotChangeable),
        "{refused}"
    );
    let change = client.change_plan(ChangePlan::new("acct", PRO));
    world.while_clock_moves(change).await.unwrap();
    world.assert_invoiced(&[3]).await;
    world.move_clocks(now + TimeDelta::hours(1)).await;
    world.count("acct", 5, world.now()).await;
    world.count_of("acct", "tokens", 4, world.now()).await;
    let end = at("2027-04-04T09:20:30Z");
    world.advance_past_draft(end).await;
    assert_eq!(invoiced_tokens(&world).await, [13]);
    world.advance_past_draft(at(END)).await;
    world.assert_invoiced(&[3, 5]).await;
    // Linked by name, the other one becomes the account's own, and the first one a companion.
    let named = PutAccount::stripe("acct", "cus_acct").subscription("sub_other");
    let put = world.client().put_account(named).await.unwrap();
    assert_eq!(put.account.subscription.unwrap().id, "sub_other");
    assert_calls_are_sent(&world, 7, 15).await;
    world.finish().await;
}

async fn subscriptions_on_several_pages_are_read_from_the_lists(mut world: World) {
    // More than a page between the account's own subscription and its companion.
    const OTHERS: usize = 120;
    let now = at(NOW);
    world.with_prices_at(now).await;
    world.subscribe("acct", &[BASIC], at(START)).await;
    world.create_customers(&["cus_others"]).await;
    for number in 0..OTHERS {
        let other = NewSubscription {
            id: format!("sub_{number:03}"),
            customer: "cus_others".to_owned(),
            prices: vec![SEATS.to_owned()],
            ..NewSubscription::default()
        };
        world.stripe().create_subscription(&other).await.unwrap();
    }
    world.subscribe_as(companion()).await;
    world.link_to_subscription("acct").await;
    world.move_clocks(now + TimeDelta::seconds(11)).await;
    world.wait_until_idle().await;
    let before = world.stripe().requests().await.unwrap().len();
    world.move_clocks(now + TimeDelta::seconds(22)).await;
    world.wait_until_idle().await;
    let requests = world.stripe().requests().await.unwrap().split_off(before);
    let pages: Vec<Option<String>> = requests
        .into_iter()
        .filter(|request| request.path.starts_with("/v1/subscriptions"))
        .map(|request| request.customer)
        .collect();
    assert_eq!(pages, [None, None], "two pages, and no request for one");
    assert_calls_are_sent(&world, 3, 3).await;
    world.count_of("acct", "tokens", 9, world.now()).await;
    world.report_all().await;
    world.wait_until_all_sent().await;
    assert_eq!(world.stripe_total("cus_acct", "llm_tokens").await, 9);
    world.finish().await;
}
