//! How many calls read the usage of all accounts at a time. On `PostgreSQL`, where a test can make a read wait.

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
use usage_client::{ErrorKind, GetSummary, ListUsage, Reason};

use crate::support::world::{World, hours_ago, on_postgres, within};

on_postgres!(
    two_read_sixteen_wait_and_more_are_refused_while_others_count,
    a_caller_that_is_gone_does_not_end_its_read,
);

/// Reads of the usage of all accounts that wait for the lock. No job sends a statement with this number.
const WAITING: &str = "pg_stat_activity WHERE datname = current_database() \
    AND wait_event_type = 'Lock' AND query LIKE '%1000000000%'";
const LOCK: &str = "LOCK TABLE folded_reports IN ACCESS EXCLUSIVE MODE";

async fn two_read_sixteen_wait_and_more_are_refused_while_others_count(world: World) {
    world.count("acct", 5, hours_ago(2)).await;
    let database = world.connect_to_database().await;
    let lock = database.begin().await.unwrap();
    lock.execute_unprepared(LOCK).await.unwrap();
    let client = world.client();
    let mut calls: FuturesUnordered<_> = (0..19)
        .map(|number| {
            let client = client.clone();
            async move {
                if number % 2 == 0 {
                    let query = GetSummary::of(hours_ago(3), hours_ago(1));
                    let summary = client.get_summary(query).await?;
                    Ok(summary.meter("api_calls").unwrap().quantities.total)
                } else {
                    let query = ListUsage::of("api_calls", hours_ago(3), hours_ago(1));
                    let page = client.list_usage(query).await?;
                    Ok(page.usage.iter().map(|one| one.quantity).sum())
                }
            }
        })
        .collect();
    // One more than may run and wait is refused; no other has an answer.
    let refused: Result<i64, usage_client::Error> =
        within("a refusal", calls.next()).await.unwrap();
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded, "{refused}");
    assert_eq!(refused.reason(), Some(&Reason::Overloaded));
    let text = refused.to_string();
    assert!(
        text.contains("2 reads of the usage of all accounts run and 16 wait"),
        "{text}"
    );
    world
        .wait_until("two reads", async || world.count_rows(WAITING).await == 2)
        .await;
    // Counting goes on.
    world.count("acct", 7, hours_ago(2)).await;
    assert_eq!(world.count_rows(WAITING).await, 2);
    assert!(calls.next().now_or_never().is_none());
    lock.rollback().await.unwrap();
    database.close().await.unwrap();
    let mut answered = Vec::new();
    while let Some(answer) = within("an answer", calls.next()).await {
        answered.push(answer.unwrap());
    }
    answered.sort_unstable();
    assert_eq!(answered.len(), 18);
    // The first two began before the second count.
    assert!(answered[..2].iter().all(|total| [5, 12].contains(total)));
    assert!(answered[2..].iter().all(|total| *total == 12));
    world.finish().await;
}

async fn a_caller_that_is_gone_does_not_end_its_read(world: World) {
    let database = world.connect_to_database().await;
    let lock = database.begin().await.unwrap();
    lock.execute_unprepared(LOCK).await.unwrap();
    let query = ListUsage::of("api_calls", hours_ago(3), hours_ago(1));
    let calls = [0, 1].map(|_| {
        let (client, query) = (world.client(), query.clone());
        tokio::spawn(async move { client.list_usage(query).await })
    });
    world
        .wait_until("two reads", async || world.count_rows(WAITING).await == 2)
        .await;
    for call in calls {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    // Both go on at the database, so 16 others wait for their turn and one more is refused.
    let mut others: FuturesUnordered<_> = (0..17)
        .map(|_| {
            let (client, query) = (world.client(), query.clone());
            async move { client.list_usage(query).await }
        })
        .collect();
    let refused = within("a refusal", others.next()).await.unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Overloaded);
    assert_eq!(world.count_rows(WAITING).await, 2);
    lock.rollback().await.unwrap();
    database.close().await.unwrap();
    while let Some(answer) = within("an answer", others.next()).await {
        assert!(answer.unwrap().usage.is_empty());
    }
    world.finish().await;
}
