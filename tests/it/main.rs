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
mod connecting;
mod contract;
mod corrections;
mod counting;
mod cuts;
mod doctor;
mod draining;
mod faults;
mod following;
mod forcing;
mod front;
mod hold;
mod input;
mod journey;
mod middleware;
mod model;
mod moody;
mod openapi;
mod other_languages;
mod periods;
mod pg_proxy;
mod plans;
mod postgres;
mod python;
mod random;
mod reconciling;
mod recording;
mod replicas;
mod reporting;
mod resolving;
mod schedule;
mod settling;
mod setup;
mod showing;
mod showing_model;
mod spooling;
mod unanswered;
mod usagectl;
mod webhooks;
mod world;
mod year;
