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
#[path = "../support/process.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod process;
#[path = "../../../tests/it/support/random.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod random;
mod size_limit;
mod syncs;
mod writers;

use process::{POLL_INTERVAL, wait_until, within};
