//! Outages of the disk: while writes or syncs fail, every call is refused or waits, and the server is not ready. When the
//! disk works again, so does the server, without a restart.

use usage_client::{Batch, Increment, PutAccount};

use crate::{
    callers::{Call, Callers, assert_retryable},
    disk::Disk,
    faults::{DATABASE, EDQUOT, EFBIG, EIO, ENOSPC, INDEX, LOG, OPEN, Rule, SYNC, TRUNCATE, WRITE},
    wait_until, within,
};

const ERRORS: [i32; 4] = [ENOSPC, EIO, EDQUOT, EFBIG];
/// The acknowledged calls between two outages.
const SOME: usize = 20;

/// Lets callers count while the rules of each error apply for a time, one after the other.
async fn check_outages(rules: impl Fn(i32) -> Vec<Rule>) {
    let disk = Disk::new();
    let process = disk.start().await;
    let callers = Callers::start(&process.client());
    for (number, error) in ERRORS.into_iter().enumerate() {
        callers.wait_for_more(SOME).await;
        disk.faults.set(&rules(error));
        process.wait_until_not_ready().await;
        if number == 0 {
            // The group commit is retried for ten seconds before its callers are refused.
            callers.wait_for_refusals(1).await;
            let put = process
                .client()
                .put_account(PutAccount::free("other"))
                .await;
            assert_retryable(&put.expect_err("a disk that fails"));
        }
        disk.faults.clear();
        process.wait_until_ready().await;
    }
    callers.wait_for_more(SOME).await;
    disk.check(&callers.kill(process).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_writes_of_the_log_lose_nothing() {
    check_outages(|error| vec![Rule::fail(LOG, WRITE, error)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_syncs_of_the_log_lose_nothing() {
    check_outages(|error| vec![Rule::fail(LOG, SYNC, error)]).await;
}

/// The failed sync makes the server open another connection, which copies the log into the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_writes_of_the_database_lose_nothing() {
    check_outages(|error| {
        vec![
            Rule::fail(LOG, SYNC, error).times(1),
            Rule::fail(DATABASE, WRITE, error),
        ]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_syncs_of_the_database_lose_nothing() {
    check_outages(|error| {
        vec![
            Rule::fail(LOG, SYNC, error).times(1),
            Rule::fail(DATABASE, SYNC, error),
        ]
    })
    .await;
}

/// Everything fails, also new connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_altogether_loses_nothing() {
    let all = DATABASE | LOG | INDEX;
    check_outages(|error| vec![Rule::fail(all, WRITE | SYNC | TRUNCATE | OPEN, error)]).await;
}

/// A log that reaches its limit is copied into the database during a COMMIT.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_fails_when_the_log_is_full_loses_nothing() {
    const MAX_BATCHES: usize = 400;
    let disk = Disk::new();
    let process = disk.start().await;
    let mut acknowledged = Vec::new();
    let mut refused = None;
    disk.faults.set(&[Rule::fail(DATABASE, WRITE, EIO)]);
    for number in 0..MAX_BATCHES {
        // Keys without an order change a page each.
        let items = (0..1_000).map(|item| {
            Increment::new("acct").key(format!("{:0>200}-{number}", item * 7_919 % 1_000))
        });
        let batch = items.collect::<Batch>().key(format!("batch-{number}"));
        match process.client().increment_batch(batch.clone()).await {
            Ok(_) => acknowledged.push(batch),
            Err(error) => {
                assert_retryable(&error);
                refused = Some(batch);
                break;
            }
        }
    }
    assert!(disk.faults.hits(0) > 0, "the log did not reach its limit");
    let refused = refused.expect("a refusal");
    process.wait_until_not_ready().await;
    disk.faults.clear();
    process.wait_until_ready().await;
    process
        .client()
        .increment_batch(refused.clone())
        .await
        .unwrap();
    let batches = acknowledged.len() + 1;
    process.kill();
    let process = disk.start().await;
    for batch in acknowledged.into_iter().chain([refused]) {
        let repeated = process.client().increment_batch(batch).await.unwrap();
        assert!(repeated.duplicate);
    }
    let total = process.total("acct").await;
    assert_eq!(usize::try_from(total), Ok(batches * 1_000));
}

/// A call that is under way when the disk fails for a moment is not refused, and what follows is not lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moment_without_a_disk_refuses_nothing() {
    let disk = Disk::new();
    let process = disk.start().await;
    let client = process.client();
    let mut calls = crate::callers::Calls::default();
    for number in 0..6 {
        let failures = 3;
        disk.faults
            .set(&[Rule::fail(LOG, WRITE | SYNC, EIO).times(failures)]);
        let call = Call::new("acct", format!("{number}"));
        assert!(!within("a call", call.send(&client)).await.unwrap());
        calls.acknowledged.push(call);
        wait_until("the faults", || async { disk.faults.hits(0) == failures }).await;
    }
    process.kill();
    disk.check(&calls).await;
}
