//! A key that sends more than the database takes leaves places in the queue to the other keys.

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use usage_client::{Batch, ErrorKind, Increment, UsageClient, proto::KeyRole};

use super::{access, client, create, first_admin, new_key};
use crate::support::{
    commit_lock::CommitLock,
    world::{World, on_both_engines},
};

on_both_engines!(a_key_that_fills_the_queue_leaves_places_to_another);

/// A fifth of the queue.
fn batch() -> Batch {
    Batch::from(vec![Increment::new("acct"); 500])
}

async fn writer(world: &World, admin: &str, name: &str) -> UsageClient {
    let mut access = access(world, Some(admin)).await;
    let key = create(&mut access, new_key(name, KeyRole::Writer)).await;
    client(world.endpoint(), &key.text).await
}

async fn a_key_that_fills_the_queue_leaves_places_to_another(mut world: World) {
    world.reconfigure(&["--queue-increments=2500"]).await;
    let (_, admin) = first_admin(&world).await;
    let greedy = writer(&world, &admin, "greedy").await;
    let modest = writer(&world, &admin, "modest").await;
    // Both keys are known to the server before its database is busy.
    greedy.increment("acct").await.unwrap();
    modest.increment("acct").await.unwrap();

    let lock = CommitLock::commits_of(&world).await;
    let mut calls: FuturesUnordered<_> = (0..8)
        .map(|_| greedy.increment_batch(batch()).into_future())
        .collect();
    for _ in 0..4 {
        let refused = calls.next().await.unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Overloaded);
        assert!(!refused.may_have_taken_effect());
    }
    let of_modest = tokio::spawn({
        let modest = modest.clone();
        async move { modest.increment("acct").await }
    });
    for _ in 0..5 {
        let refused = greedy.increment_batch(batch()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Overloaded);
    }
    assert!(!of_modest.is_finished(), "it waits, and is not refused");
    lock.release().await;
    of_modest.await.unwrap().unwrap();
    let accepted: Vec<_> = calls.collect().await;
    assert_eq!(accepted.len(), 4);
    assert!(accepted.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(
        world.count_rows("open_reports WHERE quantity = 2003").await,
        1
    );
    world.finish().await;
}
