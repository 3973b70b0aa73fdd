//! The service's promises, tested through the shipped client against the real server over a real socket, with a
//! real database and a fake Stripe over real HTTP. Each test is listed once and runs on SQLite and on PostgreSQL.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "a test ends at the first wrong value"
)]

mod client;
mod console;
mod counting;
mod fuzz;
mod histories;
mod operations;
mod reporting;
mod simulation;
mod subscriptions;
mod support;
mod table_reads;
