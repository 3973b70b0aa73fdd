//! Plan changes and cancels: what was used before them is charged, or nothing changes.

use chrono::TimeDelta;
use usage_client::{CancelSubscription, ChangePlan, ReportState};

use crate::world::{
    World, at,
    billing::{BASIC, PRO, SEATS},
    on_both_engines,
};

on_both_engines!(
    a_plan_change_charges_usage_by_the_plan_it_happened_in,
    a_cancel_invoices_what_was_used_and_bills_nothing_after,
);

const START: &str = "2027-03-10T13:12:34Z";

async fn a_plan_change_charges_usage_by_the_plan_it_happened_in(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.bill(now).await;
    world.subscribe("acct", &[BASIC, SEATS], at(START)).await;
    world.follow("acct").await;
    world.count("acct", 11, now - TimeDelta::days(1)).await;
    world.count("acct", 2, now).await;
    let client = world.client().clone();
    let change = ChangePlan::new("acct", PRO).requested_by("admin");
    let (changed, ()) = tokio::join!(
        client.change_plan(change.clone()),
        world.tick_once_changing()
    );
    let change_done = changed.unwrap().change.expect("a change");
    assert_eq!(change_done.requested_by, "admin");
    assert_eq!(world.charged("cus_acct", "api_calls").await, [13]);
    // What is used from now on is the new plan's, in the very second of the change too.
    world.count("acct", 5, change_done.boundary).await;
    world.count("acct", 6, world.now()).await;
    let again = client.change_plan(change).await.unwrap();
    assert_eq!(again.change, None, "it is true already");
    let end = at("2027-04-10T13:12:34Z");
    world.move_clocks(end).await;
    world
        .pass(end + TimeDelta::minutes(80), TimeDelta::minutes(10))
        .await;
    assert_eq!(world.charged("cus_acct", "api_calls").await, [13, 11]);
    assert_eq!(world.stripe().thrown_away().await.unwrap(), []);
    world.finish().await;
}

async fn a_cancel_invoices_what_was_used_and_bills_nothing_after(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.bill(now).await;
    world.subscribe("acct", &[BASIC, SEATS], at(START)).await;
    world.follow("acct").await;
    world.count("acct", 11, now - TimeDelta::days(1)).await;
    world.count("acct", 2, now).await;
    let cancel = CancelSubscription::now("acct").prorate(true);
    let client = world.client().clone();
    let (changed, ()) = tokio::join!(
        client.cancel_subscription(cancel.clone()),
        world.tick_once_changing()
    );
    let changed = changed.unwrap();
    assert_eq!(changed.account.subscription.unwrap().status, "canceled");
    let boundary = changed.change.clone().unwrap().boundary;
    assert_eq!(world.charged("cus_acct", "api_calls").await, [13]);
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
        .pass(at("2027-04-10T15:00:00Z"), TimeDelta::days(8))
        .await;
    assert_eq!(world.charged("cus_acct", "api_calls").await, [13]);
    assert_eq!(world.stripe().thrown_away().await.unwrap(), []);
    world.finish().await;
}
