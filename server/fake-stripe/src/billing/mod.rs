//! Billing: products and prices, subscriptions and what changes them, invoices with the usage measured on them, events
//! and webhooks.
//!
//! The files of objects know nothing of `state`, which stores them. What changes several objects takes the stored
//! [`state::Billing`] and is above it: `advance_clock` does what is due as time passes (period ends, finalizations and
//! cancellations, in order), `subscriptions` and `invoices` have the endpoints. `money` and `calendar` are arithmetic.

pub(crate) mod advance_clock;
pub(crate) mod calendar;
pub(crate) mod events;
pub(crate) mod invoices;
pub(crate) mod money;
pub(crate) mod prices;
pub(crate) mod products;
pub(crate) mod state;
pub(crate) mod subscriptions;
pub(crate) mod thin_events;
pub(crate) mod tiers;
pub(crate) mod usage;
pub(crate) mod webhooks;
