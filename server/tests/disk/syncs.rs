//! Writes and syncs one by one: no acknowledgement before the sync, syncs that fail once, and short writes.

use futures_util::FutureExt as _;

use crate::{
    callers::{Call, Callers, Calls},
    disk::Disk,
    faults::{DATABASE, EIO, ENOSPC, INDEX, LOG, Rule, SYNC, WRITE},
    wait_until, within,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_before_the_log_is_synced() {
    let disk = Disk::new();
    let process = disk.start().await;
    let client = process.client();
    let mut calls = Calls::default();
    let first = Call::new("acct", "first");
    first.send(&client).await.unwrap();
    calls.acknowledged.push(first);
    disk.faults.set(&[Rule::hang(LOG, SYNC)]);
    let call = Call::new("acct", "second");
    let (sent, caller) = (call.clone(), client.clone());
    let mut sending = tokio::spawn(async move { sent.send(&caller).await });
    wait_until("a sync that waits", || async { disk.faults.hits(0) > 0 }).await;
    // A later answer on the same connection: an earlier acknowledgement would have arrived before it.
    assert!(process.total("acct").await >= 1);
    assert!((&mut sending).now_or_never().is_none(), "acknowledged");
    process.kill();
    within("the call", sending).await.unwrap().unwrap_err();
    calls.unknown.push(call);
    disk.check(&calls).await;
}

/// The kernel may drop what a failed sync was for, so that a later one succeeds without it.
async fn check_single_failures(rules: impl Fn(i32) -> Vec<Rule>) {
    let disk = Disk::new();
    let process = disk.start().await;
    let callers = Callers::start(&process.client());
    for round in 0..10 {
        callers.wait_for_more(5).await;
        // Another call within a commit in each round.
        let rules = rules(round % 4);
        disk.faults.set(&rules);
        wait_until("the fault", || async { disk.faults.hits(0) > 0 }).await;
        callers.wait_for_more(1).await;
    }
    // The last rule stays, and the kill is soon after a failure.
    disk.check(&callers.kill(process).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncs_of_the_log_that_fail_once_lose_nothing() {
    check_single_failures(|skip| vec![Rule::fail(LOG, SYNC, EIO).after(skip).times(1)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncs_of_the_database_that_fail_once_lose_nothing() {
    check_single_failures(|skip| {
        vec![
            Rule::fail(LOG, SYNC, EIO).after(skip).times(1),
            Rule::fail(DATABASE, SYNC, EIO).times(1),
        ]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_writes_lose_nothing() {
    check_single_failures(|skip| vec![Rule::shorten(LOG | DATABASE | INDEX).after(skip)]).await;
}

/// As when the disk becomes full within a write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_writes_that_fail_afterwards_lose_nothing() {
    check_single_failures(|skip| {
        vec![
            Rule::shorten(LOG).after(skip).times(1),
            Rule::fail(LOG, WRITE, ENOSPC).after(skip).times(2),
        ]
    })
    .await;
}
