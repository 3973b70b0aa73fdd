//! The error type of the service, and its mapping to `tonic::Status`. Variants are named by what the caller can do.

use std::{collections::HashMap, time::Duration};

use sea_orm::DbErr;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};
use usage_proto::v1::ERROR_DOMAIN;

use crate::{
    database_error::is_transient,
    domain::{
        access::Denial,
        clock_check::Doubt,
        period::rfc3339,
        violation::{Reason, Violation, quoted},
        window::Interval,
    },
    metrics,
};

/// Field violations are sent in HTTP/2 trailers, whose size is limited.
const MAX_VIOLATIONS: usize = 16;
/// The limit of a status message, for the same reason.
const MAX_MESSAGE_BYTES: usize = 1_024;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input is wrong: fix it.
    #[error("invalid input: {}", first_message(.0))]
    Invalid(Vec<Violation>),
    /// The idempotency key was used for other content: use a new key.
    #[error("{}", .0.message)]
    KeyReused(Violation),
    /// The Stripe customer is linked to another account: unlink it there first.
    #[error("customer {customer:?} is linked to another account; unlink it there first")]
    CustomerTaken {
        /// The Stripe customer.
        customer: String,
    },
    /// The account changed since the caller read it: read it again.
    #[error(
        "the account's etag is now {actual:?}, not {given:?}; read the account again, then retry with its etag"
    )]
    EtagMismatch {
        /// The etag that the caller sent.
        given: String,
        /// The current etag; empty if the account does not exist.
        actual: String,
    },
    /// The account does not exist: create it with `PutAccount`.
    #[error("account {0:?} not found; create it with PutAccount")]
    AccountNotFound(String),
    /// The report run does not exist.
    #[error("report run {} not found", quoted(.0))]
    RunNotFound(String),
    /// The correction would make its billing period negative: correct less.
    #[error(
        "a correction of {quantity} would make the usage from {} to {} negative: this account and meter have {current}",
        rfc3339(period.start), rfc3339(period.end)
    )]
    BelowZero {
        /// The quantity of the correction.
        quantity: i64,
        /// The period's current total.
        current: i64,
        /// The billing period, or the time between two links if none is known.
        period: Interval,
    },
    /// The usage report does not exist.
    #[error("usage report {} not found", quoted(.0))]
    ReportNotFound(String),
    /// The usage report does not exist, and may be one that was folded.
    #[error(
        "usage report {report} not found; if it was folded, it is in one of the archives {}",
        archives.join(", ")
    )]
    ReportMayBeFolded {
        /// The id.
        report: String,
        /// Some of the archives that may have it, each with its SHA-256.
        archives: Vec<String>,
    },
    /// There is no such difference with invoices, or it has changed.
    #[error("difference {} not found, or it has changed; reconcile again", quoted(.0))]
    DifferenceNotFound(String),
    /// The report's state allows no decision.
    #[error(
        "report {report} is {state}{}; a decision needs a report that is missing, rejected, customer_deleted, unknown or too_late",
        decided.as_ref().map(|action| format!(", as decided by {action}")).unwrap_or_default()
    )]
    NotResolvable {
        /// The report.
        report: String,
        /// Its state.
        state: String,
        /// The last decision, if one applies.
        decided: Option<String>,
    },
    /// The queue is full: retry after the given time.
    #[error("the queue of increments is full; retry in {} ms", retry_after.as_millis())]
    Overloaded {
        /// How long to wait before a retry.
        retry_after: Duration,
    },
    /// Too many changes of accounts run or wait: retry later.
    #[error(
        "{limit} changes of accounts run or wait, and no more may; nothing was changed, so retry later"
    )]
    TooManyChanges {
        /// The limit.
        limit: usize,
    },
    /// Too many answers wait to be read: read them, then retry.
    #[error(
        "{unread} bytes of answers wait to be read, and {limit} may; read the answers of earlier calls, then retry"
    )]
    AnswersUnread {
        /// The bytes that would wait.
        unread: usize,
        /// The limit.
        limit: usize,
    },
    /// The database did not respond: retry with the same idempotency key.
    #[error(
        "the database did not answer; the call may have taken effect, so retry it with the same idempotency key"
    )]
    DatabaseUnavailable(#[source] DbErr),
    /// Clocks contradict each other, so nothing that depends on the time is done: retry later.
    #[error("{0}, so the time is not certain and nothing was closed or sent; retry later")]
    ClockInDoubt(Doubt),
    /// The server is stopping: retry on another server.
    #[error("the server is stopping; retry on another server")]
    ShuttingDown,
    /// The server runs without a Stripe key.
    #[error("the server has no Stripe key, so it does not report; set STRIPE_SECRET_KEY")]
    ReportingDisabled,
    /// The call depends on data from Stripe, and Stripe did not respond: retry.
    #[error("Stripe did not answer, so nothing was changed: {0}")]
    StripeUnavailable(String),
    /// Another change of the subscription is in progress: wait for it.
    #[error(
        "another change of the subscription of account {0:?} is in progress; wait until it ends"
    )]
    ChangeInProgress(String),
    /// The subscription does not allow this change.
    #[error("{0}")]
    SubscriptionNotChangeable(String),
    /// Reports of the current period wait for a decision: resolve them first.
    #[error(
        "{reports} usage reports of the current period of account {account_id:?} are missing, rejected, customer_deleted, unknown or too_late; resolve them first, or the change would lose them"
    )]
    UsageNeedsDecision {
        /// The account.
        account_id: String,
        /// How many reports.
        reports: u64,
    },
    /// No change of the subscription is in progress.
    #[error("no change of the subscription of account {0:?} is in progress")]
    NoChangeInProgress(String),
    /// An admin aborted the change.
    #[error("nothing was changed: {0}")]
    ChangeAborted(String),
    /// Stripe did not show the usage in time: retry.
    #[error("nothing was changed: {0}")]
    ChangeTimedOut(String),
    /// The call needs a key, and has none that is valid. Which of it is wrong is not said.
    #[error(
        "no valid API key: send `authorization: Bearer KEY` with a key that exists, has not expired and is not revoked"
    )]
    Unauthenticated,
    /// The caller's key does not allow the call.
    #[error("{0}")]
    PermissionDenied(Denial),
    /// The database does not say who calls: retry later.
    #[error(
        "the database did not answer, so the API key could not be checked; nothing was done, so retry later"
    )]
    KeysUnreadable,
    /// Too many keys that were not seen before are looked up: retry later.
    #[error("too many API keys are looked up for the first time; nothing was done, so retry later")]
    TooManyKeys,
    /// The key does not exist.
    #[error("API key {} not found", quoted(.0))]
    ApiKeyNotFound(String),
    /// The call's deadline passed before its answer: retry with the same idempotency key.
    #[error(
        "the deadline passed before the answer; the call may have taken effect, so retry it with the same idempotency key"
    )]
    DeadlineExceeded,
    /// The message is not what gRPC or protobuf demand: fix the caller.
    #[error("the message cannot be read: {0}")]
    MalformedMessage(String),
    /// The message is too large: send less in one call.
    #[error("the message is too large, send less in one call: {0}")]
    MessageTooLarge(String),
    /// The method or the compression of the message is not known here.
    #[error("{0}")]
    Unimplemented(String),
    /// A defect; the log has the cause.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn first_message(violations: &[Violation]) -> &str {
    violations
        .first()
        .map_or("no reason given", |violation| &violation.message)
}

/// A result with the service's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        if violation.reason == Reason::KeyReused {
            Self::KeyReused(violation)
        } else {
            Self::Invalid(vec![violation])
        }
    }
}

impl From<Denial> for Error {
    fn from(denial: Denial) -> Self {
        Self::PermissionDenied(denial)
    }
}

impl From<Vec<Violation>> for Error {
    fn from(violations: Vec<Violation>) -> Self {
        Self::Invalid(violations)
    }
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        if is_transient(&error) {
            Self::DatabaseUnavailable(error)
        } else {
            Self::Internal(Box::new(error))
        }
    }
}

impl Error {
    /// The error of a method that does not exist.
    pub(crate) fn unknown_method(path: &str) -> Self {
        Self::Unimplemented(format!("this server has no method {}", quoted(path)))
    }

    /// What lies behind it, for those who run the service: callers are not told.
    pub(crate) fn cause(&self) -> String {
        std::error::Error::source(self).map_or_else(|| self.to_string(), ToString::to_string)
    }

    /// The reason's name in the contract, see `usage.v1.ErrorReason`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(violations) => violations
                .first()
                .map_or(Reason::InvalidField, |violation| violation.reason)
                .name(),
            Self::KeyReused(_) => "KEY_REUSED",
            Self::CustomerTaken { .. } => "CUSTOMER_TAKEN",
            Self::EtagMismatch { .. } => "ETAG_MISMATCH",
            Self::AccountNotFound(_) => "ACCOUNT_NOT_FOUND",
            Self::RunNotFound(_) => "RUN_NOT_FOUND",
            Self::BelowZero { .. } => "BELOW_ZERO",
            Self::ReportNotFound(_) | Self::ReportMayBeFolded { .. } => "REPORT_NOT_FOUND",
            Self::DifferenceNotFound(_) => "DIFFERENCE_NOT_FOUND",
            Self::NotResolvable { .. } => "NOT_RESOLVABLE",
            Self::Overloaded { .. }
            | Self::TooManyChanges { .. }
            | Self::AnswersUnread { .. }
            | Self::TooManyKeys => "OVERLOADED",
            Self::DatabaseUnavailable(_) | Self::KeysUnreadable => "DATABASE_UNAVAILABLE",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::PermissionDenied(_) => "PERMISSION_DENIED",
            Self::ApiKeyNotFound(_) => "API_KEY_NOT_FOUND",
            Self::ClockInDoubt(_) => "CLOCK_IN_DOUBT",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::ReportingDisabled => "REPORTING_DISABLED",
            Self::StripeUnavailable(_) => "STRIPE_UNAVAILABLE",
            Self::ChangeInProgress(_) => "CHANGE_IN_PROGRESS",
            Self::SubscriptionNotChangeable(_) => "SUBSCRIPTION_NOT_CHANGEABLE",
            Self::UsageNeedsDecision { .. } => "USAGE_NEEDS_DECISION",
            Self::ChangeTimedOut(_) => "CHANGE_TIMED_OUT",
            Self::ChangeAborted(_) => "CHANGE_ABORTED",
            Self::NoChangeInProgress(_) => "NO_CHANGE_IN_PROGRESS",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::MalformedMessage(_) => "MALFORMED_MESSAGE",
            Self::MessageTooLarge(_) => "MESSAGE_TOO_LARGE",
            Self::Unimplemented(_) => "UNIMPLEMENTED",
            Self::Internal(_) => "INTERNAL",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Invalid(_) | Self::MalformedMessage(_) => Code::InvalidArgument,
            Self::KeyReused(_) | Self::CustomerTaken { .. } => Code::AlreadyExists,
            Self::EtagMismatch { .. } => Code::Aborted,
            Self::AccountNotFound(_)
            | Self::RunNotFound(_)
            | Self::ReportNotFound(_)
            | Self::ReportMayBeFolded { .. }
            | Self::DifferenceNotFound(_)
            | Self::ApiKeyNotFound(_) => Code::NotFound,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::PermissionDenied(_) => Code::PermissionDenied,
            Self::Overloaded { .. }
            | Self::TooManyChanges { .. }
            | Self::AnswersUnread { .. }
            | Self::TooManyKeys
            | Self::MessageTooLarge(_) => Code::ResourceExhausted,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Unimplemented(_) => Code::Unimplemented,
            Self::DatabaseUnavailable(_)
            | Self::KeysUnreadable
            | Self::ClockInDoubt(_)
            | Self::ShuttingDown
            | Self::StripeUnavailable(_)
            | Self::ChangeTimedOut(_) => Code::Unavailable,
            Self::ReportingDisabled
            | Self::ChangeInProgress(_)
            | Self::NoChangeInProgress(_)
            | Self::ChangeAborted(_)
            | Self::SubscriptionNotChangeable(_)
            | Self::UsageNeedsDecision { .. }
            | Self::BelowZero { .. }
            | Self::NotResolvable { .. } => Code::FailedPrecondition,
            Self::Internal(_) => Code::Internal,
        }
    }

    fn violations(&self) -> &[Violation] {
        match self {
            Self::Invalid(violations) => violations,
            Self::KeyReused(violation) => std::slice::from_ref(violation),
            _ => &[],
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after } => Some(*retry_after),
            Self::TooManyChanges { .. }
            | Self::AnswersUnread { .. }
            | Self::TooManyKeys
            | Self::DatabaseUnavailable(_)
            | Self::KeysUnreadable
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
        // The cause is logged once, here. The caller gets only what it can act on.
        match &error {
            Error::Internal(cause) => tracing::error!(error = ?cause, "request failed"),
            Error::DatabaseUnavailable(cause) => {
                tracing::warn!(error = ?cause, "database unavailable");
            }
            _ => {}
        }
        metrics::call_refused(error.reason());
        let mut details =
            ErrorDetails::with_error_info(error.reason(), ERROR_DOMAIN, HashMap::new());
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
}
