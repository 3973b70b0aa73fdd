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
mod commands;
mod connections;
mod deployment;
mod frames;
mod malformed;
#[path = "../support/process.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod process;
#[path = "../../../tests/it/support/random.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod random;
mod refusals;
mod remote;
mod secrets;
mod settings;
mod unfinished;
