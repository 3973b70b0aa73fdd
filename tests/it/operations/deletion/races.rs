//! Usage that is counted while its account is deleted is either in the account's rows or refused.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use usage_client::{Increment, PutAccount, Reason, UsageClient};

use super::delete;
use crate::support::world::{World, hours_ago, on_both_engines, within};

on_both_engines!(
    no_unit_is_lost_between_counting_and_a_deletion,
    two_deletions_at_once_move_the_rows_once,
);

/// The callers that count at the same time.
const CALLERS: usize = 8;

/// Usage of so long ago is closed when it is counted, so the account has no open report between two increments.
const OLD: i64 = 33 * 24 + 12;

/// Counts until the account is deleted, and adds up what was acknowledged.
async fn count_until_deleted(client: UsageClient, acknowledged: Arc<AtomicI64>) {
    loop {
        let one = Increment::new("acct").quantity(3).timestamp(hours_ago(OLD));
        match client.increment(one).await {
            Ok(_) => {
                acknowledged.fetch_add(3, Ordering::SeqCst);
            }
            Err(error) => {
                assert_eq!(error.reason(), Some(&Reason::AccountDeleted), "{error}");
                return;
            }
        }
    }
}

async fn no_unit_is_lost_between_counting_and_a_deletion(world: World) {
    let (replica, other) = world.second_client().await;
    let client = world.client();
    client.put_account(PutAccount::free("acct")).await.unwrap();
    let acknowledged = Arc::new(AtomicI64::new(0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|nth| {
            let client = if nth % 2 == 0 { &client } else { &other };
            tokio::spawn(count_until_deleted(
                client.clone(),
                Arc::clone(&acknowledged),
            ))
        })
        .collect();
    world
        .wait_until("some usage", async || {
            acknowledged.load(Ordering::SeqCst) >= 30
        })
        .await;
    let token = delete(&client, "acct").await.unwrap().token.unwrap();
    for caller in callers {
        within("the callers' end", caller).await.unwrap();
    }
    let counted = world.usage(&token).await;
    let acknowledged = acknowledged.load(Ordering::SeqCst);
    assert_eq!(counted, (acknowledged, 0, 0, acknowledged));
    assert_eq!(world.count_rows("open_reports").await, 0);
    assert_eq!(world.usage("acct").await.0, 0);
    if let Some(replica) = replica {
        replica.stop().await.unwrap();
    }
    world.finish().await;
}

async fn two_deletions_at_once_move_the_rows_once(world: World) {
    let (replica, other) = world.second_client().await;
    let client = world.client();
    super::finished(&world, "acct", 5).await;
    let (one, two) = tokio::join!(delete(&client, "acct"), delete(&other, "acct"));
    let tokens: Vec<String> = [one.unwrap(), two.unwrap()]
        .into_iter()
        .filter_map(|done| done.token)
        .collect();
    assert_eq!(tokens.len(), 1, "one of them moved the rows");
    assert_eq!(world.usage(&tokens[0]).await.0, 5);
    assert_eq!(world.count_rows("usage_reports").await, 1);
    if let Some(replica) = replica {
        replica.stop().await.unwrap();
    }
    world.finish().await;
}
