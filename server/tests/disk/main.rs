//! The real server process on a disk that fails: what is acknowledged stays, and what is not is refused so that it can
//! be repeated. A library in `LD_PRELOAD` makes writes and syncs fail, or wait, while the server runs.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::arithmetic_side_effects,
    reason = "a test ends at the first wrong value"
)]

mod callers;
mod disk;
mod fallback;
mod faults;
#[path = "../../../tests/it/support/memory_folder.rs"]
mod memory_folder;
mod outages;
mod power_cut;
mod process;
mod size_limit;
mod syncs;
mod writers;

use std::{future::Future, time::Duration};

/// The limit of every wait. A busy machine delays a commit for many seconds.
const TIMEOUT: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits for a future; fails after [`TIMEOUT`].
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, future)
        .await
        .unwrap_or_else(|_| panic!("timed out after {TIMEOUT:?} waiting for {what}"))
}

/// Polls until a condition is met; fails after [`TIMEOUT`].
async fn wait_until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    within(what, async {
        while !is_so().await {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await;
}
