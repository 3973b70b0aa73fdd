//! Tests of what usage is billed to: links, billing periods, and changes of subscriptions.

mod billing_periods;
mod boundaries;
mod changes;
mod late_usage;
pub(crate) mod links;
mod sync;
