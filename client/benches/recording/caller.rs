//! The cost of a call of `record` for the calling thread.

use hdrhistogram::Histogram;
use std::{hint::black_box, thread, time::Instant};
use usage_client::UsageClient;

/// The number of accounts of a busy second.
const ACCOUNTS: usize = 1_000;

/// Measures a call that does nothing, with one thread and with eight: the cost of the clock and the scheduler.
pub(crate) fn measure_nothing(calls: usize) {
    for threads in [1, 8] {
        let seen = run(threads, calls, &|account| {
            black_box(account);
        });
        print("no-op", threads, &seen);
    }
}

/// Measures `record` in the same way; returns the median with eight threads.
pub(crate) fn measure(what: &str, endpoint: &str, calls: usize) -> u64 {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let recorder = runtime.block_on(async {
        let client = UsageClient::connect_lazy(endpoint).expect("an address");
        client.recorder(["api_calls"]).start().expect("a recorder")
    });
    let mut median = 0;
    for threads in [1, 8] {
        let seen = run(threads, calls, &|account| {
            recorder.record(black_box(account), "api_calls", 1);
        });
        median = print(what, threads, &seen);
    }
    let stats = recorder.stats();
    assert_eq!(stats.recorded.calls, (9 * calls) as u64);
    // Does not wait for a server that cannot be reached.
    runtime.shutdown_background();
    median
}

fn print(what: &str, threads: usize, seen: &Histogram<u64>) -> u64 {
    let clock = clock_cost();
    let at = |quantile: f64| seen.value_at_quantile(quantile).saturating_sub(clock);
    println!(
        "  {what}, {threads} threads: median {} p99 {} p99.9 {} p99.99 {} max {}",
        at(0.5),
        at(0.99),
        at(0.999),
        at(0.9999),
        seen.max()
    );
    println!(
        "bench: record {} threads={threads} median_ns={} p9999_ns={}",
        what.replace(' ', "_"),
        at(0.5),
        at(0.9999)
    );
    at(0.5)
}

fn run(threads: usize, calls: usize, call: &(impl Fn(&str) + Sync)) -> Histogram<u64> {
    let accounts: Vec<String> = (0..ACCOUNTS)
        .map(|number| format!("acct_{number}"))
        .collect();
    let accounts = &accounts;
    let mut all = empty();
    let parts: Vec<Histogram<u64>> = thread::scope(|scope| {
        let threads = (0..threads).map(|thread| {
            scope.spawn(move || {
                let mut seen = empty();
                // Each thread uses the accounts in a different order.
                let mut place = thread * 7;
                for _ in 0..calls {
                    place = (place + 611) % ACCOUNTS;
                    let begun = Instant::now();
                    call(&accounts[place]);
                    seen.saturating_record(begun.elapsed().as_nanos() as u64);
                }
                seen
            })
        });
        let threads: Vec<_> = threads.collect();
        let seen = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        seen.collect()
    });
    for part in &parts {
        all.add(part).expect("the same bounds");
    }
    all
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("bounds")
}

/// The median time of reading the clock twice.
fn clock_cost() -> u64 {
    let mut seen = empty();
    for _ in 0..1_000_000 {
        let begun = Instant::now();
        seen.saturating_record(black_box(begun.elapsed()).as_nanos() as u64);
    }
    seen.value_at_quantile(0.5)
}
