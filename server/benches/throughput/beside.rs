//! How long a single call takes beside callers of batches, compared with the same call alone. Each caller has an API key of
//! its own.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::{runtime::Runtime, task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use usage_client::{CreateKey, Increment, KeyRole, UsageClient};
use uuid::Uuid;

use crate::{
    load::{ACCOUNTS, Accounts, Call, Keys, Work, histogram},
    servers::{Running, Side},
    support::engines::{Database, Engine},
    table::latencies,
};

/// The time between two single calls.
const PACE: Duration = Duration::from_millis(10);
/// Callers of batches.
const BATCH_CALLERS: u64 = 3;

/// What the row is called.
pub(crate) fn name(engine: Engine) -> String {
    format!("{} unary-beside-batches", engine.name())
}

/// Measures and prints both.
pub(crate) fn measure(engine: Engine, database: Database, duration: Duration) {
    let server = Running::start(Side::Ours, Some(database));
    let runtime = Runtime::new().expect("a runtime");
    let (alone, beside, acknowledged) = runtime.block_on(async {
        let open = UsageClient::connect(server.endpoint())
            .await
            .expect("a connection");
        // The first key is an admin's.
        let admin = with_key(&open, server.endpoint(), KeyRole::Admin, "admin").await;
        let client = with_key(&admin, server.endpoint(), KeyRole::Writer, "single calls").await;
        let (_, first) = paced(&client, duration / 4).await;
        let (alone, second) = paced(&client, duration).await;
        let stop = CancellationToken::new();
        let mut callers = JoinSet::new();
        for seed in 1..=BATCH_CALLERS {
            let name = format!("batches {seed}");
            let client = with_key(&admin, server.endpoint(), KeyRole::Writer, &name).await;
            callers.spawn(send_batches(client, seed, stop.clone()));
        }
        let (beside, third) = paced(&client, duration).await;
        stop.cancel();
        let in_batches: u64 = callers.join_all().await.into_iter().sum();
        (alone, beside, first + second + third + in_batches)
    });
    server.stop_and_verify(acknowledged);
    println!(
        "{}: alone p50 / p99 {} ms, beside {BATCH_CALLERS} callers of batches {} ms",
        name(engine),
        latencies(&alone),
        latencies(&beside),
    );
    let at = |histogram: &Histogram<u64>, quantile| histogram.value_at_quantile(quantile);
    println!(
        "bench: {} p50_alone={} p99_alone={} p50={} p99={}",
        name(engine),
        at(&alone, 0.5),
        at(&alone, 0.99),
        at(&beside, 0.5),
        at(&beside, 0.99),
    );
}

/// A client with a new key.
async fn with_key(creator: &UsageClient, endpoint: &str, role: KeyRole, name: &str) -> UsageClient {
    let created = creator.create_key(CreateKey::new(name, role)).await;
    let key = created.expect("a key").text;
    let client = UsageClient::builder(endpoint).api_key(key).connect().await;
    client.expect("a connection")
}

/// One call after the other, at most one each 10 ms. Returns the latencies in microseconds, and the number of calls.
async fn paced(client: &UsageClient, duration: Duration) -> (Histogram<u64>, u64) {
    let mut latencies = histogram();
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = Instant::now() + duration;
    let mut calls = 0;
    while Instant::now() < end {
        ticks.tick().await;
        let increment = Increment::new("account-of-single-calls").key(Uuid::now_v7().to_string());
        let sent = Instant::now();
        client
            .increment(increment)
            .await
            .expect("an increment that counts");
        let micros = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
        latencies.saturating_record(micros);
        calls += 1;
    }
    (latencies, calls)
}

/// One batch after the other until the end. Returns the number of increments.
async fn send_batches(client: UsageClient, seed: u64, stop: CancellationToken) -> u64 {
    let work = Work::BatchOfKeys {
        keys: Keys::Ordered,
        accounts: ACCOUNTS,
    };
    let mut accounts = Accounts::new(seed, ACCOUNTS);
    let mut counted = 0;
    while !stop.is_cancelled() {
        let call: Call = work.request(&mut accounts);
        counted += call.send(&client).await;
    }
    counted
}
