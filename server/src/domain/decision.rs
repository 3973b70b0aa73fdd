//! Decisions: how an admin resolves a report that the service does not retry.

use uuid::Uuid;

use super::{
    Millis,
    account_id::AccountId,
    names::names,
    report::{State, Transition},
};

/// The action of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send it again, billed in the period of its window.
    Retry,
    /// Send it again, billed in the current period.
    BillInCurrentPeriod,
    /// Never bill it.
    WriteOff,
}

names!(Action {
    Retry = "retry",
    BillInCurrentPeriod = "bill_in_current_period",
    WriteOff = "write_off",
});

impl Action {
    /// The transition of the report.
    pub fn transition(self) -> Transition {
        match self {
            Self::Retry | Self::BillInCurrentPeriod => Transition::Retry,
            Self::WriteOff => Transition::WriteOff,
        }
    }
}

/// A decision as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedDecision {
    /// The account of the report.
    pub account_id: AccountId,
    /// A `UUIDv7`.
    pub id: Uuid,
    /// The decision.
    pub decision: Decision,
}

/// A decision on a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The report.
    pub report_id: Uuid,
    /// The action.
    pub action: Action,
    /// Why.
    pub reason: String,
    /// Who decided.
    pub requested_by: String,
    /// The report's state before the decision.
    pub from_state: State,
    /// The report's generation after the decision.
    pub generation: i32,
    /// When it was decided.
    pub decided_at: Millis,
}
