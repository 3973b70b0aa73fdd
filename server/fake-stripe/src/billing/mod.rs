//! The billing half: what is sold (`products`, `prices`, `tiers`), to whom (`subscriptions` and what changes them), what
//! comes of it (`invoices`, with `usage` measured on them), and the news of it all (`happenings`, `webhooks`, `thin`).
//! `run` is the passing of time: period ends, finalizations and cancellations, each at its moment and in order.
//! `money` and `calendar` are the arithmetic; `held`, `control` and
//! `control_client` are what tests see of it.

pub(crate) mod calendar;
pub(crate) mod cancelling;
pub(crate) mod control;
pub(crate) mod control_client;
pub(crate) mod happenings;
pub(crate) mod held;
pub(crate) mod invoice_calls;
pub(crate) mod invoice_json;
pub(crate) mod invoices;
pub(crate) mod item_changes;
pub(crate) mod items;
pub(crate) mod ledger;
pub(crate) mod money;
pub(crate) mod preview;
pub(crate) mod prices;
pub(crate) mod products;
pub(crate) mod run;
pub(crate) mod subscription_calls;
pub(crate) mod subscription_json;
pub(crate) mod subscription_update;
pub(crate) mod subscriptions;
pub(crate) mod thin;
pub(crate) mod tiers;
pub(crate) mod usage;
pub(crate) mod webhooks;

pub(crate) use ledger::Billing;
