//! Decisions of an admin on reports that the service does not retry by itself.

use crate::{Error, ReportState, UsageReport, proto, wire};
use chrono::{DateTime, Utc};
use proto::ResolveAction as Wire;
use std::fmt;

/// How to resolve a report that is missing, rejected, unknown or too late, or whose customer was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResolveAction {
    /// Send it again under a new identifier, with a timestamp inside its window. A report whose invoice is final, or that
    /// is older than the 35 days that Stripe accepts, becomes too late again.
    Retry,
    /// Send it again under a new identifier, billed in the current billing period.
    BillInCurrentPeriod,
    /// Do not bill it.
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

impl fmt::Display for ResolveAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry => f.write_str("retry"),
            Self::BillInCurrentPeriod => f.write_str("bill-in-current-period"),
            Self::WriteOff => f.write_str("write-off"),
            Self::Unrecognised(number) => write!(f, "{number}"),
        }
    }
}

/// One decision on a report.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReportDecision {
    /// The action that was chosen.
    pub action: ResolveAction,
    /// Why, as the admin gave it.
    pub reason: String,
    /// Who decided.
    pub requested_by: String,
    /// When it was decided.
    pub decided_at: DateTime<Utc>,
    /// The report's state before the decision.
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
/// let decision = ResolveReport::new("acct_1", "0190a5b2-...", ResolveAction::WriteOff, "a test customer")
///     .requested_by("ann");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is decided until it is sent"]
pub struct ResolveReport {
    account_id: String,
    report_id: String,
    action: ResolveAction,
    reason: String,
    requested_by: String,
    dry_run: bool,
    etag: String,
}

impl ResolveReport {
    /// Resolves the report of an account with this id.
    pub fn new(
        account_id: impl Into<String>,
        report_id: impl Into<String>,
        action: ResolveAction,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            account_id: account_id.into(),
            report_id: report_id.into(),
            action,
            reason: reason.into(),
            requested_by: String::new(),
            dry_run: false,
            etag: String::new(),
        }
    }

    /// Who decides, at most 128 characters; by default the API key, or without one the caller's network address.
    pub fn requested_by(mut self, requested_by: impl Into<String>) -> Self {
        self.requested_by = requested_by.into();
        self
    }

    /// Only returns the report as it would be; decides nothing.
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Decides only if neither the report nor its decisions have changed since an earlier response, whose etag this is.
    pub fn etag(mut self, etag: impl Into<String>) -> Self {
        self.etag = etag.into();
        self
    }

    pub(crate) fn into_wire(self) -> proto::ResolveReportRequest {
        proto::ResolveReportRequest {
            account_id: self.account_id,
            report_id: self.report_id,
            action: self.action.to_wire(),
            reason: self.reason,
            requested_by: self.requested_by,
            dry_run: self.dry_run,
            etag: self.etag,
        }
    }
}

/// A resolved report.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// The report after the call, with all decisions on it.
    pub report: UsageReport,
    /// Whether the same decision was already in force; this call then changed nothing.
    pub duplicate: bool,
    /// Names the report and its decisions as they were before the call.
    pub etag: String,
}

impl Resolved {
    pub(crate) fn from_wire(response: proto::ResolveReportResponse) -> Result<Self, Error> {
        Ok(Self {
            report: UsageReport::required_from_wire(response.report)?,
            duplicate: response.duplicate,
            etag: response.etag,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_proto_action_is_known() {
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
