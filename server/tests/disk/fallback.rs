//! A group that the database refuses is committed call by call. If the disk fails meanwhile, every caller still gets an
//! answer.

use std::time::Duration;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use sea_orm::{ConnectionTrait as _, Database};
use tokio::time::{Instant, timeout};
use usage_client::{ErrorKind, Increment};

use crate::{
    callers::{Call, Calls, assert_retryable},
    disk::{Disk, url},
    faults::{EIO, LOG, Rule, SYNC, WRITE},
    process::HTTP,
    wait_until,
};

const CALLS: usize = 40;
/// How long a call waits for its commit, and then its answer on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(10 + 5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_between_single_commits_answers_every_call() {
    let disk = Disk::new();
    let process = disk.start_with(&[HTTP.to_owned()]).await;
    let database = Database::connect(url(&disk.database())).await.unwrap();
    database
        .execute_unprepared(
            "CREATE TRIGGER refused BEFORE INSERT ON open_reports WHEN NEW.account_id = 'refused' \
             BEGIN SELECT RAISE(ABORT, 'refused'); END",
        )
        .await
        .unwrap();
    database.close().await.unwrap();
    // A commit waits until all others are in the queue: they are one group. It is that of the first call, or one of a job
    // that came before it.
    disk.faults.set(&[Rule::hang(LOG, SYNC)]);
    let client = process.client();
    let first = tokio::spawn({
        let (client, call) = (client.clone(), Call::new("first", "first"));
        async move { (call.send(&client).await, call) }
    });
    wait_until("a sync that waits", || async { disk.faults.hits(0) > 0 }).await;
    let answers: FuturesUnordered<_> = (0..CALLS)
        .map(|number| {
            let client = client.clone();
            let account = if number == 0 { "refused" } else { "acct" };
            let call = Call::new(account, format!("{number}"));
            tokio::spawn(async move { (call.send(&client).await, call) })
        })
        .collect();
    wait_until("the other calls in the queue", || async {
        process.waiting_increments().await == CALLS + 1
    })
    .await;
    answers.push(first);
    let begun = Instant::now();
    // Some single commits succeed, and one waits while the disk begins to fail.
    // The second rule: a call that waits goes on when its own rule changes.
    let none = Rule::fail(LOG, SYNC, EIO).after(i32::MAX);
    disk.faults.set(&[none, Rule::hang(LOG, SYNC).after(12)]);
    wait_until("a single commit that waits", || async {
        disk.faults.hits(1) > 0
    })
    .await;
    disk.faults.set(&[Rule::fail(LOG, WRITE | SYNC, EIO)]);
    let (mut answers, mut calls) = (answers, Calls::default());
    while let Some(answer) = timeout(ANSWER_LIMIT, answers.next())
        .await
        .expect("an answer")
    {
        match answer.unwrap() {
            (Ok(_), call) => calls.acknowledged.push(call),
            (Err(error), call) if call == Call::new("refused", "0") => {
                assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
            }
            (Err(error), call) => {
                assert_retryable(&error);
                calls.unknown.push(call);
            }
        }
    }
    assert!(begun.elapsed() < ANSWER_LIMIT, "{:?}", begun.elapsed());
    let (known, unknown) = (calls.acknowledged.len(), calls.unknown.len());
    assert!(known > 0 && unknown > 0, "{known}, {unknown}");
    disk.faults.clear();
    process.wait_until_ready().await;
    let after = Increment::new("after");
    client.increment(after).await.unwrap();
    process.kill();
    disk.check(&calls).await;
}
