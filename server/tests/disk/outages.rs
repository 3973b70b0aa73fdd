//! Outages of the disk: while writes or syncs fail, every call is refused or waits, and the server is not ready. When the
//! disk works again, so does the server, without a restart.

use std::{collections::BTreeSet, fs};

use futures_util::future::join_all;
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

/// A log that reaches its limit is copied into the database after a COMMIT. If that fails, the log grows on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_log_that_cannot_be_copied_loses_nothing() {
    const MAX_BATCHES: usize = 400;
    let disk = Disk::new();
    let process = disk.start().await;
    let mut batches = Vec::new();
    disk.faults.set(&[Rule::fail(DATABASE, WRITE, EIO)]);
    while disk.faults.hits(0) < 3 {
        let number = batches.len();
        assert!(number < MAX_BATCHES, "the log does not reach its limit");
        // Accounts and keys without an order change a page each.
        let items = (0..1_000).map(|item| {
            let place = (item * 7_919 + number * 104_729) % 1_000_003;
            Increment::new(format!("{place:0>120}")).key(format!("{number}-{item}"))
        });
        let batch = items.collect::<Batch>().key(format!("batch-{number}"));
        let counted = process.client().increment_batch(batch.clone()).await;
        assert!(!counted.unwrap().duplicate);
        batches.push(batch);
    }
    process.kill();
    disk.faults.clear();
    let process = disk.start().await;
    for batch in batches {
        let repeated = process.client().increment_batch(batch).await.unwrap();
        assert!(repeated.duplicate, "after SIGKILL");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refused_call_names_the_line_of_the_log_with_its_cause() {
    const CALLS: usize = 50;
    let disk = Disk::new();
    let process = disk.start().await;
    let client = process.client();
    disk.faults.set(&[Rule::fail(LOG, WRITE, EIO)]);
    let calls = (0..CALLS).map(|_| client.increment("acct").into_future());
    let refused = within("the refusals", join_all(calls)).await;
    let ids = refused.into_iter().map(|counted| {
        let error = counted.expect_err("a disk that fails");
        assert_retryable(&error);
        error.cause_id().expect("a cause in the log").to_owned()
    });
    let ids: BTreeSet<String> = ids.collect();
    // That of the group that failed, and that of the calls that waited behind it.
    assert!(ids.len() <= 2, "{ids:?}");
    for id in ids {
        let with_id = || {
            let log = process.log();
            log.lines().filter(|line| line.contains(&id)).count()
        };
        // A thread reads the log.
        wait_until("a line of the log", || async { with_id() > 0 }).await;
        assert_eq!(with_id(), 1, "{}", process.log());
    }
    process.kill();
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

/// Each call that waits for a commit is refused. That the disk fails is told once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_told_once_whatever_the_number_of_calls() {
    const CALLS: usize = 60;
    let disk = Disk::new();
    let process = disk.start().await;
    let client = process.client();
    disk.faults.set(&[Rule::fail(LOG, WRITE | SYNC, EIO)]);
    let calls = (0..CALLS).map(|number| {
        let client = client.clone();
        let call = Call::new("acct", format!("{number}"));
        tokio::spawn(async move { call.send(&client).await })
    });
    for call in calls.collect::<Vec<_>>() {
        let refused = within("a refused call", call).await.unwrap();
        assert_retryable(&refused.unwrap_err());
    }
    process.wait_until_not_ready().await;
    let log = process.log();
    for (message, most) in [
        // Those that wait for the next commit give up before it ends.
        ("a group commit failed", 2),
        ("a group commit did not succeed: it is repeated", 3),
        ("the response to a COMMIT was lost", 3),
        ("the database did not answer", 1),
        ("not ready", 2),
    ] {
        let beginning = format!("\"message\":\"{message}");
        let lines = log.lines().filter(|line| line.contains(&beginning)).count();
        assert!(lines <= most, "{lines} lines of {message:?}:\n{log}");
    }
    assert!(log.contains("a group commit failed"), "{log}");
    disk.faults.clear();
    process.wait_until_ready().await;
    wait_until("a line about the end", || async {
        process.log().contains("ready again")
    })
    .await;
    process.kill();
}

/// New connections are opened after an outage. They must not create an empty database where the file is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_deleted_during_an_outage_is_not_created_again() {
    let disk = Disk::new();
    let process = disk.start().await;
    let call = Call::new("acct", "key");
    assert!(!call.send(&process.client()).await.unwrap());
    disk.faults.set(&[Rule::fail(LOG, WRITE | SYNC, EIO)]);
    process.wait_until_not_ready().await;
    for suffix in ["", "-wal", "-shm"] {
        let mut path = disk.database().into_os_string();
        path.push(suffix);
        fs::remove_file(path).unwrap();
    }
    disk.faults.clear();
    let (code, log) = process.ended().await;
    assert_eq!(code, Some(1));
    assert!(log.contains("was deleted"), "{log}");
    assert!(!disk.database().exists());
}
