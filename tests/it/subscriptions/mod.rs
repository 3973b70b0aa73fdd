//! Tests of billing: links, billing periods, and changes of subscriptions.

mod billing_periods;
mod boundaries;
mod cancels;
mod changes;
mod companions;
mod finalized_invoices;
mod following;
mod gaps;
mod invoice_comparison;
mod late_answers;
mod late_usage;
mod link_checks;
pub(crate) mod links;
mod replaced_prices;
mod sync;
mod uncharged;
mod unfinished_changes;
