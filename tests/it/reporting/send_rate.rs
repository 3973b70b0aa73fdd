//! The rate of meter events: it falls when Stripe gets too many, rises slowly afterwards, and no unit is lost or sent twice.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use usage_client::{Batch, Increment};

use crate::support::world::{TIMEOUT, World, hours_ago, on_both_engines};

on_both_engines!(the_rate_falls_when_stripe_gets_too_many_and_rises_slowly);

const ACCOUNTS: usize = 10;
/// Windows of each account.
const FIRST_WINDOWS: usize = 4;
const LATER_WINDOWS: usize = 25;
/// What the server may send at most, and what Stripe accepts at first, a second.
const HIGHEST: &str = "--stripe-events-per-sec=200";
const ACCEPTED: u32 = 10;
/// Few requests are under way at the old rate when it falls.
const CONCURRENCY: &str = "--stripe-concurrency=8";

/// Counts a unit of each account in each of some hours, and closes them.
async fn count_and_close(world: &World, windows: usize, hours: usize) {
    let mut batch = Batch::new();
    for account in 0..ACCOUNTS {
        for window in 0..windows {
            let hour = hours_ago(i64::try_from(hours + window).unwrap());
            let increment = Increment::new(format!("a{account}"));
            batch = batch.push(increment.timestamp(hour + TimeDelta::minutes(1)));
        }
    }
    let outcome = world.client().increment_batch(batch).await.unwrap();
    assert_eq!(outcome.refused().count(), 0);
    world.start_run().await;
}

/// When Stripe got each meter event request, in milliseconds, and whether there were too many.
async fn requests(world: &World) -> Vec<(i64, bool)> {
    let attempts = world.all_attempts().await;
    let received = attempts
        .iter()
        .map(|attempt| (attempt.received_at_ms, attempt.status == Some(429)));
    received.collect()
}

async fn the_rate_falls_when_stripe_gets_too_many_and_rises_slowly(mut world: World) {
    world.reconfigure(&[HIGHEST, CONCURRENCY]).await;
    for account in 0..ACCOUNTS {
        world
            .link_to_new_customer(&format!("a{account}"), &format!("cus_{account}"))
            .await;
    }
    let stripe = world.stripe();
    stripe.set_events_per_sec(ACCEPTED).await.unwrap();
    count_and_close(&world, FIRST_WINDOWS, 2).await;
    let first = ACCOUNTS * FIRST_WINDOWS;
    stripe.wait_for_events(first, TIMEOUT).await.unwrap();
    world.wait_until_all_sent().await;
    let sent = requests(&world).await;
    assert!(sent.iter().any(|(_, is_refused)| *is_refused));

    // Stripe would accept everything at once. The sender begins at the rate to which it fell, and gets faster.
    stripe.set_events_per_sec(1_000).await.unwrap();
    count_and_close(&world, LATER_WINDOWS, 10).await;
    let later = ACCOUNTS * LATER_WINDOWS;
    stripe
        .wait_for_events(first + later, TIMEOUT)
        .await
        .unwrap();
    world.wait_until_all_sent().await;
    let rising = requests(&world).await.split_off(sent.len());
    let times: Vec<i64> = rising.iter().map(|(at, _)| *at).collect();
    let quarter = times.len() / 4;
    let first_quarter = times[quarter] - times[0];
    let last_quarter = times[times.len() - 1] - times[times.len() - 1 - quarter];
    let took = format!("{first_quarter} ms for the first quarter, {last_quarter} ms for the last");
    // 80 a second, which is far from the highest rate.
    let at_80_per_sec = i64::try_from(quarter * 1_000 / 80).unwrap();
    assert!(first_quarter > at_80_per_sec, "it fell: {took}");
    assert!(20 * first_quarter > 21 * last_quarter, "it rises: {took}");

    let events = stripe.events().await.unwrap();
    let identifiers: BTreeSet<&String> = events.iter().map(|event| &event.identifier).collect();
    assert_eq!(
        (events.len(), identifiers.len()),
        (first + later, first + later)
    );
    let stats = stripe.stats().await.unwrap();
    assert_eq!(stats.duplicates_refused, 0);
    assert_eq!(stats.max_in_flight_per_customer_meter, 1);
    for account in 0..ACCOUNTS {
        let units = i64::try_from(FIRST_WINDOWS + LATER_WINDOWS).unwrap();
        let customer = format!("cus_{account}");
        let total = world.stripe_total(&customer, "api_calls").await;
        assert_eq!(total, units, "{customer}");
    }
    world.finish().await;
}
