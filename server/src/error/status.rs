//! An error as the caller gets it: a code, a reason of the contract, and details.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};
use usage_proto::v1::{CAUSE_ID, ERROR_DOMAIN};

use super::{Error, first_message};
use crate::{
    domain::violation::{Reason, Violation},
    metrics,
};

/// Field violations are sent in HTTP/2 trailers, whose size is limited.
const MAX_VIOLATIONS: usize = 16;
/// The limit of a status message, for the same reason.
const MAX_MESSAGE_BYTES: usize = 1_024;

impl Error {
    /// The reason's name in the contract, see `usage.v1.ErrorReason`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(violations) => violations
                .first()
                .map_or(Reason::InvalidField, |violation| violation.reason)
                .name(),
            Self::KeyReused(_) => "KEY_REUSED",
            Self::CustomerTaken { .. } => "CUSTOMER_TAKEN",
            Self::EtagMismatch { .. } | Self::ReportChanged { .. } => "ETAG_MISMATCH",
            Self::AccountNotFound(_) | Self::NothingStored(_) => "ACCOUNT_NOT_FOUND",
            Self::AccountDeleted => "ACCOUNT_DELETED",
            Self::AccountNotDeletable(_) => "ACCOUNT_NOT_DELETABLE",
            Self::RunNotFound(_) => "RUN_NOT_FOUND",
            Self::BelowZero { .. } => "BELOW_ZERO",
            Self::ReportNotFound(_) | Self::ReportMayBeFolded { .. } => "REPORT_NOT_FOUND",
            Self::DifferenceNotFound(_) => "DIFFERENCE_NOT_FOUND",
            Self::IncrementNotFound { .. } => "INCREMENT_NOT_FOUND",
            Self::NoBillingPeriod(_) | Self::InvoiceNotFound { .. } => "INVOICE_NOT_FOUND",
            Self::NotResolvable { .. } => "NOT_RESOLVABLE",
            Self::Overloaded { .. }
            | Self::TooManyChanges { .. }
            | Self::TooManyRuns { .. }
            | Self::TooManyReads { .. }
            | Self::TooManyReadsOfCaller { .. }
            | Self::AnswersUnread { .. }
            | Self::RequestsUnfinished { .. }
            | Self::TooManyKeys => "OVERLOADED",
            Self::TooManyRequests { .. } => "RATE_LIMITED",
            Self::MessageTooSlow(_) => "MESSAGE_TOO_SLOW",
            Self::DatabaseUnavailable(_)
            | Self::KeysUnreadable
            | Self::ReportsMoving
            | Self::MonthChanged => "DATABASE_UNAVAILABLE",
            Self::MonthNotClosed(_) | Self::BooksDiffer(_) => "MONTH_NOT_CLOSED",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::PermissionDenied(_) => "PERMISSION_DENIED",
            Self::OriginNotAllowed(_) => "ORIGIN_NOT_ALLOWED",
            Self::HostNotLocal => "HOST_NOT_LOCAL",
            Self::ApiKeyNotFound(_) => "API_KEY_NOT_FOUND",
            Self::ClockInDoubt(_) => "CLOCK_IN_DOUBT",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::ReportingDisabled | Self::OnlyReads | Self::BilledElsewhere { .. } => {
                "REPORTING_DISABLED"
            }
            Self::StripeUnavailable(_) => "STRIPE_UNAVAILABLE",
            Self::ChangeInProgress(_) => "CHANGE_IN_PROGRESS",
            Self::SubscriptionNotChangeable(_) => "SUBSCRIPTION_NOT_CHANGEABLE",
            Self::UsageNeedsDecision { .. } => "USAGE_NEEDS_DECISION",
            Self::ChangeTimedOut(_) => "CHANGE_TIMED_OUT",
            Self::ChangeAborted(_) => "CHANGE_ABORTED",
            Self::NoChangeInProgress(_) => "NO_CHANGE_IN_PROGRESS",
            Self::DeadlineExceeded | Self::ExportTooSlow(_) => "DEADLINE_EXCEEDED",
            Self::MalformedMessage(_) => "MALFORMED_MESSAGE",
            Self::MessageTooLarge(_) => "MESSAGE_TOO_LARGE",
            Self::Unimplemented(_) => "UNIMPLEMENTED",
            Self::Internal(_) => "INTERNAL",
            Self::Logged { error, .. } => error.reason(),
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Logged { error, .. } => error.code(),
            Self::Invalid(_) | Self::MalformedMessage(_) => Code::InvalidArgument,
            Self::KeyReused(_) | Self::CustomerTaken { .. } => Code::AlreadyExists,
            Self::EtagMismatch { .. } | Self::ReportChanged { .. } => Code::Aborted,
            Self::AccountNotFound(_)
            | Self::NothingStored(_)
            | Self::RunNotFound(_)
            | Self::ReportNotFound(_)
            | Self::ReportMayBeFolded { .. }
            | Self::DifferenceNotFound(_)
            | Self::IncrementNotFound { .. }
            | Self::NoBillingPeriod(_)
            | Self::InvoiceNotFound { .. }
            | Self::ApiKeyNotFound(_) => Code::NotFound,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::PermissionDenied(_) | Self::OriginNotAllowed(_) => Code::PermissionDenied,
            Self::Overloaded { .. }
            | Self::TooManyChanges { .. }
            | Self::TooManyRuns { .. }
            | Self::TooManyReads { .. }
            | Self::TooManyReadsOfCaller { .. }
            | Self::AnswersUnread { .. }
            | Self::RequestsUnfinished { .. }
            | Self::TooManyKeys
            | Self::TooManyRequests { .. }
            | Self::MessageTooLarge(_) => Code::ResourceExhausted,
            Self::DeadlineExceeded | Self::MessageTooSlow(_) | Self::ExportTooSlow(_) => {
                Code::DeadlineExceeded
            }
            Self::Unimplemented(_) => Code::Unimplemented,
            Self::DatabaseUnavailable(_)
            | Self::KeysUnreadable
            | Self::ReportsMoving
            | Self::MonthChanged
            | Self::ClockInDoubt(_)
            | Self::ShuttingDown
            | Self::StripeUnavailable(_)
            | Self::ChangeTimedOut(_) => Code::Unavailable,
            Self::ReportingDisabled
            | Self::OnlyReads
            | Self::BilledElsewhere { .. }
            | Self::MonthNotClosed(_)
            | Self::BooksDiffer(_)
            | Self::AccountDeleted
            | Self::AccountNotDeletable(_)
            | Self::ChangeInProgress(_)
            | Self::NoChangeInProgress(_)
            | Self::ChangeAborted(_)
            | Self::SubscriptionNotChangeable(_)
            | Self::UsageNeedsDecision { .. }
            | Self::BelowZero { .. }
            | Self::NotResolvable { .. }
            | Self::HostNotLocal => Code::FailedPrecondition,
            Self::Internal(_) => Code::Internal,
        }
    }

    fn violations(&self) -> &[Violation] {
        match self {
            Self::Logged { error, .. } => error.violations(),
            Self::Invalid(violations) => violations,
            Self::KeyReused(violation) => std::slice::from_ref(violation),
            _ => &[],
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Logged { error, .. } => error.retry_after(),
            Self::Overloaded { retry_after } | Self::TooManyRequests { retry_after, .. } => {
                Some(*retry_after)
            }
            Self::TooManyChanges { .. }
            | Self::TooManyRuns { .. }
            | Self::TooManyReads { .. }
            | Self::TooManyReadsOfCaller { .. }
            | Self::AnswersUnread { .. }
            | Self::RequestsUnfinished { .. }
            | Self::TooManyKeys
            | Self::DatabaseUnavailable(_)
            | Self::KeysUnreadable
            | Self::ReportsMoving
            | Self::MonthChanged
            | Self::ClockInDoubt(_)
            | Self::ShuttingDown
            | Self::StripeUnavailable(_)
            | Self::ChangeTimedOut(_) => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        // The caller gets only what it can act on.
        let cause_id = error.log();
        let cause_id = cause_id.map(|id| (CAUSE_ID.to_owned(), id.to_string()));
        let metadata: HashMap<String, String> = cause_id.into_iter().collect();
        metrics::call_refused(error.reason());
        let mut details = ErrorDetails::with_error_info(error.reason(), ERROR_DOMAIN, metadata);
        let violations: Vec<FieldViolation> = error
            .violations()
            .iter()
            .take(MAX_VIOLATIONS)
            .map(|violation| {
                FieldViolation::new(violation.field.clone(), violation.message.clone())
            })
            .collect();
        if !violations.is_empty() {
            details.set_bad_request(violations);
        }
        if let Some(delay) = error.retry_after() {
            details.set_retry_info(Some(delay));
        }
        let mut message = match &error {
            Error::Invalid(violations) => first_message(violations).to_owned(),
            other => other.to_string(),
        };
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        Self::with_error_details(error.code(), message, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_the_reason_and_a_capped_list_of_violations() {
        let violations: Vec<Violation> = (0..300)
            .map(|n| Violation::invalid(format!("f{n}"), "wrong"))
            .collect();
        let status = Status::from(Error::from(violations));
        let details = status.get_error_details();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(details.error_info().unwrap().reason, "INVALID_FIELD");
        assert_eq!(details.error_info().unwrap().domain, ERROR_DOMAIN);
        assert_eq!(
            details.bad_request().unwrap().field_violations.len(),
            MAX_VIOLATIONS
        );
    }

    #[test]
    fn an_overloaded_status_carries_the_retry_delay() {
        let status = Status::from(Error::Overloaded {
            retry_after: Duration::from_millis(50),
        });
        let retry = status.get_error_details();
        assert_eq!(
            retry.retry_info().unwrap().retry_delay,
            Some(Duration::from_millis(50))
        );
    }

    #[test]
    fn an_internal_cause_is_not_sent_to_the_caller() {
        let status = Status::from(Error::Internal("password=hunter2".into()));
        assert_eq!(status.message(), "internal error");
    }

    #[test]
    fn an_error_names_the_line_of_the_log_with_its_cause_if_there_is_one() {
        let cause_id = |error: Error| {
            let details = Status::from(error).get_error_details();
            let info = details.error_info().unwrap();
            info.metadata.get(CAUSE_ID).cloned()
        };
        let database = || sea_orm::DbErr::Custom("no answer".to_owned());
        let first = cause_id(Error::DatabaseUnavailable(database()));
        assert!(first.is_some());
        // It has no line of its own.
        assert_eq!(cause_id(Error::DatabaseUnavailable(database())), first);
        let id = uuid::Uuid::now_v7();
        let shared = Error::DatabaseUnavailable(database()).logged_as(Some(id));
        assert_eq!(cause_id(shared), Some(id.to_string()));
        assert_eq!(cause_id(Error::ShuttingDown), None);
    }
}
