//! A stateful fake, over real HTTP, of the parts of Stripe that a usage-metering server calls.
//!
//! Stripe's own client libraries work against it: point their base URL at [`FakeStripe::base_url`]. It imitates
//! the behaviour that decides whether usage is billed once: identifiers, idempotency keys, limits, time windows and
//! summaries that lag behind. What it adds, below `/control/`, is what a test needs and Stripe cannot give: scripted
//! faults, a clock that can be moved, and a view of everything it stores ([`Control`]).
//!
//! The map, from the socket inwards. A file uses only files of the same line and of the lines below it.
//! - `fake_stripe`: start and stop.
//! - `control`: the endpoints below `/control/`, and their client.
//! - `pipeline`: the steps of a request below `/v1`, with the checks of `admission`; `webhook_sender`: the task that
//!   sends webhooks.
//! - `routes`, `billing_routes`: the endpoint of each path, after the checks of `unsupported_paths`, `parameters` (what Stripe
//!   takes, listed in `parameters.txt`) and `expand`.
//! - `state`: everything stored, behind one lock. Routes give endpoints the parts that they read and change.
//! - The parts of the pipeline: `listener`, `auth`, `api_version`, `limits`, `idempotency`, `faults` (their queue), `request_log`,
//!   `http_exchange`.
//! - `billing`: products, prices, subscriptions, invoices, events and webhooks, and the work that is due as time passes.
//! - One file an object: `adjustments`, `summaries`, `metering` (a view of meters and events), `meter_events`,
//!   `meters`, `customers`, `customer_balances`, `account`.
//! - `variants`: broken answers, for tests of a caller.
//! - What all share: `control_types`, `fault`, `params`, `metadata`, `list`, `search`, `errors`, `ids`, `clock`, `settings`.

mod account;
mod adjustments;
mod admission;
mod api_version;
mod auth;
mod billing;
mod billing_routes;
mod clock;
mod control;
mod control_types;
mod customer_balances;
mod customers;
mod errors;
mod expand;
mod fake_stripe;
mod fault;
mod faults;
mod http_exchange;
mod idempotency;
mod ids;
mod limits;
mod list;
mod listener;
mod metadata;
mod meter_events;
mod metering;
mod meters;
mod parameters;
mod params;
mod pipeline;
mod request_log;
mod routes;
mod search;
mod settings;
mod state;
mod summaries;
mod unsupported_paths;
mod variants;
mod webhook_sender;

pub use billing::webhooks::webhook_signature;
pub use control::client::{Control, ControlError};
pub use control_types::billing::{
    DeliverySnapshot, DiscardedUsage, InvoiceLineSnapshot, InvoiceSnapshot, ItemSnapshot, NewPrice,
    NewSubscription, NewTier, SubscriptionSnapshot, WebhookOptions,
};
pub use control_types::{
    ClockState, CustomerSnapshot, LoggedRequest, MeterSnapshot, Stats, StoredEvent,
};
pub use fake_stripe::{FakeStripe, serve};
pub use fault::{Fault, FaultKind, ScriptedError};
pub use settings::{API_VERSION, Settings};
pub use variants::{BROKEN_BODIES, Variant};
