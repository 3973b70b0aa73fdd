//! The service's one error, named by what the caller can do about it, and its one mapping to a status.

use std::{collections::HashMap, time::Duration};

use sea_orm::{DbErr, RuntimeErr};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};
use usage_proto::v1::ERROR_DOMAIN;

use crate::{
    domain::{
        period::rfc3339,
        violation::{Reason, Violation},
        window::Interval,
    },
    metrics,
};

/// Field violations travel in headers, and a few hundred break the connection.
const MAX_VIOLATIONS: usize = 16;
/// What a status message is cut to, for the same reason.
const MAX_MESSAGE_BYTES: usize = 1_024;

/// Why a call did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input is wrong: mend it.
    #[error("invalid input: {}", first_message(.0))]
    Invalid(Vec<Violation>),
    /// The key stands for other content: use a new one.
    #[error("{}", .0.message)]
    KeyReused(Violation),
    /// The Stripe customer belongs to another account.
    #[error("customer {customer:?} belongs to another account; unlink it there first")]
    CustomerTaken {
        /// The customer in question.
        customer: String,
    },
    /// The account changed in between: read it again.
    #[error(
        "the account's etag is now {actual:?}, not {given:?}; read the account again and decide anew"
    )]
    EtagMismatch {
        /// What the caller had read.
        given: String,
        /// What it is now; empty when nobody has put the account.
        actual: String,
    },
    /// Nobody has put this account.
    #[error("account {0:?} has never been put")]
    AccountNotFound(String),
    /// There is no such run.
    #[error("there is no report run {0:?}")]
    RunNotFound(String),
    /// A correction would take its billing period below zero.
    #[error(
        "a correction of {quantity} would take the time from {} to {} below zero: it holds {held} of this account and meter",
        rfc3339(period.start), rfc3339(period.end)
    )]
    BelowZero {
        /// What was to be entered.
        quantity: i64,
        /// What the period holds.
        held: i64,
        /// The billing period, or what stands for it.
        period: Interval,
    },
    /// There is no such usage report.
    #[error("there is no usage report {0:?}")]
    ReportNotFound(String),
    /// There is nothing to decide on the report.
    #[error(
        "report {report} is {state}{}; only what is short, rejected, parked, unknown or missed is decided on",
        decided.as_ref().map(|action| format!(", as decided by {action}")).unwrap_or_default()
    )]
    NotResolvable {
        /// The report.
        report: String,
        /// Its state.
        state: String,
        /// What was decided last, where that stands.
        decided: Option<String>,
    },
    /// As much work waits as is accepted: try again later.
    #[error("the server has as much work waiting as it accepts; retry in {} ms", retry_after.as_millis())]
    Exhausted {
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// The database does not answer: try again, with the same key.
    #[error(
        "the database did not answer; the call may have taken effect, so retry it with the same idempotency key"
    )]
    Unavailable(#[source] DbErr),
    /// The server is stopping: try another.
    #[error("the server is stopping; retry elsewhere")]
    ShuttingDown,
    /// No Stripe key is configured.
    #[error("the server runs without a Stripe key, so it reports nothing; set STRIPE_SECRET_KEY")]
    ReportingDisabled,
    /// Stripe does not say what has to be known: try again.
    #[error("Stripe did not answer, so nothing was changed: {0}")]
    StripeUnavailable(String),
    /// Another change of the subscription is under way: wait for it.
    #[error("another change of account {0:?}'s subscription is under way; wait for it to end")]
    ChangeUnderWay(String),
    /// The subscription cannot be changed so.
    #[error("{0}")]
    SubscriptionNotChangeable(String),
    /// An admin has to decide on reports first.
    #[error(
        "{reports} usage reports of the present period of account {account_id:?} are short, rejected, parked, unknown or missed; resolve them first, or they would be lost"
    )]
    UsageUndecided {
        /// Whose reports they are.
        account_id: String,
        /// How many.
        reports: u64,
    },
    /// Usage did not show at Stripe in time: try again.
    #[error("nothing was changed: {0}")]
    ChangeTimedOut(String),
    /// A defect; the log has the cause.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn first_message(violations: &[Violation]) -> &str {
    violations
        .first()
        .map_or("no reason given", |violation| &violation.message)
}

/// The result of whatever a call asks for.
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

impl From<Vec<Violation>> for Error {
    fn from(violations: Vec<Violation>) -> Self {
        Self::Invalid(violations)
    }
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        if is_transient(&error) {
            Self::Unavailable(error)
        } else {
            Self::Internal(Box::new(error))
        }
    }
}

/// The database's own code of an error, such as `23505`.
pub(crate) fn database_code(error: &DbErr) -> Option<String> {
    let (DbErr::Exec(RuntimeErr::SqlxError(cause))
    | DbErr::Query(RuntimeErr::SqlxError(cause))
    | DbErr::Conn(RuntimeErr::SqlxError(cause))) = error
    else {
        return None;
    };
    cause
        .as_database_error()?
        .code()
        .map(std::borrow::Cow::into_owned)
}

/// Whether the same statement may well succeed a moment later.
pub(crate) fn is_transient(error: &DbErr) -> bool {
    if let Some(code) = database_code(error) {
        // PostgreSQL: serialization, deadlock, shutdown, connection trouble. SQLite: busy, locked.
        return matches!(
            code.as_str(),
            "40001" | "40P01" | "55P03" | "57014" | "25P03" | "5" | "6" | "517" | "53300"
        ) || code.starts_with("57P")
            || code.starts_with("08");
    }
    match error {
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => true,
        DbErr::Exec(RuntimeErr::SqlxError(cause)) | DbErr::Query(RuntimeErr::SqlxError(cause)) => {
            matches!(
                **cause,
                sqlx::Error::Io(_)
                    | sqlx::Error::PoolTimedOut
                    | sqlx::Error::PoolClosed
                    | sqlx::Error::WorkerCrashed
                    | sqlx::Error::Protocol(_)
            )
        }
        _ => false,
    }
}

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
            Self::EtagMismatch { .. } => "ETAG_MISMATCH",
            Self::AccountNotFound(_) => "ACCOUNT_NOT_FOUND",
            Self::RunNotFound(_) => "RUN_NOT_FOUND",
            Self::BelowZero { .. } => "BELOW_ZERO",
            Self::ReportNotFound(_) => "REPORT_NOT_FOUND",
            Self::NotResolvable { .. } => "NOT_RESOLVABLE",
            Self::Exhausted { .. } => "OVERLOADED",
            Self::Unavailable(_) => "DATABASE_UNAVAILABLE",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::ReportingDisabled => "REPORTING_DISABLED",
            Self::StripeUnavailable(_) => "STRIPE_UNAVAILABLE",
            Self::ChangeUnderWay(_) => "CHANGE_UNDER_WAY",
            Self::SubscriptionNotChangeable(_) => "SUBSCRIPTION_NOT_CHANGEABLE",
            Self::UsageUndecided { .. } => "USAGE_UNDECIDED",
            Self::ChangeTimedOut(_) => "CHANGE_TIMED_OUT",
            Self::Internal(_) => "INTERNAL",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::KeyReused(_) | Self::CustomerTaken { .. } => Code::AlreadyExists,
            Self::EtagMismatch { .. } => Code::Aborted,
            Self::AccountNotFound(_) | Self::RunNotFound(_) | Self::ReportNotFound(_) => {
                Code::NotFound
            }
            Self::Exhausted { .. } => Code::ResourceExhausted,
            Self::Unavailable(_)
            | Self::ShuttingDown
            | Self::StripeUnavailable(_)
            | Self::ChangeTimedOut(_) => Code::Unavailable,
            Self::ReportingDisabled
            | Self::ChangeUnderWay(_)
            | Self::SubscriptionNotChangeable(_)
            | Self::UsageUndecided { .. }
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
            Self::Exhausted { retry_after } => Some(*retry_after),
            Self::Unavailable(_)
            | Self::ShuttingDown
            | Self::StripeUnavailable(_)
            | Self::ChangeTimedOut(_) => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        // The cause is for the operator, once, here; the caller gets what it can act on.
        match &error {
            Error::Internal(cause) => tracing::error!(error = ?cause, "request failed"),
            Error::Unavailable(cause) => tracing::warn!(error = ?cause, "database unavailable"),
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
    fn overload_says_when_to_come_back() {
        let status = Status::from(Error::Exhausted {
            retry_after: Duration::from_millis(50),
        });
        let retry = status.get_error_details();
        assert_eq!(
            retry.retry_info().unwrap().retry_delay,
            Some(Duration::from_millis(50))
        );
    }

    #[test]
    fn an_internal_cause_is_not_sent() {
        let status = Status::from(Error::Internal("password=hunter2".into()));
        assert_eq!(status.message(), "internal error");
    }
}
