//! How much memory the server has under full load, as a process of its own.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::task::JoinSet;
use usage_client::{Get, Granularity, UsageClient};
use usage_server::clock::Clock;

use crate::{
    background::{self, Background},
    load::{ACCOUNTS, Accounts, Keys, Load, Work},
    servers::verify,
    stored::{HOURS_OF_MONTH, history, name_in_history},
    support::{
        engines::{Database, Engine},
        process::ServerProcess,
    },
};

/// Callers that read months, beside increments.
const READERS: u64 = 8;
/// Connections that the calls are spread over.
const CONNECTIONS: usize = 4;

/// What the row is called.
pub(crate) fn name(engine: Engine) -> String {
    format!("{} memory", engine.name())
}

/// Measures and prints it: single increments, batches, and months of many accounts beside increments.
pub(crate) fn measure(engine: Engine, database: &Database, duration: Duration, accounts: u64) {
    if !ServerProcess::memory_is_known() {
        println!("{}: skipped, this system has no /proc", name(engine));
        return;
    }
    let mut counted = history(database, accounts);
    let server = ServerProcess::start(database, &[]);
    let idle = server.memory().resident;
    let mut peaks = Vec::new();
    for work in [
        Work::unary(128, ACCOUNTS),
        Work::keyed(Keys::Ordered, ACCOUNTS),
        Work::keyed(Keys::Random, ACCOUNTS),
    ] {
        server.forget_peak();
        let load = Load {
            work,
            connections: CONNECTIONS,
            duration,
        };
        counted += load.run(server.endpoint()).acknowledged;
        peaks.push((work.name(), server.memory().peak));
    }
    server.forget_peak();
    counted += background::run(async {
        let work = Work::unary(128, ACCOUNTS);
        let counting = Background::start(server.endpoint(), work, None).await;
        read(server.endpoint(), duration, accounts).await;
        counting.stop().await
    });
    peaks.push(("months-beside-unary".to_owned(), server.memory().peak));
    server.stop();
    background::run(verify(database, counted));
    let of_each: Vec<String> = peaks
        .iter()
        .map(|(work, peak)| format!("{work} {} MiB", peak / 1_024))
        .collect();
    let peak = peaks.iter().map(|(_, peak)| *peak).max().unwrap_or(idle);
    println!(
        "{}: {} MiB at first; at most {}",
        name(engine),
        idle / 1_024,
        of_each.join(", ")
    );
    println!("bench: {} idle_kib={idle} peak_kib={peak}", name(engine));
}

/// Reads a month by hour of one account after the other.
async fn read(endpoint: &str, duration: Duration, accounts: u64) {
    let now = DateTime::<Utc>::from_timestamp_millis(Clock::system().now()).expect("a date");
    let hours = TimeDelta::hours(i64::try_from(HOURS_OF_MONTH).expect("a few hundred"));
    let client = UsageClient::connect(endpoint).await.expect("a connection");
    let end = Instant::now() + duration;
    let mut readers = JoinSet::new();
    for seed in 1..=READERS {
        let client = client.clone();
        let mut order = Accounts::new(seed, accounts);
        readers.spawn(async move {
            while Instant::now() < end {
                let month = Get::account(name_in_history(order.number()))
                    .period(now - hours, now)
                    .granularity(Granularity::Hour)
                    .round_outward();
                client.get(month).await.expect("usage");
            }
        });
    }
    readers.join_all().await;
}
