//! How long `Get` takes for a month by hour of one account among many, while increments run at half of their speed.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use hdrhistogram::Histogram;
use tokio::{task::JoinSet, time::MissedTickBehavior};
use usage_client::{Get, Granularity, UsageClient};

use usage_server::clock::Clock;

use crate::{
    background::{self, Background},
    load::{ACCOUNTS, Work, histogram},
    servers::{Running, Side},
    stored::{HOURS_OF_MONTH, OBSERVED, history, vacuum},
    support::engines::{Database, Engine},
    table::latencies,
};

/// Accounts with ten closed reports each, and with `--full`.
pub(crate) const ACCOUNTS_READ: u64 = 10_000;
pub(crate) const MANY_ACCOUNTS_READ: u64 = 1_000_000;
/// The time between two calls: 1,000 a second.
const PACE: Duration = Duration::from_millis(1);

/// What the row is called.
pub(crate) fn name(engine: Engine) -> String {
    format!("{} get-month-by-hour", engine.name())
}

/// Measures and prints it.
pub(crate) fn measure(engine: Engine, database: Database, duration: Duration, accounts: u64) {
    let stored = history(&database, accounts);
    vacuum(&database);
    let nothing = read_nothing(duration);
    let server = Running::start_ours(database, &[]);
    let (alone, half, beside, counted) = background::run(async {
        let client = UsageClient::connect(server.endpoint())
            .await
            .expect("a connection");
        let work = Work::unary(128, ACCOUNTS);
        let counting = Background::start(server.endpoint(), work, None).await;
        let half = counting.rate(duration).await / 2.0;
        let first = counting.stop().await;
        read(&client, duration / 4).await;
        let alone = read(&client, duration).await;
        let limit = NonZeroU32::new(half as u32).unwrap_or(NonZeroU32::MIN);
        let counting = Background::start(server.endpoint(), work, Some(limit)).await;
        let (half, beside) = counting.rate_during(read(&client, duration)).await;
        (alone, half, beside, first + counting.stop().await)
    });
    server.stop_and_verify(stored + counted);
    println!(
        "{}: one account of {accounts}, {} calls a second: p50 / p99 of a server without a database {} ms, alone {} ms, \
         beside {half:.0} increments a second {} ms",
        name(engine),
        1_000 / PACE.as_millis(),
        latencies(&nothing),
        latencies(&alone),
        latencies(&beside),
    );
    let at = |histogram: &Histogram<u64>, quantile| histogram.value_at_quantile(quantile);
    println!(
        "bench: {} accounts={accounts} p50_nothing={} p99_nothing={} p50_alone={} p99_alone={} p50={} p99={} increments={half:.0}",
        name(engine),
        at(&nothing, 0.5),
        at(&nothing, 0.99),
        at(&alone, 0.5),
        at(&alone, 0.99),
        at(&beside, 0.5),
        at(&beside, 0.99),
    );
}

/// The same calls to a server that does nothing but send as long an answer.
fn read_nothing(duration: Duration) -> Histogram<u64> {
    let server = Running::start(Side::Noop, None);
    let latencies = background::run(async {
        let client = UsageClient::connect(server.endpoint()).await;
        let client = client.expect("a connection");
        read(&client, duration / 4).await;
        read(&client, duration).await
    });
    server.stop_and_verify(0);
    latencies
}

/// Calls at a pace, whether or not the earlier ones are answered. Returns the latencies in microseconds.
async fn read(client: &UsageClient, duration: Duration) -> Histogram<u64> {
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let now = DateTime::<Utc>::from_timestamp_millis(Clock::system().now()).expect("a date");
    let hours = i64::try_from(HOURS_OF_MONTH).expect("a few hundred");
    let month = Get::account(OBSERVED)
        .meter("api_calls")
        .period(now - TimeDelta::hours(hours), now)
        .granularity(Granularity::Hour)
        .round_outward();
    let end = Instant::now() + duration;
    let mut calls = JoinSet::new();
    let mut latencies = histogram();
    while Instant::now() < end {
        ticks.tick().await;
        let (client, query) = (client.clone(), month.clone());
        calls.spawn(async move {
            let sent = Instant::now();
            let usage = client.get(query).await.expect("usage");
            let points = usage.meters.first().map_or(0, |meter| meter.points.len());
            assert!(points >= HOURS_OF_MONTH, "a month by hour");
            sent.elapsed()
        });
        while let Some(answered) = calls.try_join_next() {
            record(&mut latencies, answered.expect("no panic in a call"));
        }
    }
    while let Some(answered) = calls.join_next().await {
        record(&mut latencies, answered.expect("no panic in a call"));
    }
    latencies
}

fn record(latencies: &mut Histogram<u64>, took: Duration) {
    latencies.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
}
