//! The rate of acknowledged increments: one per call, a thousand per call, and through a recorder.

use crate::server::Server;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, task::JoinSet};
use usage_client::{Batch, Increment, UsageClient};

const ACCOUNTS: usize = 1_000;
/// Enough concurrent calls to keep a server busy.
const UNARY_CALLERS: usize = 64;
const BATCH_CALLERS: usize = 4;
const RECORDING_THREADS: usize = 4;

/// Measures each way; returns the rate of a recorder divided by the rate of 64 concurrent single calls.
pub(crate) fn measure(duration: Duration) -> f64 {
    let one_by_one = calls(duration, 1, 1);
    print("one call after another", one_by_one, one_by_one);
    let unary = calls(duration, UNARY_CALLERS, 1);
    print("64 calls at once", unary, one_by_one);
    let batches = calls(duration, BATCH_CALLERS, Batch::MAX_LEN);
    print("4 batches of 1,000 at once", batches, unary);
    let recorder = through_recorder(duration);
    print("a recorder, 4 threads", recorder, unary);
    println!(
        "bench: rate one_by_one={one_by_one:.0} unary={unary:.0} batch={batches:.0} recorder={recorder:.0} \
         recorder_to_unary={:.1} recorder_to_batch={:.1}",
        recorder / unary,
        recorder / batches
    );
    recorder / unary
}

fn print(what: &str, rate: f64, unary: f64) {
    println!(
        "  {what}: {rate:.0} ({:.1} times single calls)",
        rate / unary
    );
}

/// Runs concurrent callers for a time; each call counts `size` increments.
fn calls(duration: Duration, callers: usize, size: usize) -> f64 {
    let (server, runtime) = (Server::start(), Runtime::new().expect("a runtime"));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    runtime.block_on(async {
        let client = UsageClient::connect(server.endpoint())
            .await
            .expect("a server");
        let mut all = JoinSet::new();
        for caller in 0..callers {
            let (client, acknowledged) = (client.clone(), Arc::clone(&acknowledged));
            all.spawn(async move {
                let mut number = caller;
                while started.elapsed() < duration {
                    call(&client, &mut number, size).await;
                    acknowledged.fetch_add(size as u64, Ordering::Relaxed);
                }
            });
        }
        while let Some(ended) = all.join_next().await {
            ended.expect("no panic");
        }
    });
    let took = started.elapsed();
    let acknowledged = acknowledged.load(Ordering::Relaxed);
    verify(&runtime, server, acknowledged);
    acknowledged as f64 / took.as_secs_f64()
}

async fn call(client: &UsageClient, number: &mut usize, size: usize) {
    let mut next = || {
        *number += 1;
        format!("acct_{}", *number % ACCOUNTS)
    };
    if size == 1 {
        client.increment(next()).await.expect("counted");
    } else {
        let batch: Batch = (0..size).map(|_| Increment::new(next())).collect();
        let outcome = client.increment_batch(batch).await.expect("counted");
        assert_eq!(outcome.refused().count(), 0);
    }
}

/// Records as fast as possible for a time, and waits until everything is acknowledged.
fn through_recorder(duration: Duration) -> f64 {
    let (server, runtime) = (Server::start(), Runtime::new().expect("a runtime"));
    let recorder = runtime.block_on(async {
        let client = UsageClient::connect(server.endpoint())
            .await
            .expect("a server");
        client.recorder(["api_calls"]).start().expect("a recorder")
    });
    let accounts: Vec<String> = (0..ACCOUNTS)
        .map(|number| format!("acct_{number}"))
        .collect();
    let started = Instant::now();
    thread::scope(|scope| {
        for thread in 0..RECORDING_THREADS {
            let (recorder, accounts) = (&recorder, &accounts);
            scope.spawn(move || {
                let mut place = thread * 7;
                while started.elapsed() < duration {
                    for _ in 0..100 {
                        place = (place + 611) % ACCOUNTS;
                        recorder.record(&accounts[place], "", 1);
                    }
                }
            });
        }
    });
    let stats = runtime.block_on(recorder.shutdown(Duration::from_mins(1)));
    let stats = stats.expect("all of it is sent");
    let took = started.elapsed();
    assert_eq!(stats.counted, stats.recorded, "no usage is lost");
    verify(&runtime, server, stats.counted.units);
    stats.counted.calls as f64 / took.as_secs_f64()
}

/// Checks that the server's totals are the acknowledged usage.
fn verify(runtime: &Runtime, server: Server, acknowledged: u64) {
    let shown: Vec<i64> = runtime.block_on(async {
        let client = UsageClient::connect(server.endpoint())
            .await
            .expect("a server");
        let mut totals = Vec::new();
        for number in 0..ACCOUNTS {
            totals.push(total(&client, number).await);
        }
        totals
    });
    assert_eq!(shown.iter().sum::<i64>(), acknowledged as i64);
    server.stop();
}

async fn total(client: &UsageClient, number: usize) -> i64 {
    let usage = client.get(format!("acct_{number}")).await.expect("usage");
    let totals = usage.meters.iter().map(|meter| meter.quantities.total);
    totals.sum()
}
