//! More meter events than Stripe accepts in a second: no unit is lost or sent twice. That the rate falls and rises is shown
//! in simulated time, in the unit tests of `workers/send_rate.rs`: here it would depend on the speed of the machine.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use usage_client::{Batch, Increment};

use crate::support::world::{TIMEOUT, World, hours_ago, on_both_engines};

on_both_engines!(what_stripe_gets_too_fast_is_sent_later_and_once);

const ACCOUNTS: usize = 10;
/// Windows of each account.
const FIRST_WINDOWS: usize = 4;
const LATER_WINDOWS: usize = 5;
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

async fn what_stripe_gets_too_fast_is_sent_later_and_once(mut world: World) {
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
    let attempts = world.all_attempts().await;
    assert!(attempts.iter().any(|attempt| attempt.status == Some(429)));

    // Stripe accepts everything at once now.
    stripe.set_events_per_sec(1_000).await.unwrap();
    count_and_close(&world, LATER_WINDOWS, 10).await;
    let later = ACCOUNTS * LATER_WINDOWS;
    stripe
        .wait_for_events(first + later, TIMEOUT)
        .await
        .unwrap();
    world.wait_until_all_sent().await;

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
