//! Plan changes and cancellations: either usage before them is charged, or nothing is changed.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::{Fault, NewPrice, NewSubscription};
use usage_client::{CancelSubscription, ChangePlan, ErrorKind, Reason, ReportState};

use crate::support::world::{
    World, at,
    billing::{BASIC, PRO, SEATS},
    on_both_engines,
};

on_both_engines!(
    a_plan_change_charges_usage_by_the_plan_it_happened_in,
    a_change_with_a_lost_response_is_made_once,
    a_change_survives_a_crash_at_any_step,
    usage_that_stripe_does_not_show_prevents_a_change,
    changes_that_would_lose_usage_are_refused,
    reports_that_need_a_decision_block_a_change,
    a_second_change_waits_for_the_first,
    a_refused_change_ends_and_leaves_everything_as_it_was,
);

const START: &str = "2027-03-10T13:12:34Z";

async fn a_plan_change_charges_usage_by_the_plan_it_happened_in(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world
        .start_subscribed(now, &[BASIC, SEATS], at(START))
        .await;
    world.count("acct", 11, now - TimeDelta::days(1)).await;
    world.count("acct", 2, now).await;
    let client = world.client().clone();
    let change = ChangePlan::new("acct", PRO).requested_by("admin");
    let changed = world
        .while_clock_moves(client.change_plan(change.clone()))
        .await;
    let change_done = changed.unwrap().change.expect("a change");
    let by = &change_done.requested_by;
    assert!(by.starts_with("admin (no key, 127.0.0.1:"), "{by}");
    world.assert_invoiced(&[13]).await;
    // Usage from now on belongs to the new plan, even in the same second as the change.
    world.count("acct", 5, change_done.boundary).await;
    world.count("acct", 6, world.now()).await;
    let again = client.change_plan(change).await.unwrap();
    assert_eq!(again.change, None, "nothing is left to change");
    let end = at("2027-04-10T13:12:34Z");
    world.move_clocks(end).await;
    world.advance_past_draft(end).await;
    world.assert_invoiced(&[13, 11]).await;
    assert_eq!(world.stripe().discarded_usage().await.unwrap(), []);
    world.finish().await;
}

async fn a_change_with_a_lost_response_is_made_once(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count("acct", 4, now).await;
    let stripe = world.stripe();
    let lost = Fault::accept_then_drop()
        .on_method("POST")
        .on_path("/v1/subscriptions/");
    stripe.script(lost).await.unwrap();
    let client = world.client().clone();
    let changed = world
        .while_clock_moves(client.change_plan(ChangePlan::new("acct", PRO)))
        .await;
    assert!(changed.unwrap().change.is_some());
    world.assert_invoiced(&[4]).await;
    let subscriptions = world.stripe().subscriptions().await.unwrap();
    let prices: Vec<&str> = subscriptions[0]
        .items
        .iter()
        .map(|item| item.price.as_str())
        .collect();
    assert_eq!(prices, [PRO]);
    world.finish().await;
}

async fn a_change_survives_a_crash_at_any_step(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count("acct", 4, now).await;
    for (step, path) in [
        ("draining", "/v1/billing/meter_events"),
        ("changing", "/v1/subscriptions/"),
    ] {
        let hold = Fault::block_until_released(step)
            .on_method("POST")
            .on_path(path)
            .after_executing();
        world.stripe().script(hold).await.unwrap();
    }
    let client = world.client().clone();
    let call = tokio::spawn(async move { client.change_plan(ChangePlan::new("acct", PRO)).await });
    for step in ["draining", "changing"] {
        // A request that meets a blocked one is refused, and its retry is due by the clock.
        let mut waits = 0;
        let second = Duration::from_secs(1);
        let stripe = world.stripe();
        while let Err(error) = stripe.wait_for_blocked(step, 1, second).await {
            waits += 1;
            assert!(waits < 60, "{error}");
            world.move_clocks(world.now() + TimeDelta::seconds(1)).await;
        }
        if step == "draining" {
            world.move_clocks(world.now() + TimeDelta::seconds(2)).await;
        }
        world.crash_and_restart().await;
        world.stripe().release(step).await.unwrap();
        // The work of the crashed replica is resumed after half a minute without progress.
        world
            .move_clocks(world.now() + TimeDelta::seconds(40))
            .await;
    }
    assert!(call.await.unwrap().is_err(), "its server died");
    let client = world.client().clone();
    let again = client.change_plan(ChangePlan::new("acct", PRO)).await;
    let again = again.unwrap();
    world
        .wait_until("the change is done", async || {
            world
                .count_rows("subscription_changes WHERE step = 'done'")
                .await
                == 1
        })
        .await;
    assert!(again.account.stripe().is_some());
    world.assert_invoiced(&[4]).await;
    assert_eq!(world.count_rows("subscription_changes").await, 1);
    world.finish().await;
}

async fn usage_that_stripe_does_not_show_prevents_a_change(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count("acct", 4, now).await;
    world
        .stripe()
        .set_summary_delay(Duration::from_hours(24))
        .await
        .unwrap();
    let client = world.client().clone();
    let (refused, ()) = tokio::join!(
        client.cancel_subscription(CancelSubscription::now("acct")),
        async {
            world.advance_once_change_begins().await;
            world.count("acct", 3, world.now()).await;
            world
                .wait_until_reports_are("acct", &[ReportState::Accepted, ReportState::Open])
                .await;
            world
                .move_clocks(world.now() + TimeDelta::seconds(125))
                .await;
        }
    );
    let refused = refused.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::ChangeTimedOut), "{refused}");
    let subscriptions = world.stripe().subscriptions().await.unwrap();
    assert_eq!(subscriptions[0].status, "active");
    // Usage in the meantime is billed as before.
    world
        .advance_to(at("2027-04-10T13:12:34Z"), TimeDelta::days(7))
        .await;
    world.report_all().await;
    world
        .advance_to(at("2027-04-10T15:00:00Z"), TimeDelta::minutes(30))
        .await;
    world.assert_invoiced(&[7]).await;
    world.finish().await;
}

/// Creates linked accounts with a per-unit price, with classic billing mode and with a valid subscription, and a free
/// account.
async fn subscribe_unchangeable(world: &World, now: DateTime<Utc>) {
    let meters = world.stripe().meters().await.unwrap();
    let meter = meters
        .iter()
        .find(|meter| meter.event_name == "api_calls")
        .unwrap();
    let by_unit = NewPrice::per_unit("price_unit", "prod_calls", &meter.id, "7");
    world.stripe().create_price(&by_unit).await.unwrap();
    for (name, price, classic) in [
        ("flat", "price_unit", false),
        ("old", BASIC, true),
        ("fine", BASIC, false),
    ] {
        world
            .subscribe_as(NewSubscription {
                id: format!("sub_{name}"),
                customer: format!("cus_{name}"),
                prices: vec![price.to_owned()],
                anchor: Some(at(START).timestamp()),
                classic,
                ..NewSubscription::default()
            })
            .await;
        world.link_to_subscription(name).await;
        world.count(name, 1, now).await;
    }
    world
        .client()
        .put_account(usage_client::PutAccount::free("free"))
        .await
        .unwrap();
}

async fn changes_that_would_lose_usage_are_refused(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.with_prices_at(now).await;
    subscribe_unchangeable(&world, now).await;
    let before = world.stripe().subscriptions().await.unwrap();
    for (account, price, says) in [
        ("flat", PRO, "not volume-tiered"),
        ("old", PRO, "flexible"),
        ("fine", "price_unit", "not volume-tiered"),
        ("fine", SEATS, "not of a configured meter"),
        ("free", PRO, "no live subscription"),
    ] {
        let refused = world
            .client()
            .change_plan(ChangePlan::new(account, price))
            .await
            .unwrap_err();
        assert_eq!(
            refused.reason(),
            Some(&Reason::SubscriptionNotChangeable),
            "{refused}"
        );
        assert_eq!(refused.kind(), ErrorKind::Precondition);
        assert!(refused.to_string().contains(says), "{refused}");
    }
    let unknown = world
        .client()
        .change_plan(ChangePlan::new("fine", "price_nowhere"))
        .await;
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::Invalid);
    let unknown = world
        .client()
        .change_plan(ChangePlan::new("unknown", PRO))
        .await;
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::NotFound);
    let losing = CancelSubscription::now("fine").invoice_now(false);
    let refused = world
        .client()
        .cancel_subscription(losing)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("invoice_now"), "{refused}");
    let nul = CancelSubscription::now("fine").requested_by("a\0b");
    let refused = world.client().cancel_subscription(nul).await.unwrap_err();
    assert_eq!(refused.violations()[0].field, "requested_by", "{refused}");
    assert_eq!(
        world.stripe().subscriptions().await.unwrap(),
        before,
        "nothing was changed"
    );
    world.finish().await;
}

async fn reports_that_need_a_decision_block_a_change(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count("acct", 4, now).await;
    let fault = Fault::status(400)
        .with_error("meter_event_invalid", "no")
        .on_path("/v1/billing/meter_events");
    world.stripe().script(fault).await.unwrap();
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Rejected])
        .await;
    let refused = world
        .client()
        .cancel_subscription(CancelSubscription::now("acct"))
        .await
        .unwrap_err();
    assert_eq!(
        refused.reason(),
        Some(&Reason::UsageNeedsDecision),
        "{refused}"
    );
    world.finish().await;
}

async fn a_second_change_waits_for_the_first(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count("acct", 4, now).await;
    let client = world.client().clone();
    let (first, second, ()) = tokio::join!(
        client.change_plan(ChangePlan::new("acct", PRO)),
        client.change_plan(ChangePlan::new("acct", PRO)),
        async {
            let begun = async || world.count_rows("subscription_changes").await == 1;
            world.wait_until("a change begins", begun).await;
            let other = client
                .cancel_subscription(CancelSubscription::now("acct"))
                .await;
            assert_eq!(other.unwrap_err().reason(), Some(&Reason::ChangeInProgress));
            world.move_clocks(world.now() + TimeDelta::seconds(2)).await;
        }
    );
    assert_eq!(
        first.unwrap().change,
        second.unwrap().change,
        "both are the one change"
    );
    world.assert_invoiced(&[4]).await;
    world.finish().await;
}

async fn a_refused_change_ends_and_leaves_everything_as_it_was(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count("acct", 4, now).await;
    let periods = async |world: &World| world.subscription("acct").await.unwrap().periods;
    let before = periods(&world).await;
    let client = world.client().clone();
    // A key may read subscriptions and not write them.
    for (method, status) in [("POST", 403), ("DELETE", 401), ("POST", 400)] {
        let fault = Fault::status(status)
            .always()
            .on_method(method)
            .on_path("/v1/subscriptions/");
        world.stripe().script(fault).await.unwrap();
        let refused = if method == "POST" {
            let change = client.change_plan(ChangePlan::new("acct", PRO));
            world.while_clock_moves(change).await.map(|_| ())
        } else {
            let cancel = client.cancel_subscription(CancelSubscription::now("acct"));
            world.while_clock_moves(cancel).await.map(|_| ())
        };
        let refused = refused.unwrap_err();
        assert_eq!(
            refused.reason(),
            Some(&Reason::SubscriptionNotChangeable),
            "{refused}"
        );
        assert!(
            refused.to_string().contains(&status.to_string()),
            "{refused}"
        );
        world.stripe().clear_faults().await.unwrap();
        let unfinished = "subscription_changes WHERE finished_at IS NULL";
        assert_eq!(world.count_rows(unfinished).await, 0);
        assert_eq!(periods(&world).await, before, "{status}");
    }
    // What is used later is billed as before, on the same subscription.
    world.count("acct", 5, world.now()).await;
    let change = client.change_plan(ChangePlan::new("acct", PRO));
    assert!(
        world
            .while_clock_moves(change)
            .await
            .unwrap()
            .change
            .is_some()
    );
    world.assert_invoiced(&[9]).await;
    world.finish().await;
}
