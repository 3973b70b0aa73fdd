//! Queries of the look-up after a restore: the reports of a customer and meter by the hour of their events, the results
//! of comparing them with Stripe, and the entries of usage that only Stripe has.

mod already_sent;
mod hours;
mod results;

pub(crate) use hours::HourReports;
pub(crate) use results::{AlreadySent, LookUpResults};
