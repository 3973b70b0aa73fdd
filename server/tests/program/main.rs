//! The real program: what it prints and writes, and what strangers can do to it over its sockets.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "a test ends at the first wrong value"
)]

mod abuse;
mod alerts;
#[path = "../../../tests/it/support/certificates.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod certificates;
mod commands;
mod connections;
mod connections_of_address;
mod database_outages;
mod deployment;
mod documented;
#[path = "../../../tests/it/support/documented.rs"]
mod documented_commands;
mod frames;
mod health;
mod keyed;
#[path = "../../../tests/it/support/latency.rs"]
mod latency;
mod load;
mod log;
mod malformed;
mod own_cluster;
#[path = "../../../tests/it/support/postgres/mod.rs"]
#[allow(dead_code, unused_imports, reason = "other tests use the rest")]
mod postgres;
#[path = "../support/process.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod process;
#[path = "../../../tests/it/support/random.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod random;
mod rates;
mod refusals;
mod remote;
mod secrets;
mod settings;
mod shutdown;
mod strangers;
mod traces;
mod unfinished;
mod upgrade;
