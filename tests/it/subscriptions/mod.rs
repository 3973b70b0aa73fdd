//! Tests of billing: links, billing periods, and changes of subscriptions.

mod billing_periods;
mod boundaries;
pub(crate) mod cancels;
pub(crate) mod changes;
mod finalized_invoices;
mod late_usage;
pub(crate) mod links;
mod sync;
