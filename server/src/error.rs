//! The error type of the service. Variants are named by what the caller can do.

mod log;
mod status;

use std::time::Duration;

use sea_orm::DbErr;
use uuid::Uuid;

use crate::{
    database_error::is_transient,
    domain::{
        DAY_MS, Millis,
        access::Denial,
        account_deletion::Obstacle,
        billing_start::BillingStart,
        clock_check::Doubt,
        period::rfc3339,
        violation::{Reason, Violation, quoted},
        window::Interval,
    },
};

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
    /// The report or its decisions changed since the caller read them: look again.
    #[error(
        "report {report} or a decision on it has changed since its etag was read; look at it again, then decide with its new etag"
    )]
    ReportChanged {
        /// The report.
        report: String,
    },
    /// The account does not exist: create it with `PutAccount`.
    #[error("account {0:?} not found; create it with PutAccount")]
    AccountNotFound(String),
    /// Nothing is stored of the account that is to be deleted or exported.
    #[error("nothing is stored of account {0:?}")]
    NothingStored(String),
    /// The account was deleted: use another id.
    #[error(
        "this account was deleted: nothing is counted for it or linked to it, and nothing of it is found under this id"
    )]
    AccountDeleted,
    /// The account has unfinished business, and is not deleted: finish that first.
    #[error("the account was not deleted: {}", first_obstacles(.0))]
    AccountNotDeletable(Vec<Obstacle>),
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
    /// No increment has this idempotency key.
    #[error(
        "no increment of account {account:?} with the idempotency key {}{} is stored: it was not counted, or its key is no longer kept; keys are kept for {} days",
        quoted(.key),
        meter.as_ref().map(|meter| format!(" and the meter {meter:?}")).unwrap_or_default(),
        .kept_ms.div_euclid(DAY_MS)
    )]
    IncrementNotFound {
        /// The account.
        account: String,
        /// The key.
        key: String,
        /// The meter, if one was given.
        meter: Option<String>,
        /// How long keys are kept.
        kept_ms: Millis,
    },
    /// No billing period of an account is known.
    #[error("no billing period of account {0:?} is known at this time")]
    NoBillingPeriod(String),
    /// No line of an invoice is known.
    #[error(
        "no line of invoice {} is known{}: it charges no usage, or was not read from Stripe yet, which is done an hour after the end of its billing period",
        quoted(.invoice),
        account.as_ref().map(|account| format!(" for account {account:?}")).unwrap_or_default()
    )]
    InvoiceNotFound {
        /// The invoice.
        invoice: String,
        /// The account, if one was given.
        account: Option<String>,
    },
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
    /// Too many forced runs close reports: retry later.
    #[error(
        "{limit} forced runs close reports, and no more may; nothing was begun, so retry later"
    )]
    TooManyRuns {
        /// The limit.
        limit: usize,
    },
    /// Too many reads of one kind run or wait: retry later.
    #[error("{running} {of} run and {waiting} wait, and no more may; retry later")]
    TooManyReads {
        /// What they are called.
        of: &'static str,
        /// How many may run.
        running: usize,
        /// How many may wait.
        waiting: usize,
    },
    /// The caller has too many reads of one kind that run or wait: retry later.
    #[error("{limit} {of} with this key or certificate run or wait, and no more may; retry later")]
    TooManyReadsOfCaller {
        /// What they are called.
        of: &'static str,
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
    /// Too many bytes of requests have not arrived in full: finish them, then retry.
    #[error(
        "{held} bytes of unfinished requests wait, and {limit} may; nothing was done, so finish other calls, then retry"
    )]
    RequestsUnfinished {
        /// The bytes that would wait.
        held: usize,
        /// The limit.
        limit: usize,
    },
    /// The caller makes too many requests a second: retry after the given time.
    #[error(
        "more than {per_sec} requests a second with this key or certificate; nothing was done, so retry in {} ms",
        retry_after.as_millis().saturating_add(1)
    )]
    TooManyRequests {
        /// The limit.
        per_sec: u32,
        /// How long to wait before a retry.
        retry_after: Duration,
    },
    /// The request did not arrive in time: send it again.
    #[error("the message did not arrive within {} s; nothing was done, so send it again", .0.as_secs())]
    MessageTooSlow(Duration),
    /// The database did not respond: retry with the same idempotency key.
    #[error(
        "the database did not answer; the call may have taken effect, so retry it with the same idempotency key"
    )]
    DatabaseUnavailable(#[source] DbErr),
    /// Reports are being folded faster than they can be read: retry.
    #[error("reports were closed or folded while they were read; nothing was changed, so retry")]
    ReportsMoving,
    /// A month is not closed, so it is not exported: wait, or export it as it is.
    #[error("{0}; set open to export it as it is, with final false")]
    MonthNotClosed(String),
    /// The rows of a month and the ledger check contradict each other: see `usage-server doctor`.
    #[error("{0}")]
    BooksDiffer(String),
    /// The month changed while it was read: export it again.
    #[error(
        "usage or a decision of the month was added meanwhile, or an account was deleted, so what was sent is not complete; \
         export again"
    )]
    MonthChanged,
    /// An export, or the reading of a part of it, took too long: use the command.
    #[error(
        "the export, or the reading of a part of it, took more than {} s; read faster, or use `usage-server export sign-off`",
        .0.as_secs()
    )]
    ExportTooSlow(Duration),
    /// Clocks contradict each other, so nothing that depends on the time is done: retry later.
    #[error("{0}, so the time is not certain and nothing was closed or sent; retry later")]
    ClockInDoubt(Doubt),
    /// The server is stopping: retry on another server.
    #[error("the server is stopping; retry on another server")]
    ShuttingDown,
    /// The server runs without a Stripe key.
    #[error("the server has no Stripe key, so it does not report; set STRIPE_SECRET_KEY")]
    ReportingDisabled,
    /// The server only reads from Stripe.
    #[error(
        "REPORTING is shadow: another integration bills and Stripe is only read, so nothing was changed; switch over first"
    )]
    OnlyReads,
    /// Another integration bills usage of that time.
    #[error(
        "usage of {} is billed by another integration, {}; nothing was changed",
        rfc3339(*.at),
        .start.described()
    )]
    BilledElsewhere {
        /// The time.
        at: Millis,
        /// From when on this service bills.
        start: BillingStart,
    },
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
    /// A web page of an origin that may not call: name it in the setting.
    #[error(
        "web pages of {} may not call this server: HTTP_CORS_ORIGINS names the origins that may",
        quoted(.0)
    )]
    OriginNotAllowed(String),
    /// The host is not a name of this machine, and no caller needs a key: use such a name, or create a key.
    #[error(
        "without API keys, this server answers only at localhost, 127.0.0.1 and [::1]; \
         create a key with `usage-server keys create` to use another name"
    )]
    HostNotLocal,
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
    /// An error whose cause is in the log already, such as that of a commit which many calls shared.
    #[error("{error}")]
    Logged {
        /// The error.
        error: Box<Error>,
        /// The `cause_id` of the line, if it has one.
        cause_id: Option<Uuid>,
    },
}

/// How many obstacles a message names.
const NAMED_OBSTACLES: usize = 3;

fn first_obstacles(obstacles: &[Obstacle]) -> String {
    let named = obstacles.iter().take(NAMED_OBSTACLES);
    let mut text: Vec<&str> = named.map(|obstacle| obstacle.message.as_str()).collect();
    if obstacles.len() > NAMED_OBSTACLES {
        text.push("and more, which a dry run lists");
    }
    text.join("; ")
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
        match violation.reason {
            Reason::KeyReused => Self::KeyReused(violation),
            Reason::AccountDeleted => Self::AccountDeleted,
            _ => Self::Invalid(vec![violation]),
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

    /// The same error. Its cause is in the log already.
    pub(crate) fn logged(self) -> Self {
        self.logged_as(None)
    }

    /// The same error. Its cause is in the log already, in the line with this id.
    pub(crate) fn logged_as(self, cause_id: Option<Uuid>) -> Self {
        Self::Logged {
            error: Box::new(self),
            cause_id,
        }
    }
}
