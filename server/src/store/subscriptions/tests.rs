//! Which subscriptions are synced next, and in which order.

use sea_orm::ConnectionTrait as _;

use crate::{
    domain::{Millis, subscription::SyncedSubscription},
    store::{Store, database_clock::MAX_WAIT_MS},
};

const NOW: Millis = 1_800_000_000_000;

/// A database with subscriptions that were synced, and whose sync was requested, at these times.
async fn store_with(times: &[(&str, Millis)]) -> (Store, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("usage.db").display());
    let store = Store::open(&url, 1).await.unwrap();
    store.migrate().await.unwrap();
    for (name, at) in times {
        let insert = format!(
            "INSERT INTO subscriptions (account_id, subscription, customer, status, billing_mode, synced_at, \
             sync_requested_at) VALUES ('{name}', 'sub_{name}', 'cus_{name}', 'active', 'flexible', {at}, {at})"
        );
        store.writer.execute_unprepared(&insert).await.unwrap();
    }
    let ended = "UPDATE subscriptions SET ended_at = 1 WHERE account_id = 'ended'";
    store.writer.execute_unprepared(ended).await.unwrap();
    (store, folder)
}

fn names(rows: &[SyncedSubscription]) -> Vec<&str> {
    rows.iter().map(|row| row.account_id.as_str()).collect()
}

#[tokio::test]
async fn unseen_subscriptions_are_read_in_pages_the_failing_ones_last() {
    let (store, _folder) = store_with(&[
        ("oldest", NOW - 9),
        ("a", NOW - 5),
        ("b", NOW - 5),
        ("c", NOW - 5),
        ("seen", NOW),
        ("ended", NOW - 5),
        ("near", NOW + MAX_WAIT_MS),
        ("ahead", NOW + MAX_WAIT_MS + 1),
        ("far-ahead", NOW + MAX_WAIT_MS + 2),
    ])
    .await;
    for limit in 1..=7 {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = store.unseen_subscriptions(NOW, after.as_ref(), limit).await;
            let page = page.unwrap();
            assert!(u64::try_from(page.len()).unwrap() <= limit);
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            all.extend(page);
        }
        let expected = ["c", "b", "a", "oldest", "far-ahead", "ahead"];
        assert_eq!(names(&all), expected, "pages of {limit}");
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn requested_syncs_are_due_in_their_order_or_if_a_clock_was_ahead() {
    let (store, _folder) = store_with(&[
        ("far-ahead", NOW + MAX_WAIT_MS + 1),
        ("later", NOW + 1),
        ("now", NOW),
        ("earlier", NOW - 1),
    ])
    .await;
    let due = store.requested_syncs(NOW, 200).await.unwrap();
    assert_eq!(names(&due), ["earlier", "now", "far-ahead"]);
    let due = store.requested_syncs(NOW, 2).await.unwrap();
    assert_eq!(names(&due), ["earlier", "now"]);
    store.close().await.unwrap();
}
