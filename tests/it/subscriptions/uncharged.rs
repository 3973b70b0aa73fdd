//! Usage that no invoice charges: it is held and told, sent once a subscription charges it, and never shown as reported.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::NewSubscription;
use usage_client::{
    ChangePlan, PutAccount, Reason, Reconcile, ReportState, ResolveAction, ResolveReport,
};
use usage_server::commands::doctor::Severity;

use crate::support::world::{
    World, at,
    billing::{BASIC, PRO, TOKENS},
    on_both_engines,
};

on_both_engines!(
    usage_without_a_subscription_waits_for_one,
    usage_that_no_subscription_came_for_is_too_late,
    a_meter_without_an_item_waits_for_another_subscription,
    usage_of_a_trial_is_not_billable,
    usage_of_a_paused_subscription_waits,
    uncharged_usage_can_be_written_off,
    uncharged_usage_does_not_prevent_a_plan_change,
    a_replaced_price_is_a_boundary,
);

const NOW: &str = "2027-03-20T08:30:10Z";

/// The quantities of an account's reports in each state.
async fn in_state(world: &World, account: &str, state: ReportState) -> Vec<i64> {
    let reports = world.reports(account).await;
    let of_state = reports.iter().filter(|report| report.state == state);
    of_state.map(|report| report.quantity).collect()
}

/// A customer without a subscription, linked since a week ago.
async fn start_without_subscription(world: &mut World) -> DateTime<Utc> {
    let now = at(NOW);
    world.with_prices_at(now).await;
    world.stripe().create_customer("cus_acct").await.unwrap();
    let link = PutAccount::stripe("acct", "cus_acct").bill_from(now - TimeDelta::days(7));
    world.client().put_account(link).await.unwrap();
    now
}

async fn usage_without_a_subscription_waits_for_one(mut world: World) {
    let now = start_without_subscription(&mut world).await;
    world.count("acct", 5, now).await;
    world.report_all().await;
    assert_eq!(in_state(&world, "acct", ReportState::Uncharged).await, [5]);
    assert!(world.all_attempts().await.is_empty(), "nothing is sent");
    // It is told.
    let (severity, line) = world.doctor_says(None, "reports").await;
    assert_eq!(severity, Severity::Bad, "{line}");
    assert!(
        line.contains("uncharged: 1 reports, 5 units, of acct"),
        "{line}"
    );
    let page = world
        .client()
        .reconcile(Reconcile::new().account("acct"))
        .await;
    let rows = page.unwrap().rows;
    assert_eq!((rows[0].counted, rows[0].reported), (5, 0), "a difference");
    assert_eq!(rows[0].states[0].state, ReportState::Uncharged);
    assert_eq!(world.usage("acct").await, (5, 0, 5, 0));

    // A subscription that began before charges it.
    world
        .subscribe("acct", &[BASIC], now - TimeDelta::days(2))
        .await;
    let later = now + TimeDelta::minutes(1);
    world.move_clocks(later).await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted, ReportState::Confirmed])
        .await;
    let end = at("2027-04-18T08:30:10Z");
    world.move_clocks(end).await;
    world.advance_past_draft(end).await;
    world.assert_invoiced(&[5]).await;
    world.finish().await;
}

async fn usage_that_no_subscription_came_for_is_too_late(mut world: World) {
    let now = start_without_subscription(&mut world).await;
    world.count("acct", 5, now).await;
    world.report_all().await;
    assert_eq!(in_state(&world, "acct", ReportState::Uncharged).await, [5]);
    world.move_clocks(now + TimeDelta::days(34)).await;
    world.report_all().await;
    assert_eq!(in_state(&world, "acct", ReportState::Uncharged).await, [5]);
    world.move_clocks(now + TimeDelta::days(36)).await;
    world
        .wait_until_reports_are("acct", &[ReportState::TooLate])
        .await;
    assert!(world.all_attempts().await.is_empty(), "nothing is sent");
    world.finish().await;
}

/// Reports 3 calls, which a subscription charges since two days ago, and 7 tokens, which nothing charges.
async fn count_with_one_item(world: &mut World) -> (DateTime<Utc>, DateTime<Utc>) {
    let now = at(NOW);
    let since = now - TimeDelta::days(2);
    world.start_subscribed(now, &[BASIC], since).await;
    world.count("acct", 3, now).await;
    world.count_of("acct", "tokens", 7, now).await;
    world.report_all().await;
    assert_eq!(in_state(world, "acct", ReportState::Uncharged).await, [7]);
    (now, since)
}

async fn a_meter_without_an_item_waits_for_another_subscription(mut world: World) {
    let (now, since) = count_with_one_item(&mut world).await;
    assert_eq!(world.meter_events("cus_acct").await.len(), 1);
    // Another subscription of the customer has an item of the meter, with a period of its own. The account's link does not
    // follow it.
    let other = NewSubscription {
        id: "sub_other".to_owned(),
        customer: "cus_acct".to_owned(),
        prices: vec![TOKENS.to_owned()],
        anchor: Some((since - TimeDelta::days(3)).timestamp()),
        ..NewSubscription::default()
    };
    world.stripe().create_subscription(&other).await.unwrap();
    world.move_clocks(now + TimeDelta::minutes(1)).await;
    world
        .wait_until("the tokens at Stripe", async || {
            world.stripe_total("cus_acct", "llm_tokens").await == 7
        })
        .await;
    let known = "billing_periods WHERE meter = 'tokens' AND subscription = 'sub_other'";
    assert_eq!(world.count_rows(known).await, 1);
    // Its end is a boundary, and no report is requested.
    let end = at("2027-04-15T08:30:10Z");
    world.move_clocks(end - TimeDelta::seconds(1)).await;
    world.count_of("acct", "tokens", 5, world.now()).await;
    world.move_clocks(end).await;
    world.count_of("acct", "tokens", 2, end).await;
    world.advance_past_draft(end).await;
    let tokens = world.invoiced_quantities("cus_acct", "llm_tokens").await;
    assert_eq!(tokens, [12]);
    world.advance_past_draft(at("2027-04-18T08:30:10Z")).await;
    world.assert_invoiced(&[3]).await;
    world.finish().await;
}

/// A subscription with a trial of two days.
async fn start_trial(world: &mut World, at_end: &str) -> (DateTime<Utc>, DateTime<Utc>) {
    let now = at(NOW);
    world.with_prices_at(now).await;
    let end = now + TimeDelta::days(2);
    let new = NewSubscription {
        id: "sub_acct".to_owned(),
        customer: "cus_acct".to_owned(),
        prices: vec![BASIC.to_owned()],
        trial_end: Some(end.timestamp()),
        missing_payment_method: Some(at_end.to_owned()),
        ..NewSubscription::default()
    };
    world.subscribe_as(new).await;
    world.link_to_subscription("acct").await;
    (now, end)
}

async fn usage_of_a_trial_is_not_billable(mut world: World) {
    let (now, end) = start_trial(&mut world, "create_invoice").await;
    world.move_clocks(now + TimeDelta::hours(1)).await;
    world.count("acct", 5, now + TimeDelta::minutes(10)).await;
    world.report_all().await;
    assert_eq!(
        in_state(&world, "acct", ReportState::NotBillable).await,
        [5]
    );
    world
        .advance_to(end + TimeDelta::hours(1), TimeDelta::hours(6))
        .await;
    world.count("acct", 7, world.now()).await;
    world.report_all().await;
    world.wait_until_all_sent().await;
    assert_eq!(world.usage("acct").await, (12, 7, 0, 5));
    let end = at("2027-04-22T08:30:10Z");
    world.move_clocks(end).await;
    world.advance_past_draft(end).await;
    world.assert_invoiced(&[7]).await;
    assert_eq!(world.stripe().discarded_usage().await.unwrap(), []);
    world.finish().await;
}

async fn usage_of_a_paused_subscription_waits(mut world: World) {
    let (_, end) = start_trial(&mut world, "pause").await;
    let paused = end + TimeDelta::hours(1);
    world.advance_to(paused, TimeDelta::hours(6)).await;
    world
        .wait_until_subscription("acct", |known| known.status == "paused")
        .await;
    world.count("acct", 5, paused).await;
    world.report_all().await;
    assert_eq!(in_state(&world, "acct", ReportState::Uncharged).await, [5]);
    assert!(world.all_attempts().await.is_empty(), "nothing is sent");
    // Resuming begins a period that does not charge what was before.
    world.move_clocks(paused + TimeDelta::hours(1)).await;
    world
        .call_stripe("POST", "/v1/subscriptions/sub_acct/resume", &[])
        .await;
    world.move_clocks(paused + TimeDelta::hours(2)).await;
    world.count("acct", 6, world.now()).await;
    world.report_all().await;
    world
        .wait_until("a decision", async || {
            in_state(&world, "acct", ReportState::TooLate).await == [5]
        })
        .await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 6);
    world.finish().await;
}

async fn uncharged_usage_can_be_written_off(mut world: World) {
    let now = start_without_subscription(&mut world).await;
    world.count("acct", 5, now).await;
    world.report_all().await;
    let report = world.reports("acct").await.remove(0);
    assert_eq!(report.state, ReportState::Uncharged);
    let client = world.client();
    let resolve = |action| {
        client.resolve_report(ResolveReport::new(
            &report.account_id,
            &report.id,
            action,
            "a gift",
        ))
    };
    let refused = resolve(ResolveAction::BillInCurrentPeriod).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::NotResolvable), "{refused}");
    resolve(ResolveAction::Retry).await.unwrap();
    world
        .wait_until_reports_are("acct", &[ReportState::Uncharged])
        .await;
    resolve(ResolveAction::WriteOff).await.unwrap();
    assert_eq!(in_state(&world, "acct", ReportState::WrittenOff).await, [5]);
    assert!(world.all_attempts().await.is_empty(), "nothing is sent");
    world.finish().await;
}

async fn uncharged_usage_does_not_prevent_a_plan_change(mut world: World) {
    count_with_one_item(&mut world).await;
    let client = world.client().clone();
    let change = client.change_plan(ChangePlan::new("acct", PRO));
    let changed = world.while_clock_moves(change).await.unwrap();
    assert!(changed.change.is_some());
    world.assert_invoiced(&[3]).await;
    world
        .wait_until("a decision", async || {
            in_state(&world, "acct", ReportState::Uncharged).await == [7]
        })
        .await;
    world.finish().await;
}

async fn a_replaced_price_is_a_boundary(mut world: World) {
    let now = at(NOW);
    world
        .start_subscribed(now, &[BASIC], now - TimeDelta::days(2))
        .await;
    world.count("acct", 4, now).await;
    world.report_all().await;
    world.wait_until_all_sent().await;
    world.count("acct", 2, now + TimeDelta::minutes(1)).await;
    // In Stripe's dashboard the price of the item is replaced. The item and its period stay.
    let item = world.stripe().subscriptions().await.unwrap()[0].items[0]
        .id
        .clone();
    world
        .call_stripe(
            "POST",
            "/v1/subscriptions/sub_acct",
            &[("items[0][id]", item.as_str()), ("items[0][price]", PRO)],
        )
        .await;
    world.move_clocks(now + TimeDelta::minutes(2)).await;
    world
        .wait_until_subscription("acct", |known| known.periods[0].price == PRO)
        .await;
    world.count("acct", 5, world.now()).await;
    world.report_all().await;
    // What was counted before and not sent is decided on.
    assert_eq!(in_state(&world, "acct", ReportState::TooLate).await, [2]);
    let periods = world.subscription("acct").await.unwrap().periods;
    let events = world.meter_events("cus_acct").await;
    let boundary = periods[0].period.start;
    assert_eq!(boundary, periods[1].period.end);
    assert!(
        events
            .iter()
            .any(|event| event.timestamp >= boundary.timestamp())
    );
    world.finish().await;
}
