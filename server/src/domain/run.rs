//! Report runs: a run closes the open reports of a scope, and the sender sends them.

use uuid::Uuid;

use super::{Millis, account_id::AccountId, names::names};

/// What started a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The schedule.
    Schedule,
    /// `ForceReport`.
    Force,
    /// The end of a billing period.
    PeriodEnd,
}

names!(Trigger {
    Schedule = "schedule",
    Force = "force",
    PeriodEnd = "period end",
});

/// The accounts whose reports a run closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All accounts.
    All,
    /// These accounts.
    Accounts(Vec<AccountId>),
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// A `UUIDv7`.
    pub id: Uuid,
    /// What started it.
    pub trigger: Trigger,
    /// Who requested it.
    pub requested_by: String,
    /// The accounts whose reports it closes.
    pub scope: Scope,
    /// When it began.
    pub started_at: Millis,
    /// When a replica last closed reports for it.
    pub heartbeat_at: Millis,
    /// When everything in scope was closed.
    pub closing_finished_at: Option<Millis>,
    /// How many reports it closed.
    pub closed_reports: i64,
    /// The sum of their quantities.
    pub closed_quantity: i64,
}
