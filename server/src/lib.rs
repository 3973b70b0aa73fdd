//! usage-server: counts what customers use, shows it and bills it through Stripe.
//!
//! # How a unit of usage travels from a call to an invoice
//!
//! 1. `rpc` takes an `Increment` off the wire; [`usage`] parses it once into a valid one.
//! 2. `ledger` puts it into a group with others and `store` commits the group in one transaction: its
//!    idempotency key, its quantity added to the open usage report of its window, and a row in `commits`.
//!    Only then the caller is answered.
//! 3. `show` answers `Get` from the sums of the usage reports.
//! 4. `reporter` closes reports, on the schedule's beat or on ForceReport's word: quantity and window
//!    freeze, and the link in force at the window's start says whom it is billed to.
//! 5. The holder of the sender's lease marks a report as `sending`, commits that, and gives it to Stripe as
//!    one meter event through `stripe`. The event's identifier is the same on every retry, so that Stripe
//!    keeps it once; what it answers becomes the report's next state.
//! 6. `subscription` keeps what Stripe says of the account's subscription and its billing periods. Their ends are
//!    boundaries: no report reaches over one, and five minutes after it `reporter` closes and sends what is due, while
//!    the invoice is a draft. A plan change or a cancel waits until Stripe shows what was used before it.
//! 7. `verification` compares Stripe's totals with what it took. What they contain is confirmed, and on the invoice.
//!
//! Stripe's webhooks come in through `http`, which checks who signed them, stores them and wakes the job that reads
//! from Stripe what is so.
//!
//! # Where things live
//!
//! | room | purpose |
//! | --- | --- |
//! | [`usage`] | domain types and rules: pure, no io, no clock |
//! | `rpc` | wire to domain and back, one file a service |
//! | `ledger` | group commit |
//! | `show` | the answer of `Get` |
//! | `reporter` | closing, sending, following; the schedule |
//! | [`reconciliation`] | counted, reported and Stripe's figure side by side |
//! | `verification` | compares Stripe's totals with what it took: confirmed, short, over |
//! | `subscription` | follows Stripe's subscriptions; plan changes and cancels |
//! | [`store`] | every query; each public function is one transaction |
//! | `entity` | SeaORM entities, one file a table; only `store` uses them |
//! | `http` | webhooks, health and metrics over HTTP |
//! | `metrics` | what is counted of the service itself; the only place that names a metric |
//! | `stripe` | the only room that names async-stripe |
//! | [`setup`] | what Stripe must hold: meters, products, prices |
//! | [`doctor`] | what goes wrong in real life, looked for |
//! | [`error`] | one error and its one mapping to a status |
//! | [`config`] | every knob |
//! | [`clock`] | the only place that reads the time |
//! | [`serve()`] | starts the parts and stops them in order |
//!
//! The ledger check ([`store::ledger_check`]) holds at every moment: what was acknowledged is what the usage reports
//! hold, in one state or another.

#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        reason = "a test's own figures are small"
    )
)]

pub mod clock;
pub mod commands;
pub mod config;
pub mod domain;
mod entity;
pub mod error;
mod http;
mod ingest;
mod metrics;
pub mod reconciliation;
mod rpc;
mod serve;
pub mod store;
mod stripe;
mod usage_query;
mod workers;

pub use serve::{Listeners, ServeError, serve};
