//! Billing: products and prices, subscriptions and what changes them, invoices with the usage measured on them, events
//! and webhooks.
//!
//! The object files do not use `state`, which stores the objects. Code that changes several objects takes the stored
//! [`state::Billing`]: the endpoints of `subscriptions` and `invoices`, and `advance_clock`, which runs due work. `money`
//! and `calendar` are arithmetic.

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
