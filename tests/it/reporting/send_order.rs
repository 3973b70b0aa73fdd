//! What is due soonest is sent first.

use chrono::TimeDelta;
use fake_stripe::Fault;
use usage_client::{ChangePlan, PutAccount};

use crate::support::world::{
    TIMEOUT, World, at,
    billing::{BASIC, PRO},
    on_both_engines,
};

on_both_engines!(
    what_is_due_soonest_is_sent_first,
    usage_before_a_plan_change_is_sent_before_other_usage,
    a_period_that_becomes_known_moves_its_usage_forward,
);

const NOW: &str = "2027-03-20T08:30:10Z";

/// One event at a time, and accounts whose customers are in the opposite order of their periods' ends.
async fn start(world: &mut World) {
    world.reconfigure(&["--stripe-concurrency=1"]).await;
    world.with_prices_at(at(NOW)).await;
}

/// Two hours of usage of accounts, closed at the same time.
async fn count_and_close(world: &World, accounts: &[&str]) {
    for account in accounts {
        for hours in [2, 5] {
            world
                .count(account, hours, at(NOW) - TimeDelta::hours(hours))
                .await;
        }
    }
    world.start_run().await;
}

/// Counts usage of the three accounts, and holds the first event of account `a`: the others wait meanwhile.
async fn count_with_the_first_held(world: &World) {
    let hold = Fault::block_until_released("first").on_customer("cus_a");
    let hold = hold.on_path("/v1/billing/meter_events");
    world.stripe().script(hold).await.unwrap();
    count_and_close(world, &["a", "b", "c"]).await;
    let stripe = world.stripe();
    stripe.wait_for_blocked("first", 1, TIMEOUT).await.unwrap();
}

/// The customers of the requests that sent meter events, in order.
async fn sent_to(world: &World) -> Vec<String> {
    let attempts = world.all_attempts().await;
    attempts
        .into_iter()
        .filter_map(|attempt| attempt.customer)
        .collect()
}

/// Links an account to a customer, who may have no subscription yet.
async fn link_from_days_ago(world: &World, account: &str) {
    let customer = format!("cus_{account}");
    let put = PutAccount::stripe(account, customer);
    let put = put.bill_from(at(NOW) - TimeDelta::days(9));
    world.client().put_account(put).await.unwrap();
}

async fn what_is_due_soonest_is_sent_first(mut world: World) {
    start(&mut world).await;
    // By the year.
    let stripe = world.stripe();
    stripe.create_subscribed_customer("cus_a").await.unwrap();
    link_from_days_ago(&world, "a").await;
    for (account, since) in [("b", "2027-03-10T10:00:00Z"), ("c", "2027-02-22T10:00:00Z")] {
        world.subscribe(account, &[BASIC], at(since)).await;
        world.link_to_subscription(account).await;
    }
    count_and_close(&world, &["a", "b", "c"]).await;
    world.stripe().wait_for_events(6, TIMEOUT).await.unwrap();
    let expected = ["cus_c", "cus_c", "cus_b", "cus_b", "cus_a", "cus_a"];
    assert_eq!(sent_to(&world).await, expected);
    world.finish().await;
}

async fn usage_before_a_plan_change_is_sent_before_other_usage(mut world: World) {
    start(&mut world).await;
    for (account, since) in [
        ("a", "2027-02-22T10:00:00Z"),
        ("b", "2027-03-02T10:00:00Z"),
        ("c", "2027-03-10T10:00:00Z"),
    ] {
        world.subscribe(account, &[BASIC], at(since)).await;
        world.link_to_subscription(account).await;
    }
    count_with_the_first_held(&world).await;

    let client = world.client();
    let change = ChangePlan::new("c", PRO).requested_by("admin");
    let change = tokio::spawn(async move { client.change_plan(change).await });
    world
        .wait_until("the change to begin", async || {
            world.count_rows("subscription_changes").await == 1
        })
        .await;
    world.stripe().release("first").await.unwrap();
    let changed = world.while_clock_moves(change).await.unwrap().unwrap();
    assert!(changed.change.is_some());
    world.wait_until_all_sent().await;
    let order = sent_to(&world).await;
    let place = |customer: &str| order.iter().position(|sent| sent == customer);
    assert_eq!(place("cus_a"), Some(0), "{order:?}");
    assert_eq!(
        order.get(1..3),
        Some(&["cus_c".to_owned(), "cus_c".to_owned()][..]),
        "{order:?}"
    );
    world.finish().await;
}

async fn a_period_that_becomes_known_moves_its_usage_forward(mut world: World) {
    start(&mut world).await;
    world
        .subscribe("a", &[BASIC], at("2027-02-22T10:00:00Z"))
        .await;
    world
        .subscribe("b", &[BASIC], at("2027-03-02T10:00:00Z"))
        .await;
    for account in ["a", "b"] {
        world.link_to_subscription(account).await;
    }
    world.stripe().create_customer("cus_c").await.unwrap();
    link_from_days_ago(&world, "c").await;
    count_with_the_first_held(&world).await;

    // Its period ends before that of `b`.
    world
        .subscribe("c", &[BASIC], at("2027-02-25T10:00:00Z"))
        .await;
    world.link_to_subscription("c").await;
    world
        .wait_until_subscription("c", |known| !known.periods.is_empty())
        .await;
    world.stripe().release("first").await.unwrap();
    world.wait_until_all_sent().await;
    let expected = ["cus_a", "cus_a", "cus_c", "cus_c", "cus_b", "cus_b"];
    assert_eq!(sent_to(&world).await, expected);
    world.finish().await;
}
