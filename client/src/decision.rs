//! Decisions: what an admin does with a report that the service leaves alone, and what was done.

use crate::{Error, ReportState, UsageReport, proto, wire};
use chrono::{DateTime, Utc};
use proto::ResolveAction as Wire;

/// What is done with a report that is short, rejected, parked, unknown or missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResolveAction {
    /// Send it again, under a new identifier, with a timestamp of its own window. What was missed because its
    /// invoice is final or because it is too old for Stripe will be missed again.
    Retry,
    /// Send it again, under a new identifier, billed in the period of the decision.
    BillInCurrentPeriod,
    /// Never bill it.
    WriteOff,
    /// An action that this version of the client does not know, by its number.
    Unrecognised(i32),
}

impl ResolveAction {
    fn to_wire(self) -> i32 {
        match self {
            Self::Retry => Wire::Retry.into(),
            Self::BillInCurrentPeriod => Wire::BillInCurrentPeriod.into(),
            Self::WriteOff => Wire::WriteOff.into(),
            Self::Unrecognised(number) => number,
        }
    }

    fn from_wire(number: i32) -> Self {
        match Wire::try_from(number) {
            Ok(Wire::Retry) => Self::Retry,
            Ok(Wire::BillInCurrentPeriod) => Self::BillInCurrentPeriod,
            Ok(Wire::WriteOff) => Self::WriteOff,
            Ok(Wire::Unspecified) | Err(_) => Self::Unrecognised(number),
        }
    }
}

/// One decision on a report.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReportDecision {
    /// What was decided.
    pub action: ResolveAction,
    /// Why.
    pub reason: String,
    /// Who decided it.
    pub requested_by: String,
    /// When.
    pub decided_at: DateTime<Utc>,
    /// The state in which the report was.
    pub from_state: ReportState,
}

impl ReportDecision {
    pub(crate) fn from_wire(decision: proto::ReportDecision) -> Result<Self, Error> {
        Ok(Self {
            action: ResolveAction::from_wire(decision.action),
            reason: decision.reason,
            requested_by: decision.requested_by,
            decided_at: wire::required_time(decision.decided_at, "decisions.decided_at")?,
            from_state: ReportState::from_wire(decision.from_state),
        })
    }
}

/// A decision on a report, with its reason of 1 to 500 characters.
///
/// ```
/// use usage_client::{ResolveAction, ResolveReport};
///
/// let decision = ResolveReport::new("0190a5b2-...", ResolveAction::WriteOff, "a test customer")
///     .requested_by("ann");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is decided before it is sent"]
pub struct ResolveReport {
    report_id: String,
    action: ResolveAction,
    reason: String,
    requested_by: String,
}

impl ResolveReport {
    /// Does this with the report of this id.
    pub fn new(
        report_id: impl Into<String>,
        action: ResolveAction,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            report_id: report_id.into(),
            action,
            reason: reason.into(),
            requested_by: String::new(),
        }
    }

    /// Who decides, at most 128 characters; the caller's address unless given.
    pub fn requested_by(mut self, requested_by: impl Into<String>) -> Self {
        self.requested_by = requested_by.into();
        self
    }

    pub(crate) fn into_wire(self) -> proto::ResolveReportRequest {
        proto::ResolveReportRequest {
            report_id: self.report_id,
            action: self.action.to_wire(),
            reason: self.reason,
            requested_by: self.requested_by,
        }
    }
}

/// A report that was decided on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// The report as it stands now, with every decision on it.
    pub report: UsageReport,
    /// The same had been decided before and still stands; this call changed nothing.
    pub duplicate: bool,
}

impl Resolved {
    pub(crate) fn from_wire(response: proto::ResolveReportResponse) -> Result<Self, Error> {
        Ok(Self {
            report: UsageReport::required_from_wire(response.report)?,
            duplicate: response.duplicate,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_of_the_contract_is_known() {
        let known = (1..)
            .take_while(|number| Wire::try_from(*number).is_ok())
            .inspect(|number| {
                let action = ResolveAction::from_wire(*number);
                assert!(
                    !matches!(action, ResolveAction::Unrecognised(_)),
                    "{number}"
                );
                assert_eq!(action.to_wire(), *number);
            })
            .count();
        assert_eq!(known, 3);
    }
}
