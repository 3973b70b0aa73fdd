//! Batches: one result per item, and an idempotency key for the whole batch.

use chrono::TimeDelta;
use usage_client::{Batch, BatchOutcome, ErrorKind, Increment, IncrementResult, Reason};
use usage_server::clock::Clock;

use crate::support::world::{World, at, hours_ago, on_both_engines};

on_both_engines!(
    invalid_items_do_not_affect_valid_items_of_a_batch,
    a_batch_holds_1_to_1000_increments,
    a_batch_key_has_at_most_255_bytes,
    a_repeated_batch_counts_nothing_and_returns_its_first_results,
    a_repeated_batch_is_known_after_a_restart_and_after_a_crash,
    concurrent_calls_with_one_batch_key_count_once,
    a_repeated_batch_is_accepted_after_its_times_are_too_old,
    a_batch_that_counted_nothing_is_remembered,
    a_reused_batch_key_with_other_content_is_refused,
    item_keys_are_shared_by_batches_and_single_calls,
    a_batch_without_a_key_counts_each_time,
    a_dry_run_returns_the_results_of_a_batch_and_counts_nothing,
);

async fn send(world: &World, batch: Batch) -> BatchOutcome {
    world.client().increment_batch(batch).await.unwrap()
}

/// The outcome of each item as one letter, with the field of a rejected one.
fn letters(outcome: &BatchOutcome) -> Vec<String> {
    let letter = |result: &IncrementResult| match result {
        IncrementResult::Counted => "C".to_owned(),
        IncrementResult::Duplicate => "D".to_owned(),
        IncrementResult::Refused { field, .. } => format!("R {field}"),
        other => panic!("{other:?}"),
    };
    outcome.results.iter().map(letter).collect()
}

fn keyed(key: &str, quantity: i64) -> Increment {
    Increment::new("acct").key(key).quantity(quantity)
}

/// A batch with every kind of item. It counts 100 + 1 of `acct` and 7 of `other`.
fn mixed() -> Batch {
    Batch::new()
        .push(keyed("new", 100))
        .push(Increment::new("acct").quantity(0))
        .push(keyed("old", 5))
        .push(Increment::new("acct"))
        .push(Increment::new("not an account"))
        .push(keyed("old", 6))
        .push(keyed("new", 100))
        .push(keyed("new", 101))
        .push(Increment::new("other").quantity(7).key("old"))
        .push(Increment::new("acct").meter("nope"))
        .push(Increment::new("acct").timestamp(hours_ago(24 * 40)))
}

const MIXED: [&str; 11] = [
    "C",
    "R quantity",
    "D",
    "C",
    "R account_id",
    "R quantity",
    "D",
    "R quantity",
    "C",
    "R meter",
    "R timestamp",
];

async fn invalid_items_do_not_affect_valid_items_of_a_batch(world: World) {
    world.client().increment(keyed("old", 5)).await.unwrap();
    let outcome = send(&world, mixed()).await;
    assert!(!outcome.duplicate);
    assert_eq!(letters(&outcome), MIXED);
    let reasons: Vec<&str> = outcome
        .refused()
        .map(|(_, result)| match result {
            IncrementResult::Refused {
                reason, message, ..
            } => {
                assert!(!message.is_empty());
                reason.as_str()
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        reasons,
        [
            "INVALID_FIELD",
            "INVALID_FIELD",
            "KEY_REUSED",
            "KEY_REUSED",
            "UNKNOWN_METER",
            "TIMESTAMP_TOO_OLD"
        ]
    );
    assert_eq!(world.usage("acct").await.0, 5 + 101);
    assert_eq!(world.usage("other").await.0, 7);
    world.finish().await;
}

async fn a_batch_holds_1_to_1000_increments(world: World) {
    for (wrong, value) in [(0, "has 0 items"), (1_001, "has 1001 items")] {
        let batch = Batch::from(vec![Increment::new("acct"); wrong]);
        let error = world.client().increment_batch(batch).await.unwrap_err();
        assert_eq!(error.reason(), Some(&Reason::InvalidField));
        let violation = &error.violations()[0];
        assert_eq!(violation.field, "increments");
        assert!(
            violation.description.contains(value) && violation.description.contains("1 to 1000")
        );
    }
    let longest = Increment::new("x".repeat(128)).meter("tokens");
    let largest: Batch = (0..1_000)
        .map(|n| longest.clone().key(format!("{n:0>255}")))
        .collect();
    let outcome = send(&world, largest).await;
    assert!(
        outcome
            .results
            .iter()
            .all(|result| *result == IncrementResult::Counted)
    );
    assert_eq!(world.usage_of(&"x".repeat(128), "tokens").await.0, 1_000);
    assert_eq!(world.usage("acct").await.0, 0);
    world.finish().await;
}

async fn a_batch_key_has_at_most_255_bytes(world: World) {
    let batch = Batch::new().push("acct");
    send(&world, batch.clone().key("é".repeat(127))).await;
    for wrong in ["k".repeat(256), "a\0".to_owned()] {
        let wrong = batch.clone().key(wrong);
        let error = world.client().increment_batch(wrong).await.unwrap_err();
        assert_eq!(error.reason(), Some(&Reason::InvalidField));
        assert_eq!(error.violations()[0].field, "idempotency_key");
    }
    assert_eq!(world.usage("acct").await.0, 1);
    world.finish().await;
}

async fn a_repeated_batch_counts_nothing_and_returns_its_first_results(world: World) {
    world.client().increment(keyed("old", 5)).await.unwrap();
    let batch = mixed().key("b");
    let first = send(&world, batch.clone()).await;
    assert!(!first.duplicate);
    for _ in 0..2 {
        let again = send(&world, batch.clone()).await;
        assert!(again.duplicate);
        assert_eq!(again.results, first.results, "word for word");
    }
    assert_eq!(world.usage("acct").await.0, 5 + 101);
    assert_eq!(world.usage("other").await.0, 7);
    world.finish().await;
}

async fn a_repeated_batch_is_known_after_a_restart_and_after_a_crash(mut world: World) {
    world.client().increment(keyed("old", 5)).await.unwrap();
    let batch = mixed().key("b");
    let first = send(&world, batch.clone()).await;
    world.restart().await;
    let after_restart = send(&world, batch.clone()).await;
    world.crash();
    world.start_server().await;
    let after_crash = send(&world, batch.clone()).await;
    for again in [after_restart, after_crash] {
        assert!(again.duplicate);
        assert_eq!(again.results, first.results);
    }
    assert_eq!(world.usage("acct").await.0, 5 + 101);
    world.finish().await;
}

async fn concurrent_calls_with_one_batch_key_count_once(world: World) {
    world.client().increment(keyed("old", 5)).await.unwrap();
    for round in 0..10 {
        let batch = Batch::new()
            .push(Increment::new("acct").quantity(2))
            .push(keyed("old", 5))
            .push(Increment::new("acct").quantity(-2))
            .key(format!("b{round}"));
        let (client, other) = (world.client(), world.client());
        let (left, right) = tokio::join!(
            client.increment_batch(batch.clone()),
            other.increment_batch(batch)
        );
        let (left, right) = (left.unwrap(), right.unwrap());
        assert_ne!(left.duplicate, right.duplicate, "one of the two counts");
        assert_eq!(letters(&left), ["C", "D", "R quantity"]);
        assert_eq!(left.results, right.results);
    }
    assert_eq!(world.usage("acct").await.0, 5 + 20);
    world.finish().await;
}

/// A retry returns the stored results without new validation, because its items may have become too old.
async fn a_repeated_batch_is_accepted_after_its_times_are_too_old(mut world: World) {
    let now = at("2026-07-15T10:20:00Z");
    let clock = Clock::manual(now.timestamp_millis());
    world.set_clock(clock.clone()).await;
    let oldest = Increment::new("acct").timestamp(now - TimeDelta::days(34));
    let batch = Batch::new()
        .push(oldest.clone())
        .push(Increment::new("acct"))
        .key("b");
    send(&world, batch.clone()).await;
    clock.set((now + TimeDelta::days(1)).timestamp_millis());
    let again = send(&world, batch).await;
    assert!(again.duplicate);
    assert_eq!(letters(&again), ["C", "C"]);
    let alone = send(&world, Batch::new().push(oldest)).await;
    assert_eq!(letters(&alone), ["R timestamp"]);
    assert_eq!(world.usage("acct").await.0, 2);
    world.finish().await;
}

async fn a_batch_that_counted_nothing_is_remembered(mut world: World) {
    let now = at("2026-07-15T10:20:00Z");
    let clock = Clock::manual(now.timestamp_millis());
    world.set_clock(clock.clone()).await;
    world.client().increment(keyed("old", 5)).await.unwrap();
    let ahead = Increment::new("acct").timestamp(now + TimeDelta::minutes(10));
    let batch = Batch::new().push(ahead).push(keyed("old", 5)).key("b");
    let first = send(&world, batch.clone()).await;
    assert!(!first.duplicate);
    assert_eq!(letters(&first), ["R timestamp", "D"]);
    // The item would be accepted now.
    clock.set((now + TimeDelta::minutes(10)).timestamp_millis());
    let again = send(&world, batch).await;
    assert!(again.duplicate);
    assert_eq!(again.results, first.results);
    let other = Batch::new().push("acct").key("b");
    let error = world.client().increment_batch(other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::KeyReused);
    assert_eq!(world.usage("acct").await.0, 5);
    world.finish().await;
}

async fn a_reused_batch_key_with_other_content_is_refused(world: World) {
    let (one, two) = (
        Increment::new("acct").quantity(1),
        Increment::new("acct").quantity(2),
    );
    let batch = |items: &[&Increment]| {
        let items: Batch = items.iter().map(|item| (*item).clone()).collect();
        items.key("b")
    };
    send(&world, batch(&[&one, &two])).await;
    let other_account = Increment::new("other").quantity(2);
    let other_meter = two.clone().meter("tokens");
    let with_key = two.clone().key("k");
    let with_time = two.clone().timestamp(hours_ago(1));
    for other in [
        batch(&[&two, &one]),
        batch(&[&one]),
        batch(&[&one, &two, &two]),
        batch(&[&one, &other_account]),
        batch(&[&one, &other_meter]),
        batch(&[&one, &with_key]),
        batch(&[&one, &with_time]),
    ] {
        let error = world.client().increment_batch(other).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::KeyReused);
        assert_eq!(error.violations()[0].field, "idempotency_key");
        assert!(error.violations()[0].description.contains("\"b\""));
        assert_eq!(error.idempotency_key(), Some("b"));
    }
    assert!(send(&world, batch(&[&one, &two])).await.duplicate);
    assert_eq!(world.usage("acct").await.0, 3);
    assert_eq!(world.usage("other").await.0, 0);
    assert_eq!(world.usage_of("acct", "tokens").await.0, 0);
    // The key of a rejected item can be used again.
    assert!(!world.client().increment(with_key).await.unwrap().duplicate);
    world.finish().await;
}

async fn item_keys_are_shared_by_batches_and_single_calls(world: World) {
    let batch = Batch::new().push(keyed("a", 1)).push(keyed("b", 2));
    assert_eq!(letters(&send(&world, batch).await), ["C", "C"]);
    assert!(
        world
            .client()
            .increment(keyed("a", 1))
            .await
            .unwrap()
            .duplicate
    );
    let reused = world.client().increment(keyed("b", 3)).await.unwrap_err();
    assert_eq!(reused.kind(), ErrorKind::KeyReused);
    // Keys of batches and of items are separate, and so are the keys of different accounts.
    let batch = Batch::new()
        .push(keyed("b", 2))
        .push(keyed("c", 4))
        .push(keyed("c", 4))
        .push(keyed("c", 5))
        .push(Increment::new("other").key("a"))
        .key("a");
    let outcome = send(&world, batch).await;
    assert!(!outcome.duplicate);
    assert_eq!(letters(&outcome), ["D", "C", "D", "R quantity", "C"]);
    assert_eq!(world.usage("acct").await.0, 1 + 2 + 4);
    assert_eq!(world.usage("other").await.0, 1);
    world.finish().await;
}

async fn a_batch_without_a_key_counts_each_time(world: World) {
    let batch = Batch::new().push("acct").push(keyed("k", 10)).without_key();
    assert_eq!(letters(&send(&world, batch.clone()).await), ["C", "C"]);
    let again = send(&world, batch).await;
    assert!(!again.duplicate);
    assert_eq!(letters(&again), ["C", "D"]);
    assert_eq!(world.usage("acct").await.0, 12);
    world.finish().await;
}

async fn a_dry_run_returns_the_results_of_a_batch_and_counts_nothing(world: World) {
    world.client().increment(keyed("old", 5)).await.unwrap();
    let (keys, batches) = ("idempotency_keys", "batch_keys");
    let before = [
        world.count_rows(keys).await,
        world.count_rows(batches).await,
    ];
    for _ in 0..2 {
        let outcome = send(&world, mixed().key("one").dry_run()).await;
        assert!(!outcome.duplicate);
        assert_eq!(letters(&outcome), MIXED);
    }
    assert_eq!(world.usage("acct").await.0, 5);
    assert_eq!(world.usage("other").await.0, 0);
    let after = [
        world.count_rows(keys).await,
        world.count_rows(batches).await,
    ];
    assert_eq!(after, before);
    assert_eq!(letters(&send(&world, mixed().key("one")).await), MIXED);
    assert_eq!(world.usage("acct").await.0, 5 + 101);
    world.finish().await;
}
