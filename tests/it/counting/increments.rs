//! Counting: acknowledged usage is counted once, regardless of what happens to the call.

use tokio::task::JoinHandle;
use usage_client::{Batch, BatchOutcome, Error, ErrorKind, Increment, IncrementResult, Reason};

use crate::support::{
    commit_lock::CommitLock,
    world::{World, hours_ago, on_both_engines},
};

on_both_engines!(
    an_acknowledged_increment_is_in_the_usage,
    an_absent_quantity_counts_one,
    a_repeated_key_counts_once,
    concurrent_calls_with_one_key_count_once,
    a_key_is_remembered_across_a_restart,
    a_key_names_the_report_that_it_was_added_to,
    spellings_of_a_uuid_are_different_keys,
    a_reused_key_with_other_content_is_refused,
    only_the_known_keys_of_a_batch_are_duplicates,
    sixty_four_concurrent_callers_on_one_account_lose_nothing,
    a_full_queue_rejects_callers_and_counts_accepted_calls,
    a_disconnected_caller_does_not_affect_the_others,
    calls_accepted_before_a_stop_are_counted_and_answered,
    calls_in_flight_during_a_crash_count_once_when_retried,
);

async fn an_acknowledged_increment_is_in_the_usage(world: World) {
    let counted = world
        .client()
        .increment(Increment::new("acct").quantity(7))
        .await
        .unwrap();
    assert!(!counted.duplicate);
    assert_eq!(world.usage("acct").await, (7, 0, 7, 0));
    world.finish().await;
}

async fn an_absent_quantity_counts_one(world: World) {
    world.client().increment("acct").await.unwrap();
    assert_eq!(world.usage("acct").await.0, 1);
    world.finish().await;
}

async fn a_repeated_key_counts_once(world: World) {
    let increment = Increment::new("acct")
        .quantity(5)
        .key("k")
        .timestamp(hours_ago(3));
    for repeated in [false, true, true] {
        let counted = world.client().increment(increment.clone()).await.unwrap();
        assert_eq!(counted.duplicate, repeated);
    }
    assert_eq!(world.usage("acct").await.0, 5);
    world.finish().await;
}

async fn concurrent_calls_with_one_key_count_once(world: World) {
    for round in 0..20 {
        let increment = Increment::new("acct").quantity(3).key(format!("k{round}"));
        let (client, other) = (world.client(), world.client());
        let (left, right) = tokio::join!(
            client.increment(increment.clone()),
            other.increment(increment)
        );
        let duplicates = [left.unwrap().duplicate, right.unwrap().duplicate];
        assert_eq!(duplicates.iter().filter(|duplicate| **duplicate).count(), 1);
    }
    assert_eq!(world.usage("acct").await.0, 60);
    world.finish().await;
}

async fn a_key_is_remembered_across_a_restart(mut world: World) {
    let increment = Increment::new("acct").quantity(5).key("k");
    world.client().increment(increment.clone()).await.unwrap();
    world.crash();
    world.start_server().await;
    assert!(world.client().increment(increment).await.unwrap().duplicate);
    assert_eq!(world.usage("acct").await.0, 5);
    world.finish().await;
}

async fn a_key_names_the_report_that_it_was_added_to(world: World) {
    let keyed = |key: &str, quantity: i64, hours: i64| {
        let increment = Increment::new("acct").quantity(quantity).key(key);
        increment.timestamp(hours_ago(hours))
    };
    let client = world.client();
    client.increment(keyed("one", 1, 3)).await.unwrap();
    // A report so old closes at once, and the next increment of its window opens another.
    for key in ["old", "older"] {
        client
            .increment(keyed(key, 10, 33 * 24 + 20))
            .await
            .unwrap();
    }
    let items = [("one", 1), ("two", 100), ("three", 1_000)];
    let items = items.map(|(key, quantity)| keyed(key, quantity, 3));
    let batch = items.into_iter().collect::<Batch>().without_key();
    let results = client.increment_batch(batch).await.unwrap().results;
    assert_eq!(results[0], IncrementResult::Duplicate);
    // What the keys of each report counted is its quantity.
    let reports = "all_reports AS r WHERE r.quantity = \
        (SELECT SUM(k.quantity) FROM idempotency_keys AS k WHERE k.account_id = r.account_id AND k.report_id = r.id)";
    assert_eq!(world.count_rows("all_reports").await, 3);
    assert_eq!(world.count_rows(reports).await, 3);
    world.finish().await;
}

async fn spellings_of_a_uuid_are_different_keys(world: World) {
    let usual = "0192f0c1-2b3c-7d4e-8f50-61728394a5b6";
    let keys = [
        usual.to_owned(),
        usual.to_uppercase(),
        usual.replace('-', ""),
    ];
    for key in keys {
        for repeated in [false, true] {
            let increment = Increment::new("acct").key(key.clone());
            let counted = world.client().increment(increment).await.unwrap();
            assert_eq!(counted.duplicate, repeated, "{key}");
        }
    }
    assert_eq!(world.usage("acct").await.0, 3);
    world.finish().await;
}

async fn a_reused_key_with_other_content_is_refused(world: World) {
    let first = Increment::new("acct")
        .quantity(5)
        .key("k")
        .timestamp(hours_ago(2));
    world.client().increment(first.clone()).await.unwrap();
    let others = [
        ("quantity", first.clone().quantity(6)),
        ("meter", first.clone().meter("tokens")),
        ("timestamp", first.clone().timestamp(hours_ago(1))),
    ];
    for (field, other) in others {
        let error = world.client().increment(other).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::KeyReused);
        assert_eq!(error.violations()[0].field, field);
    }
    assert_eq!(world.usage("acct").await.0, 5);
    assert_eq!(world.usage_of("acct", "tokens").await.0, 0);
    world.finish().await;
}

async fn only_the_known_keys_of_a_batch_are_duplicates(world: World) {
    let item = |account: &str, key: &str| Increment::new(account).quantity(2).key(key);
    let send = async |items: Vec<Increment>| {
        let batch = items.into_iter().collect::<Batch>().without_key();
        world.client().increment_batch(batch).await.unwrap().results
    };
    let known = vec![item("b", "k2"), item("b", "k4"), item("c", "k1")];
    assert_eq!(
        send(known.clone()).await,
        [(); 3].map(|()| IncrementResult::Counted)
    );
    let mixed = vec![
        item("c", "k1"),
        item("a", "k1"),
        item("b", "k4").quantity(9),
        item("b", "k3"),
        item("b", "k2"),
        item("d", "k2"),
        item("b", "k3"),
    ];
    let results = send(mixed).await;
    let refused = |result: &IncrementResult| matches!(result, IncrementResult::Refused { field, .. } if field == "quantity");
    let (counted, duplicate) = (IncrementResult::Counted, IncrementResult::Duplicate);
    assert!(refused(&results[2]), "{results:?}");
    assert_eq!(
        [&results[..2], &results[3..]].concat(),
        [
            &duplicate, &counted, &counted, &duplicate, &counted, &duplicate
        ]
        .map(Clone::clone)
    );
    assert_eq!(send(known).await, [(); 3].map(|()| duplicate.clone()));
    let sums = [
        world.usage("a").await.0,
        world.usage("b").await.0,
        world.usage("c").await.0,
        world.usage("d").await.0,
    ];
    assert_eq!(sums, [2, 6, 2, 2]);
    world.finish().await;
}

async fn sixty_four_concurrent_callers_on_one_account_lose_nothing(world: World) {
    let callers = (0..64).map(|_| {
        let client = world.client();
        tokio::spawn(async move {
            for _ in 0..25 {
                client
                    .increment(Increment::new("hot").quantity(2))
                    .await
                    .unwrap();
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    assert_eq!(world.usage("hot").await.0, 64 * 25 * 2);
    world.finish().await;
}

/// The error of a full queue, and the waiting call that fills it, with its account.
type Filled = (Error, JoinHandle<Result<BatchOutcome, Error>>, &'static str);

/// Fills the queue while commits are blocked: of two batches that each need the whole queue, one is accepted and the
/// other one is rejected.
async fn fill_queue(world: &World) -> Filled {
    let send = |account: &'static str| {
        let client = world.client();
        tokio::spawn(async move { client.increment_batch(thousand(account)).await })
    };
    let (mut left, mut right) = (send("left"), send("right"));
    tokio::select! {
        answer = &mut left => (answer.unwrap().unwrap_err(), right, "right"),
        answer = &mut right => (answer.unwrap().unwrap_err(), left, "left"),
    }
}

fn thousand(account: &str) -> Vec<Increment> {
    vec![Increment::new(account); 1_000]
}

async fn a_full_queue_rejects_callers_and_counts_accepted_calls(mut world: World) {
    world.reconfigure(&["--queue-increments=1000"]).await;
    let lock = CommitLock::commits_of(&world).await;
    let (turned_away, waiting, account) = fill_queue(&world).await;
    let also_turned_away = world.client().increment("other").await.unwrap_err();
    for error in [turned_away, also_turned_away] {
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        assert_eq!(error.reason(), Some(&Reason::Overloaded));
        assert_eq!(
            error.status().unwrap().code(),
            tonic::Code::ResourceExhausted
        );
        assert!(error.retry_after().is_some_and(|delay| !delay.is_zero()));
        assert!(error.is_retryable() && !error.may_have_taken_effect());
    }
    lock.release().await;
    let outcome = waiting.await.unwrap().unwrap();
    assert!(
        outcome
            .results
            .iter()
            .all(|result| *result == IncrementResult::Counted)
    );
    assert_eq!(world.usage(account).await.0, 1_000);
    let counted =
        world.usage("left").await.0 + world.usage("right").await.0 + world.usage("other").await.0;
    assert_eq!(counted, 1_000, "each rejected call was counted later");
    world
        .wait_until("space in the queue", || async {
            world.client().increment("other").await.is_ok()
        })
        .await;
    world.finish().await;
}

async fn a_disconnected_caller_does_not_affect_the_others(mut world: World) {
    world.reconfigure(&["--queue-increments=1000"]).await;
    let lock = CommitLock::commits_of(&world).await;
    let (_, waiting, account) = fill_queue(&world).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    lock.release().await;
    world
        .wait_until("space in the queue", || async {
            world.client().increment("other").await.is_ok()
        })
        .await;
    assert_eq!(world.usage("other").await.0, 1);
    // It is counted as a whole if its group had begun, and otherwise not at all.
    let counted = world.usage(account).await.0;
    assert!([0, 1_000].contains(&counted), "{counted}");
    world.finish().await;
}

async fn calls_accepted_before_a_stop_are_counted_and_answered(mut world: World) {
    world.reconfigure(&["--queue-increments=1000"]).await;
    let lock = CommitLock::commits_of(&world).await;
    let (_, waiting, account) = fill_queue(&world).await;
    tokio::join!(world.stop(), lock.release());
    assert_eq!(waiting.await.unwrap().unwrap().results.len(), 1_000);
    world.start_server().await;
    assert_eq!(world.usage(account).await.0, 1_000);
    world.finish().await;
}

async fn calls_in_flight_during_a_crash_count_once_when_retried(mut world: World) {
    world.reconfigure(&["--queue-increments=1000"]).await;
    let lock = CommitLock::commits_of(&world).await;
    let (_, waiting, account) = fill_queue(&world).await;
    world.crash();
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport);
    assert!(error.may_have_taken_effect());
    lock.release().await;
    world.start_server().await;
    let key = error.idempotency_key().unwrap();
    for _ in 0..2 {
        let retry = Batch::from(thousand(account)).key(key);
        let outcome = world.client().increment_batch(retry).await.unwrap();
        assert!(
            outcome
                .results
                .iter()
                .all(|result| *result == IncrementResult::Counted)
        );
    }
    assert_eq!(world.usage(account).await.0, 1_000);
    world.finish().await;
}
