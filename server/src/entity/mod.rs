//! SeaORM entities, one file a table: columns, enums and relations only. Only `store` uses them.

mod account_id;
mod stored_enum;

pub(crate) mod account_link;
pub(crate) mod any_report;
pub(crate) mod api_key;
pub(crate) mod audit_entry;
pub(crate) mod batch_key;
pub(crate) mod billing_period;
pub(crate) mod boundary_change;
pub(crate) mod boundary_version;
pub(crate) mod commit;
pub(crate) mod console_session;
pub(crate) mod correction_key;
pub(crate) mod customer;
pub(crate) mod deleted_account;
pub(crate) mod deletion_salt;
pub(crate) mod folded_report;
pub(crate) mod idempotency_key;
pub(crate) mod invoice_comparison;
pub(crate) mod invoice_line;
pub(crate) mod job_cursor;
pub(crate) mod lease;
pub(crate) mod open_report;
pub(crate) mod report_archive;
pub(crate) mod report_decision;
pub(crate) mod report_run;
pub(crate) mod sending;
pub(crate) mod subscription;
pub(crate) mod subscription_change;
pub(crate) mod unfolded_report;
pub(crate) mod usage_report;
pub(crate) mod verification;
pub(crate) mod webhook_event;
