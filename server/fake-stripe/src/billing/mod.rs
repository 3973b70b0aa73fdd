//! Billing: products and prices, subscriptions and what changes them, invoices with the usage measured on them, events
//! and webhooks. `advance_clock` does what is due as time passes: period ends, finalizations and cancellations, in
//! order. `money` and `calendar` are arithmetic. `snapshots`, `control` and `control_client` are what tests see of it.

pub(crate) mod advance_clock;
pub(crate) mod billing_state;
pub(crate) mod calendar;
pub(crate) mod cancellation;
pub(crate) mod control;
pub(crate) mod control_client;
pub(crate) mod events;
pub(crate) mod invoice_api;
pub(crate) mod invoice_json;
pub(crate) mod invoices;
pub(crate) mod item_changes;
pub(crate) mod money;
pub(crate) mod preview;
pub(crate) mod prices;
pub(crate) mod products;
pub(crate) mod snapshots;
pub(crate) mod subscription_api;
pub(crate) mod subscription_items;
pub(crate) mod subscription_json;
pub(crate) mod subscription_update;
pub(crate) mod subscriptions;
pub(crate) mod thin_events;
pub(crate) mod tiers;
pub(crate) mod usage;
pub(crate) mod webhooks;

pub(crate) use billing_state::Billing;
