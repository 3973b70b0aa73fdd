//! Kills real processes: the server as it is shipped, PostgreSQL and what is between them, under load. Afterwards each
//! acknowledged unit is counted once and is at Stripe once. See `server/docs/simulation.md`.
//!
//! The map:
//! - `command`: the command line; `scenario`: the list of scenarios; `run`: one run of one of them.
//! - `scenarios/`: what is killed, one file a subject.
//! - `load`: the callers; `service`: the servers of one database and the fake Stripe, and what must hold in the end.
//! - `relay`: a proxy that cuts, delays, half-closes and swallows; `frozen`: a process that is stopped for a time.
//! - The rest is shared with other tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::arithmetic_side_effects,
    reason = "a scenario ends at the first wrong value"
)]

#[path = "../../server/tests/disk/callers.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod callers;
mod command;
#[path = "../../server/tests/disk/disk.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod disk;
#[path = "../../server/tests/disk/faults.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod faults;
mod frozen;
mod load;
#[path = "../it/support/memory_folder.rs"]
mod memory_folder;
#[path = "../../server/tests/program/own_cluster.rs"]
mod own_cluster;
#[path = "../it/support/pgbouncer.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod pgbouncer;
#[path = "../it/support/postgres/mod.rs"]
#[allow(dead_code, unused_imports, reason = "other tests use the rest")]
mod postgres;
#[path = "../../server/tests/disk/power_cut.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod power_cut;
#[path = "../../server/tests/support/process.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod process;
#[path = "../it/support/random.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod random;
mod relay;
mod run;
mod scenario;
mod scenarios;
mod service;
#[path = "../it/support/small_disk.rs"]
mod small_disk;

use process::{wait_until, within};

fn main() -> std::process::ExitCode {
    command::run()
}
