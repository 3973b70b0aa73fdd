//! The error type of the client.
//!
//! Conversions from a gRPC status are in `status.rs`, and retries in `retry.rs`.

use crate::{Reason, RecorderStats};
use std::{error::Error as StdError, fmt, time::Duration};

/// Why a call failed.
///
/// [`kind`](Error::kind) says what to do, [`is_retryable`](Error::is_retryable) whether the same call can succeed later,
/// and [`may_have_taken_effect`](Error::may_have_taken_effect) whether repeating a call without an idempotency key could
/// count twice.
///
/// ```
/// # use usage_client::{Error, ErrorKind};
/// # fn example(error: &Error) {
/// match error.kind() {
///     ErrorKind::KeyReused => eprintln!("the key is used for different content: {error}"),
///     _ if error.is_retryable() => eprintln!("retry after {:?}", error.retry_after()),
///     _ => eprintln!("{error}"),
/// }
/// # }
/// ```
pub struct Error(pub(crate) Box<Inner>);

/// Boxed, to keep `Result` small.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
    pub(crate) reason: Option<Reason>,
    pub(crate) violations: Vec<FieldViolation>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) may_have_taken_effect: bool,
    pub(crate) key: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) cause_id: Option<String>,
    pub(crate) figures: Option<RecorderStats>,
    pub(crate) source: Option<Source>,
}

#[derive(Debug)]
pub(crate) enum Source {
    Status(tonic::Status),
    Transport(tonic::transport::Error),
}

/// What a failure means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call can never succeed; see [`violations`](Error::violations). Nothing was sent or nothing was changed.
    #[error("invalid")]
    Invalid,
    /// The idempotency key was used before with different content. Nothing was counted.
    #[error("key reused")]
    KeyReused,
    /// The Stripe customer is linked to another account.
    #[error("customer taken")]
    CustomerTaken,
    /// The account has changed since its etag was read. Read it again.
    #[error("etag mismatch")]
    EtagMismatch,
    /// The account, report or report run does not exist.
    #[error("not found")]
    NotFound,
    /// The server's queue is full. Nothing was counted. Call again after [`retry_after`](Error::retry_after).
    #[error("overloaded")]
    Overloaded,
    /// The server cannot do it now: its database does not respond, or it is shutting down.
    #[error("unavailable")]
    Unavailable,
    /// The server has no Stripe key, so it does not report.
    #[error("reporting disabled")]
    ReportingDisabled,
    /// Not possible in the current state; the reason and the message say what must change first. Nothing was changed.
    #[error("failed precondition")]
    Precondition,
    /// The call has no valid API key; see [`UsageClientBuilder::api_key`](crate::UsageClientBuilder::api_key). Nothing was
    /// done.
    #[error("unauthenticated")]
    Unauthenticated,
    /// The API key does not allow the call: its role does not suffice, or it is limited to other accounts or meters. Nothing
    /// was done.
    #[error("permission denied")]
    PermissionDenied,
    /// No response before the deadline.
    #[error("deadline exceeded")]
    Deadline,
    /// The server is older than this client and does not know this call.
    #[error("not implemented by the server")]
    Unimplemented,
    /// A bug in the server; its log contains the cause.
    #[error("internal server error")]
    Internal,
    /// TLS failed: the message says whether the server's certificate is not trusted, the server refuses the client's, or one
    /// of the two does not speak TLS. Nothing was sent that the server has read.
    #[error("TLS")]
    Tls,
    /// The connection failed, or was lost before the response.
    #[error("connection failed")]
    Transport,
    /// The response does not conform to the proto.
    #[error("malformed response")]
    Malformed,
    /// The spool of a [`Recorder`](crate::Recorder) cannot be used.
    #[error("spool")]
    Spool,
}

/// An invalid field of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldViolation {
    /// The path of the field, such as `quantity`.
    pub field: String,
    /// What is wrong, with the value and the limit.
    pub description: String,
}

impl Error {
    /// What the failure means for the caller.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The server's reason; none if the server was not reached or gave none.
    pub fn reason(&self) -> Option<&Reason> {
        self.0.reason.as_ref()
    }

    /// The invalid fields of the call, at most 16; empty for most errors.
    pub fn violations(&self) -> &[FieldViolation] {
        &self.0.violations
    }

    /// The delay that the server requests before the next attempt.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same call can succeed later.
    ///
    /// Repeat an increment with the same [`idempotency_key`](Error::idempotency_key), so that it is counted once.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::Overloaded
                | ErrorKind::Unavailable
                | ErrorKind::Deadline
                | ErrorKind::Transport
        )
    }

    /// Whether the call may have taken effect although it failed. False is certain.
    pub fn may_have_taken_effect(&self) -> bool {
        self.0.may_have_taken_effect
    }

    /// The idempotency key that the failed call was sent with, also if the client generated it. The next attempt must use
    /// the same key.
    pub fn idempotency_key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// The id of the failed call; none if no server answered. The audit table has it, if the call is one of an admin's
    /// methods, and so have the lines of the server's log that the call caused, and its spans. Most failed calls cause no
    /// line: [`cause_id`](Error::cause_id) says whether there is one.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// The field `cause_id` of the line in the server's log that has the cause; none if the log has no line of it. Calls
    /// that failed for the same cause share the line. Name it when you ask those who run the server.
    pub fn cause_id(&self) -> Option<&str> {
        self.0.cause_id.as_deref()
    }

    /// What a [`Recorder`](crate::Recorder) had done when the time of its `flush` or `shutdown` was over; none for other
    /// errors.
    pub fn figures(&self) -> Option<RecorderStats> {
        self.0.figures
    }

    /// The received gRPC status; none if the client rejected the call or its own timeout passed.
    pub fn status(&self) -> Option<&tonic::Status> {
        match self.0.source.as_ref()? {
            Source::Status(status) => Some(status),
            Source::Transport(_) => None,
        }
    }

    /// An argument that is rejected before the call is sent.
    pub(crate) fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        let violation = FieldViolation {
            field: field.into(),
            description: description.into(),
        };
        let mut error = Self::local(ErrorKind::Invalid, "the call was not sent", false);
        error.0.violations = vec![violation];
        error
    }

    /// A response that does not conform to the proto. The call has taken effect.
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::local(ErrorKind::Malformed, message, true)
    }

    /// The client's own timeout.
    pub(crate) fn deadline(timeout: Duration) -> Self {
        let message = format!("no response within {timeout:?}");
        Self::local(ErrorKind::Deadline, message, true)
    }

    /// A stream that ended before its last message.
    pub(crate) fn cut_off(message: impl Into<String>) -> Self {
        Self::local(ErrorKind::Transport, message, true)
    }

    /// The same error, with field paths that start at the enclosing message.
    pub(crate) fn within(mut self, path: &str) -> Self {
        for violation in &mut self.0.violations {
            violation.field = format!("{path}.{}", violation.field);
        }
        self
    }

    /// The same error, after an earlier attempt that may have taken effect.
    pub(crate) fn or_earlier_effect(mut self, earlier: bool) -> Self {
        self.0.may_have_taken_effect |= earlier;
        self
    }

    pub(crate) fn with_figures(mut self, figures: RecorderStats) -> Self {
        self.0.figures = Some(figures);
        self
    }

    pub(crate) fn with_key(mut self, key: Option<String>) -> Self {
        self.0.key = key;
        self
    }

    pub(crate) fn local(
        kind: ErrorKind,
        message: impl Into<String>,
        may_have_taken_effect: bool,
    ) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            reason: None,
            violations: Vec::new(),
            retry_after: None,
            may_have_taken_effect,
            key: None,
            request_id: None,
            cause_id: None,
            figures: None,
            source: None,
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.kind.fmt(f)?;
        if let Some(reason) = self.reason() {
            write!(f, " ({reason})")?;
        }
        if !self.0.message.is_empty() {
            write!(f, ": {}", self.0.message)?;
        }
        // The message of a server is that of the first one.
        let others = self.violations().iter();
        let others = others.filter(|one| one.description != self.0.message);
        for violation in others {
            write!(f, "; {}: {}", violation.field, violation.description)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(match self.0.source.as_ref()? {
            Source::Status(status) => status,
            Source::Transport(error) => error,
        })
    }
}
