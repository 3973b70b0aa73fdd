//! Cancellations: usage before a cancellation is invoiced, and usage after it is not billed.

use chrono::TimeDelta;
use fake_stripe::NewSubscription;
use usage_client::{CancelSubscription, ReportState};

use crate::support::world::{
    World, at,
    billing::{BASIC, PRO, SEATS},
    on_both_engines,
};

const START: &str = "2027-03-10T13:12:34Z";

on_both_engines!(
    a_cancel_invoices_what_was_used_and_bills_nothing_after,
    a_cancel_at_the_periods_end_bills_until_then_and_nothing_after,
    a_new_subscription_after_a_cancel_bills_again,
);

async fn a_cancel_invoices_what_was_used_and_bills_nothing_after(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world
        .start_subscribed(now, &[BASIC, SEATS], at(START))
        .await;
    world.count("acct", 11, now - TimeDelta::days(1)).await;
    world.count("acct", 2, now).await;
    let cancel = CancelSubscription::now("acct").prorate(true);
    let client = world.client().clone();
    let changed = world
        .while_clock_moves(client.cancel_subscription(cancel.clone()))
        .await;
    let changed = changed.unwrap();
    assert_eq!(changed.account.subscription.unwrap().status, "canceled");
    let boundary = changed.change.clone().unwrap().boundary;
    world.assert_invoiced(&[13]).await;
    world.count("acct", 100, boundary).await;
    world.report_all().await;
    let after = world.reports("acct").await.pop().unwrap();
    assert!(
        after.quantity == 100
            || world.reports("acct").await.iter().any(|report| {
                report.quantity == 100 && report.state == ReportState::NotBillable
            })
    );
    let again = client.cancel_subscription(cancel).await.unwrap();
    assert_eq!(again.change, changed.change, "the same change");
    world
        .advance_to(at("2027-04-10T15:00:00Z"), TimeDelta::days(8))
        .await;
    world.assert_invoiced(&[13]).await;
    assert_eq!(world.stripe().discarded_usage().await.unwrap(), []);
    world.finish().await;
}

async fn a_cancel_at_the_periods_end_bills_until_then_and_nothing_after(mut world: World) {
    let end = at("2027-04-10T13:12:34Z");
    world
        .start_subscribed(end - TimeDelta::days(2), &[BASIC], at(START))
        .await;
    let cancel = CancelSubscription::at_period_end("acct");
    let changed = world
        .client()
        .cancel_subscription(cancel.clone())
        .await
        .unwrap();
    assert_eq!(changed.account.subscription.unwrap().cancel_at, Some(end));
    world.client().cancel_subscription(cancel).await.unwrap();
    world.move_clocks(end - TimeDelta::milliseconds(1)).await;
    world.count("acct", 9, world.now()).await;
    world.move_clocks(end).await;
    world.count("acct", 50, end).await;
    world.advance_past_draft(end).await;
    world.assert_invoiced(&[9]).await;
    world.report_all().await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 9);
    assert_eq!(world.usage("acct").await, (59, 9, 0, 50));
    world.finish().await;
}

async fn a_new_subscription_after_a_cancel_bills_again(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count("acct", 4, now).await;
    let client = world.client().clone();
    let cancel = CancelSubscription::now("acct");
    let cancelled = world
        .while_clock_moves(client.cancel_subscription(cancel))
        .await;
    cancelled.unwrap();
    world.move_clocks(now + TimeDelta::days(1)).await;
    world.count("acct", 100, world.now()).await;
    let again = now + TimeDelta::days(2);
    world.move_clocks(again).await;
    world
        .subscribe_as(NewSubscription {
            id: "sub_again".to_owned(),
            customer: "cus_acct".to_owned(),
            prices: vec![PRO.to_owned()],
            ..NewSubscription::default()
        })
        .await;
    world.count("acct", 8, again).await;
    world
        .advance_to(again + TimeDelta::minutes(5), TimeDelta::minutes(5))
        .await;
    world
        .wait_until_subscription("acct", |known| known.id == "sub_again")
        .await;
    world
        .advance_to(at("2027-04-22T08:30:10Z"), TimeDelta::days(10))
        .await;
    world
        .advance_to(at("2027-04-22T10:00:00Z"), TimeDelta::minutes(10))
        .await;
    world.assert_invoiced(&[4, 8]).await;
    assert_eq!(world.usage("acct").await, (112, 12, 0, 100));
    world.finish().await;
}
