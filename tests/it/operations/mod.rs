//! Tests for operators: setup, doctor, webhooks, and the contracts with callers and with Stripe.

pub(crate) mod access;
mod backup;
mod clocks;
mod contract;
pub(crate) mod deletion;
mod distribution;
pub(crate) mod doctor;
mod export;
mod file_modes;
mod grpc_errors;
mod grpc_server;
mod http_server;
mod metrics;
mod over_http;
mod pgbouncer;
mod schema;
mod setup;
mod setup_differences;
pub(crate) mod sign_off;
mod sign_off_calls;
mod sign_off_checks;
mod sign_off_turns;
mod stripe_api;
mod tls;
pub(crate) mod webhooks;
