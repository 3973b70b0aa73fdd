//! The memory of an hour's usage while the server cannot be reached: with the default limit, without one, and with a
//! spool.
//!
//! The hour is compressed: a recorder has one sum per account, meter and second, so each second of an account is
//! recorded as a different account.

use std::{fs, path::Path, time::Duration};
use tokio::runtime::Runtime;
use usage_client::{Recorder, UsageClient};

const SECONDS: usize = 3_600;
const ACCOUNTS: usize = 100;

pub(crate) fn measure(unreachable: &str) {
    let runtime = Runtime::new().expect("a runtime");
    let client =
        runtime.block_on(async { UsageClient::connect_lazy(unreachable).expect("an address") });
    let started = |builder: usage_client::RecorderBuilder| {
        runtime.block_on(async { builder.start().expect("a recorder") })
    };
    let short_interval = Duration::from_millis(10);

    // The smallest first, because a process may not return memory to the system.
    let before = resident();
    let bounded = started(client.recorder(["api_calls"]).interval(short_interval));
    an_hour(&bounded);
    let stats = bounded.stats();
    println!(
        "  100,000 sums (default): {:.1} MiB; {} of {} calls dropped",
        mib(resident() - before),
        stats.dropped.calls,
        stats.recorded.calls
    );
    assert_eq!(stats.pending.calls, 100_000, "everything else is pending");

    let before = resident();
    let unlimited = started(
        client
            .recorder(["api_calls"])
            .interval(short_interval)
            .capacity(SECONDS * ACCOUNTS),
    );
    an_hour(&unlimited);
    let grown = resident() - before;
    let stats = unlimited.stats();
    assert_eq!(stats.dropped.calls, 0);
    println!(
        "  capacity for all {} sums: {:.1} MiB, {} bytes per sum",
        SECONDS * ACCOUNTS,
        mib(grown),
        grown / (SECONDS * ACCOUNTS)
    );

    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let before = resident();
    let spooled = started(
        client
            .recorder(["api_calls"])
            .interval(short_interval)
            .spool(folder.path()),
    );
    for second in 0..SECONDS {
        a_second(&spooled, second);
        if second % 60 == 59 {
            runtime
                .block_on(spooled.persist())
                .expect("space on the disk");
        }
    }
    let stats = spooled.stats();
    assert_eq!(stats.dropped.calls, 0);
    println!(
        "  with a spool: {:.1} MiB in memory, {:.1} MiB on disk",
        mib(resident().saturating_sub(before)),
        mib(size(folder.path()))
    );
    println!(
        "bench: memory bytes_per_sum={}",
        grown / (SECONDS * ACCOUNTS)
    );
    // Does not wait for a server that cannot be reached.
    runtime.shutdown_background();
}

fn an_hour(recorder: &Recorder) {
    for second in 0..SECONDS {
        a_second(recorder, second);
    }
}

fn a_second(recorder: &Recorder, second: usize) {
    for account in 0..ACCOUNTS {
        recorder.record(&format!("acct_{account}_{second}"), "api_calls", 1);
    }
}

/// The resident memory of this process in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<usize>().ok())
        .expect("a size")
        * 1_024
}

fn size(folder: &Path) -> usize {
    let files = fs::read_dir(folder).expect("a folder");
    files
        .map(|file| file.and_then(|file| file.metadata()).expect("a file").len() as usize)
        .sum()
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / 1_048_576.0
}
