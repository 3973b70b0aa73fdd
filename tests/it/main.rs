//! The promises of the service, each tried through the shipped client against the real server over a real
//! socket, with a real database and a Stripe stand-in over real HTTP: one list of tests, run on SQLite and
//! on PostgreSQL.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "a test ends where something is not as it must be"
)]

mod accounts;
mod batches;
mod boundaries;
mod calendar;
mod commits;
mod contract;
mod counting;
mod cuts;
mod faults;
mod forcing;
mod hold;
mod input;
mod model;
mod periods;
mod pg_proxy;
mod plans;
mod postgres;
mod replicas;
mod reporting;
mod schedule;
mod showing;
mod showing_model;
mod unanswered;
mod world;
mod year;
