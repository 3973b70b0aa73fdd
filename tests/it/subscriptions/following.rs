//! What polling follows without a webhook: a next subscription, a customer of a test clock, and all others although some
//! accounts fail or some objects cannot be read.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::{Fault, NewSubscription};
use usage_client::{InvoiceState, PutAccount};
use usage_server::commands::doctor::Severity;

use crate::support::world::{
    World, at,
    billing::{BASIC, TOKENS},
    on_both_engines,
};

on_both_engines!(
    a_named_subscription_that_ended_is_followed_by_the_next_one,
    a_customer_of_a_test_clock_is_followed,
    an_unreadable_subscription_hides_no_other,
    an_account_stays_as_it_was_while_its_subscription_is_unreadable,
    an_unreadable_subscription_of_another_app_holds_nothing_up,
    an_invoice_is_not_given_up_while_one_is_unreadable,
    an_unreadable_meter_hides_no_other,
    failing_accounts_delay_no_others,
);

const START: &str = "2027-03-10T13:12:34Z";
const END: &str = "2027-04-10T13:12:34Z";
const NOW: &str = "2027-03-20T08:30:10Z";

/// Creates a subscription that begins now.
async fn subscribe_now(world: &World, customer: &str, id: &str, price: &str) {
    let new = NewSubscription {
        id: id.to_owned(),
        customer: customer.to_owned(),
        prices: vec![price.to_owned()],
        ..NewSubscription::default()
    };
    world.stripe().create_subscription(&new).await.unwrap();
}

/// Counts usage now and reports it.
async fn assert_billed(world: &World, account: &str, now: DateTime<Utc>) {
    world.move_clocks(now).await;
    world.count(account, 5, now).await;
    world.report_all().await;
    world.wait_until_sent(account).await;
    let customer = format!("cus_{account}");
    assert_eq!(world.stripe_total(&customer, "api_calls").await, 5);
}

async fn a_named_subscription_that_ended_is_followed_by_the_next_one(mut world: World) {
    let now = at(NOW);
    world.with_prices_at(now).await;
    world.subscribe("acct", &[BASIC], at(START)).await;
    let named = PutAccount::stripe("acct", "cus_acct").subscription("sub_acct");
    world.client().put_account(named).await.unwrap();
    world
        .call_stripe("DELETE", "/v1/subscriptions/sub_acct", &[])
        .await;
    world.move_clocks(now + TimeDelta::minutes(1)).await;
    world
        .wait_until_subscription("acct", |known| known.ended_at.is_some())
        .await;
    subscribe_now(&world, "cus_acct", "sub_next", BASIC).await;
    world.move_clocks(now + TimeDelta::minutes(2)).await;
    world
        .wait_until_subscription("acct", |known| known.id == "sub_next")
        .await;
    assert_billed(&world, "acct", now + TimeDelta::minutes(3)).await;
    world.finish().await;
}

async fn a_customer_of_a_test_clock_is_followed(mut world: World) {
    let now = at(NOW);
    world.with_prices_at(now).await;
    let stripe = world.stripe();
    let created = stripe.create_customer_of_test_clock("cus_acct", "clock_1");
    created.await.unwrap();
    let linked = PutAccount::stripe("acct", "cus_acct");
    let linked = world.client().put_account(linked).await.unwrap();
    assert!(!linked.is_unverified);
    subscribe_now(&world, "cus_acct", "sub_acct", BASIC).await;
    world.move_clocks(now + TimeDelta::minutes(1)).await;
    world
        .wait_until_subscription("acct", |known| known.id == "sub_acct")
        .await;
    assert_billed(&world, "acct", now + TimeDelta::minutes(2)).await;
    for check in ["customers", "subscriptions", "links"] {
        let (severity, told) = world.doctor_says(None, check).await;
        assert_eq!(severity, Severity::Ok, "{told}");
    }
    world.finish().await;
}

/// Alters an object in every answer until the faults are cleared.
async fn alter(world: &World, object: &str, field: &str, json: Option<&str>) {
    let fault = Fault::alter(object, field, json).on_method("GET").always();
    world.stripe().script(fault).await.unwrap();
}

async fn an_unreadable_subscription_hides_no_other(mut world: World) {
    let mut now = at(NOW);
    world.with_prices_at(now).await;
    world.subscribe("bad", &[BASIC], at(START)).await;
    world.link_to_subscription("bad").await;
    let item = world.stripe().subscriptions().await.unwrap()[0].items[0]
        .id
        .clone();
    let skipped = "usage_stripe_unreadable_objects_total{object=\"subscription\"}";
    let before = world.metric(skipped).await;
    // Missing, null, of another type, and in an item.
    for (number, (object, field, json)) in [
        ("sub_bad", "billing_mode", None),
        ("sub_bad", "created", Some("null")),
        ("sub_bad", "status", Some("7")),
        (item.as_str(), "price", Some("\"free\"")),
    ]
    .into_iter()
    .enumerate()
    {
        alter(&world, object, field, json).await;
        let name = format!("good_{number}");
        let customer = format!("cus_{name}");
        world.create_customers(&[&customer]).await;
        let link = PutAccount::stripe(&name, &customer);
        world.client().put_account(link).await.unwrap();
        // Only a list shows this one.
        let id = format!("sub_{name}");
        subscribe_now(&world, &customer, &id, BASIC).await;
        now += TimeDelta::minutes(1);
        world.move_clocks(now).await;
        world
            .wait_until_subscription(&name, |known| known.id == id)
            .await;
        now += TimeDelta::minutes(1);
        assert_billed(&world, &name, now).await;
        let bad = world.subscription("bad").await.unwrap();
        assert_eq!((bad.status.as_str(), bad.ended_at), ("active", None));
        let (severity, told) = world.doctor_says(None, "subscriptions").await;
        assert_eq!(severity, Severity::Bad, "{told}");
        let named = "subscription sub_bad cannot be read (cus_bad)";
        assert!(told.contains(named), "{told}");
        world.stripe().clear_faults().await.unwrap();
    }
    world.wait_until_metric_is_above(skipped, before + 3).await;
    now += TimeDelta::minutes(1);
    assert_billed(&world, "bad", now).await;
    world
        .wait_until("nothing is open", async || {
            world.count_rows("customers WHERE watch IS NOT NULL").await == 0
        })
        .await;
    world.finish().await;
}

async fn an_account_stays_as_it_was_while_its_subscription_is_unreadable(mut world: World) {
    let now = at(NOW);
    world.start_subscribed(now, &[BASIC], at(START)).await;
    alter(&world, "sub_acct", "status", None).await;
    subscribe_now(&world, "cus_acct", "sub_other", TOKENS).await;
    world.move_clocks(now + TimeDelta::minutes(1)).await;
    world
        .wait_until("a problem is recorded", async || {
            world.count_rows("customers WHERE watch = 'problem'").await == 1
        })
        .await;
    let known = world.subscription("acct").await.unwrap();
    assert_eq!((known.id.as_str(), known.ended_at), ("sub_acct", None));
    // The other one is followed meanwhile.
    world.count_of("acct", "tokens", 4, world.now()).await;
    world.report_all().await;
    world.wait_until_all_sent().await;
    assert_eq!(world.stripe_total("cus_acct", "llm_tokens").await, 4);
    let (severity, told) = world.doctor_says(None, "links").await;
    assert_eq!(severity, Severity::Bad, "{told}");
    assert!(
        told.contains("subscription sub_acct cannot be read"),
        "{told}"
    );
    world.stripe().clear_faults().await.unwrap();
    world.move_clocks(now + TimeDelta::minutes(2)).await;
    world
        .wait_until("nothing is open", async || {
            world.count_rows("customers WHERE watch IS NOT NULL").await == 0
        })
        .await;
    world.finish().await;
}

async fn an_unreadable_subscription_of_another_app_holds_nothing_up(mut world: World) {
    let now = at(NOW);
    world.with_prices_at(now).await;
    world.create_customers(&["cus_acct"]).await;
    subscribe_now(&world, "cus_acct", "sub_foreign", TOKENS).await;
    alter(&world, "sub_foreign", "status", None).await;
    world.subscribe("acct", &[BASIC], at(START)).await;
    let linked = world.link_to_subscription("acct").await;
    assert_eq!(linked.valid_from, at(START), "its period is known");
    assert_billed(&world, "acct", now + TimeDelta::minutes(1)).await;
    // The end of its own is followed too.
    world
        .call_stripe("DELETE", "/v1/subscriptions/sub_acct", &[])
        .await;
    world.move_clocks(now + TimeDelta::minutes(2)).await;
    world
        .wait_until_subscription("acct", |known| known.ended_at.is_some())
        .await;
    world.finish().await;
}

async fn an_invoice_is_not_given_up_while_one_is_unreadable(mut world: World) {
    let end = at(END);
    world
        .start_subscribed(end - TimeDelta::hours(2), &[BASIC], at(START))
        .await;
    world.count("acct", 3, world.now()).await;
    world
        .advance_to(end + TimeDelta::minutes(20), TimeDelta::minutes(20))
        .await;
    let invoices = world.stripe().invoices().await.unwrap();
    let invoice = invoices.last().unwrap().id.clone();
    alter(&world, &invoice, "status", Some("7")).await;
    world
        .advance_to(end + TimeDelta::days(4), TimeDelta::days(1))
        .await;
    let period = async || {
        let known = world.subscription("acct").await.unwrap();
        let mut periods = known.periods.into_iter();
        periods.rfind(|period| period.period.end == end).unwrap()
    };
    assert_ne!(period().await.invoice_state, InvoiceState::Final);
    let (severity, told) = world.doctor_says(None, "links").await;
    assert_eq!(severity, Severity::Bad, "{told}");
    let named = format!("invoice {invoice} cannot be read");
    assert!(told.contains(&named), "{told}");
    world.stripe().clear_faults().await.unwrap();
    world.move_clocks(world.now() + TimeDelta::minutes(1)).await;
    world
        .wait_until("the invoice is read", async || {
            let read = period().await;
            read.invoice_state == InvoiceState::Final && read.invoice == Some(invoice.clone())
        })
        .await;
    world.finish().await;
}

async fn an_unreadable_meter_hides_no_other(mut world: World) {
    let now = at(NOW);
    world.with_prices_at(now).await;
    let foreign = world.stripe().create_meter("foreign").await;
    foreign.unwrap();
    let meters = world.stripe().meters().await.unwrap();
    let id = |name: &str| {
        let meter = meters.iter().find(|meter| meter.event_name == name);
        meter.unwrap().id.clone()
    };
    alter(&world, &id("foreign"), "status", None).await;
    // A restart forgets the ids of the meters.
    world.restart().await;
    world.subscribe("acct", &[BASIC], at(START)).await;
    world.link_to_subscription("acct").await;
    assert_billed(&world, "acct", now + TimeDelta::minutes(1)).await;
    let (severity, told) = world.doctor_says(None, "meter").await;
    assert_eq!(severity, Severity::Ok, "{told}");
    world.finish().await;
}

async fn failing_accounts_delay_no_others(mut world: World) {
    const FAILING: i64 = 20;
    let now = at(NOW);
    world.with_prices_at(now).await;
    // The poll reads the last ones first.
    let failing: Vec<String> = (0..FAILING)
        .map(|number| format!("z_{number:02}"))
        .collect();
    let good = ["a".to_owned()];
    for name in failing.iter().chain(&good) {
        world.subscribe(name, &[BASIC], at(START)).await;
        world.link_to_subscription(name).await;
    }
    for name in failing.iter().chain(&good) {
        let path = format!("/v1/subscriptions/sub_{name}");
        world.call_stripe("DELETE", &path, &[]).await;
    }
    for name in &failing {
        let fault = Fault::status(503).on_method("GET");
        let fault = fault.on_path("/v1/subscriptions");
        let fault = fault.on_customer(&format!("cus_{name}")).always();
        world.stripe().script(fault).await.unwrap();
    }
    world.move_clocks(now + TimeDelta::minutes(1)).await;
    // No list shows those that have ended.
    world
        .wait_until_subscription("a", |known| known.ended_at.is_some())
        .await;
    assert_eq!(
        world
            .count_rows("subscriptions WHERE ended_at IS NULL")
            .await,
        FAILING
    );
    world.stripe().clear_faults().await.unwrap();
    world.move_clocks(now + TimeDelta::minutes(2)).await;
    world
        .wait_until("all are read", async || {
            world
                .count_rows("subscriptions WHERE ended_at IS NULL")
                .await
                == 0
        })
        .await;
    world.finish().await;
}
