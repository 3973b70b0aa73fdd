#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    test,
    allow(clippy::arithmetic_side_effects, reason = "numbers in tests are small")
)]

mod access;
mod account;
mod archive;
mod batch;
mod call;
#[cfg(feature = "cli")]
pub mod cli;
mod client;
mod connect;
mod correction;
mod decision;
mod deletion;
mod difference;
mod doctor;
mod error;
mod explanation;
mod increment;
#[cfg(feature = "tower")]
mod layer;
mod meter;
mod period;
mod reason;
mod reconcile;
mod recorder;
mod report;
mod retry;
mod run;
mod run_list;
mod shadow;
mod sign_off;
mod state;
mod status;
mod subscription;
mod usage;
mod usage_of_all;
mod wire;

pub use access::{
    ApiKey, AuditActor, AuditEntry, AuditOutcome, AuditPage, CreateKey, CreatedKey, KeyPage,
    KeyRole, ListAuditEntries,
};
pub use account::{
    Account, AccountPage, AccountPut, Billing, ListAccounts, PutAccount, StripeBilling,
    UnbilledUsage,
};
pub use archive::ReportArchive;
pub use batch::{Batch, BatchOutcome, IncrementResult};
pub use call::{GetCall, IncrementCall};
pub use client::UsageClient;
pub use connect::UsageClientBuilder;
pub use correction::{Correct, Corrected, CorrectedTotal};
pub use decision::{ReportDecision, ResolveAction, ResolveReport, Resolved};
pub use deletion::{
    AccountExport, DeleteAccount, DeletedAccount, DeletionObstacle, DeletionObstacleKind,
};
pub use difference::{AcknowledgeDifference, AcknowledgedDifference, DifferenceAcknowledgement};
pub use doctor::{Diagnosis, Finding, ServerSetting, Severity};
pub use error::{Error, ErrorKind, FieldViolation};
pub use explanation::{
    CountedIncrement, ExplainInvoice, ExplainedLine, ExplainedReport, FindIncrement,
    FoundIncrement, InvoiceExplanation, InvoiceLine,
};
pub use increment::{Counted, Increment};
#[cfg(feature = "tower")]
pub use layer::{After, Charge, Counting, Decide, HttpSuccess, UsageLayer, UsageService};
pub use meter::Meter;
pub use period::Period;
pub use reason::Reason;
pub use reconcile::{
    ComparedInvoice, InvoiceComparison, InvoiceFinding, Reconcile, ReconcilePage, ReconciledUsage,
    StateCount, WaitingComparison,
};
pub use recorder::{Recorded, Recorder, RecorderBuilder, RecorderStats, RefusedUsage};
pub use report::{ListReports, ReportKind, ReportPage, UsageReport};
pub use retry::Retry;
pub use run::{ForceReport, ReportCount, ReportEvent, ReportProgress, ReportRun, ReportSummary};
pub use run_list::{ListRuns, ListedRun, RunPage, RunResults, RunState, RunTrigger};
pub use shadow::{BillingSwitch, CompareShadow, ShadowDay, ShadowFinding, ShadowPage};
pub use sign_off::{ExportSignOff, SignOff, SignOffExport, SignOffFile, SignOffTotals};
pub use state::ReportState;
pub use subscription::{
    AbortSubscriptionChange, BillingPeriod, CancelSubscription, ChangePlan, Changed, InvoiceState,
    Subscription, SubscriptionChange,
};
pub use usage::{Get, Granularity, MeterUsage, Quantities, Usage, UsagePoint};
pub use usage_of_all::{
    AccountUsage, GetSummary, ListUsage, MeterSummary, StateUsage, Summary, SummaryPoint, UsagePage,
};

/// The crate of the time types in this API.
pub use chrono;
/// The generated types and clients, for anything that this crate does not cover.
pub use usage_proto::v1 as proto;
