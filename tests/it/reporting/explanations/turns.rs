//! How many invoices are explained at a time. On `PostgreSQL`, where a test can make a read wait.

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
use usage_client::{ErrorKind, ListUsage, Reason};

use super::{UUID_KEY, begin, count_keyed, period};
use crate::support::world::{World, billing::BASIC, hours_ago, on_postgres, within};

on_postgres!(two_explanations_run_sixteen_wait_and_more_are_refused,);

/// Explanations that wait for the lock.
const WAITING: &str = "pg_stat_activity WHERE datname = current_database() \
    AND wait_event_type = 'Lock' AND query LIKE '%FROM \"invoice_lines\"%'";
const LOCK: &str = "LOCK TABLE invoice_lines IN ACCESS EXCLUSIVE MODE";

async fn two_explanations_run_sixteen_wait_and_more_are_refused(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    count_keyed(&world, UUID_KEY, 7, world.now()).await;
    let database = world.connect_to_database().await;
    let lock = database.begin().await.unwrap();
    lock.execute_unprepared(LOCK).await.unwrap();
    let client = world.client();
    let mut calls: FuturesUnordered<_> =
        (0..19).map(|_| client.explain_invoice(period())).collect();
    // One more than may run and wait is refused; no other has an answer.
    let refused = within("a refusal", calls.next()).await.unwrap();
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded, "{refused}");
    assert_eq!(refused.reason(), Some(&Reason::Overloaded));
    let text = refused.to_string();
    assert!(
        text.contains("2 explanations of invoices run and 16 wait"),
        "{text}"
    );
    world
        .wait_until("two reads", async || world.count_rows(WAITING).await == 2)
        .await;
    // The usage of all accounts has turns of its own.
    let query = ListUsage::of("api_calls", hours_ago(3), hours_ago(1));
    client.list_usage(query).await.unwrap();
    lock.rollback().await.unwrap();
    database.close().await.unwrap();
    let mut answers = 0;
    while let Some(answer) = within("the answers", calls.next()).await {
        let explained = answer.unwrap();
        assert_eq!(explained.lines[0].reports[0].with_key, 7);
        answers += 1;
    }
    assert_eq!(answers, 18);
    world.finish().await;
}
