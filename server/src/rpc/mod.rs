//! gRPC: converts requests to domain types and results to responses, one file a service. No rules here.

pub(crate) mod account_service;
pub(crate) mod health_service;
pub(crate) mod page_token;
pub(crate) mod report_stream;
pub(crate) mod usage_service;
mod wire;
mod wire_reconciliation;
