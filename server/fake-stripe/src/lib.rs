//! A stateful fake, over real HTTP, of the parts of Stripe that a usage-metering server calls.
//!
//! Stripe's own client libraries work against it: point their base URL at [`FakeStripe::base_url`]. It imitates
//! the behaviour that decides whether usage is billed once: identifiers, idempotency keys, limits, time windows and
//! summaries that lag behind. What it adds, below `/control/`, is what a test needs and Stripe cannot give: scripted
//! faults, a clock that can be moved, and a view of everything it stores ([`Control`]).
//!
//! The map, from the socket inwards:
//! - `listener`: connections that can be broken on purpose.
//! - `pipeline`: what each call under `/v1` goes through, in order; `auth`, `limits`, `idempotency`, `faults` and
//!   `request_log` are its steps; `http_exchange` is one request and its response.
//! - `routes`: the endpoint of each path; then one file a resource: `customers`, `meters`, `meter_events`,
//!   `adjustments`, `summaries`. A new resource is a new file, a field in `state` and its lines in `routes`.
//! - `billing`, with `billing_routes`: products, prices, subscriptions, invoices, webhooks, and the passing of months.
//! - `params`, `errors`, `list`, `ids`: the forms that every resource shares.
//! - `clock`, `state`, `settings`: the stored objects, the time, and the options.
//! - `control` and `control_client`: both ends of the control endpoints, over the forms in `control_types`.

mod adjustments;
mod auth;
mod billing;
mod billing_routes;
mod clock;
mod control;
mod control_client;
mod control_types;
mod customers;
mod errors;
mod fake_stripe;
mod faults;
mod http_exchange;
mod idempotency;
mod ids;
mod limits;
mod list;
mod listener;
mod meter_events;
mod meters;
mod params;
mod pipeline;
mod request_log;
mod routes;
mod settings;
mod state;
mod summaries;

pub use billing::snapshots::{
    DeliverySnapshot, DiscardedUsage, InvoiceLineSnapshot, InvoiceSnapshot, ItemSnapshot, NewPrice,
    NewSubscription, NewTier, SubscriptionSnapshot, WebhookOptions,
};
pub use billing::webhooks::webhook_signature;
pub use control_client::{Control, ControlError};
pub use control_types::{
    ClockState, CustomerSnapshot, LoggedRequest, MeterSnapshot, Stats, StoredEvent,
};
pub use fake_stripe::{FakeStripe, serve};
pub use faults::{Fault, FaultKind, ScriptedError};
pub use settings::Settings;

/// The Stripe API version that responses are modelled on, and the default of the `Stripe-Version` header.
pub const API_VERSION: &str = "2026-09-30.endive";
