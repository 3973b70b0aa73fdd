//! A stateful fake, over real HTTP, of the parts of Stripe that a usage-metering server calls.
//!
//! Stripe's own client libraries work against it: point their base URL at [`FakeStripe::base_url`]. It imitates
//! the behaviour that decides whether usage is billed once: identifiers, idempotency keys, limits, time windows and
//! summaries that lag behind. What it adds, below `/control/`, is what a test needs and Stripe cannot give: scripted
//! faults, a clock that can be moved, and a view of everything it stores ([`Control`]).
//!
//! The map, from the socket inwards. A file uses only files below it in this list, or in the same line:
//! - `fake_stripe`: start and stop; `listener`: connections that can be broken on purpose.
//! - `control`: the endpoints below `/control`, and their client.
//! - `pipeline`: what each request below `/v1` goes through; `admission` checks the API key, the limits and the
//!   idempotency key first. `webhook_sender`: the task that sends webhooks.
//! - `routes`, `billing_routes`: the endpoint of each path.
//! - `state`: everything stored, behind one lock. Endpoints get the parts that they read and change.
//! - `billing`: products, prices, subscriptions, invoices, events and webhooks, and the work due as time passes.
//! - One file an object: `adjustments`, `summaries`, `metering` (a view of meters and events), `meter_events`,
//!   `meters`, `customers`, `account`.
//! - The parts of the pipeline: `auth`, `limits`, `idempotency`, `faults` (the queue), `request_log`, `http_exchange`.
//! - The forms that all share: `control_types`, `fault`, `params`, `list`, `errors`, `ids`, `clock`, `settings`.

mod account;
mod adjustments;
mod admission;
mod auth;
mod billing;
mod billing_routes;
mod clock;
mod control;
mod control_types;
mod customers;
mod errors;
mod fake_stripe;
mod fault;
mod faults;
mod http_exchange;
mod idempotency;
mod ids;
mod limits;
mod list;
mod listener;
mod meter_events;
mod metering;
mod meters;
mod params;
mod pipeline;
mod request_log;
mod routes;
mod settings;
mod state;
mod summaries;
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
