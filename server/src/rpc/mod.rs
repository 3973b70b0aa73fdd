//! The wire: turns requests into the domain's words and answers into the wire's, one file a service.
//!
//! Nothing is decided here.

pub(crate) mod account_service;
pub(crate) mod page_token;
pub(crate) mod report_stream;
pub(crate) mod usage_service;
mod wire;
mod wire_reconciliation;
