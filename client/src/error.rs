//! What went wrong, said so that a caller can act on it.
//!
//! Waiting and trying again belong elsewhere: an error only says whether that can help and after how
//! long. How a status of gRPC becomes one is in `status.rs`.

use crate::Reason;
use std::{error::Error as StdError, fmt, time::Duration};

/// Why a call failed.
///
/// Ask [`kind`](Error::kind) for what to do, [`is_retryable`](Error::is_retryable) for whether the
/// same call can succeed later, and [`may_have_taken_effect`](Error::may_have_taken_effect) for
/// whether a call without an idempotency key can be repeated without counting twice.
///
/// ```
/// # use usage_client::{Error, ErrorKind};
/// # fn example(error: &Error) {
/// match error.kind() {
///     ErrorKind::KeyReused => eprintln!("two different things share one key: {error}"),
///     _ if error.is_retryable() => eprintln!("again after {:?}", error.retry_after()),
///     _ => eprintln!("{error}"),
/// }
/// # }
/// ```
pub struct Error(pub(crate) Box<Inner>);

/// Boxed, so that a `Result` stays small.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
    pub(crate) reason: Option<Reason>,
    pub(crate) violations: Vec<FieldViolation>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) may_have_taken_effect: bool,
    pub(crate) key: Option<String>,
    pub(crate) source: Option<Source>,
}

#[derive(Debug)]
pub(crate) enum Source {
    Status(tonic::Status),
    Transport(tonic::transport::Error),
}

/// What a failed call means for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call asks for something that can never be done; see
    /// [`violations`](Error::violations). Nothing was sent, or nothing was done.
    #[error("invalid")]
    Invalid,
    /// The idempotency key was used before with other content. Nothing was counted.
    #[error("key reused")]
    KeyReused,
    /// The Stripe customer belongs to another account.
    #[error("customer taken")]
    CustomerTaken,
    /// The account changed since its etag was read: read it again.
    #[error("etag mismatch")]
    EtagMismatch,
    /// There is no such account or report run.
    #[error("not found")]
    NotFound,
    /// The server has as much work waiting as it accepts. It counted nothing: call again after
    /// [`retry_after`](Error::retry_after).
    #[error("overloaded")]
    Overloaded,
    /// The server answered that it cannot do it now: its database is silent, or it is stopping.
    #[error("unavailable")]
    Unavailable,
    /// The server runs without a Stripe key, so it reports nothing.
    #[error("reporting disabled")]
    ReportingDisabled,
    /// It cannot be done as things stand; the reason and the message say what has to change first.
    /// Nothing was done.
    #[error("failed precondition")]
    Precondition,
    /// The caller may not do this.
    #[error("denied")]
    Denied,
    /// No answer came before the deadline.
    #[error("deadline exceeded")]
    Deadline,
    /// The server does not know this call; it is older than this client.
    #[error("not implemented by the server")]
    Unimplemented,
    /// A defect of the server; its log has the cause.
    #[error("internal error of the server")]
    Internal,
    /// The connection could not be made, or it broke before the answer.
    #[error("connection failed")]
    Transport,
    /// An answer came, and it does not keep the contract.
    #[error("malformed answer")]
    Malformed,
    /// The folder of a [`Recorder`](crate::Recorder)'s spool cannot be used, or not now.
    #[error("spool")]
    Spool,
}

/// One field of a call that is outside its limits.
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

    /// The server's reason; none when it gave none, or when the server was not reached.
    pub fn reason(&self) -> Option<&Reason> {
        self.0.reason.as_ref()
    }

    /// What is wrong with the fields of the call; at most 16, and empty for most errors.
    pub fn violations(&self) -> &[FieldViolation] {
        &self.0.violations
    }

    /// How long the server asks to wait before the call is made again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same call can succeed later.
    ///
    /// An increment is counted once however often it is sent again with the same key, see
    /// [`idempotency_key`](Error::idempotency_key).
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::Overloaded
                | ErrorKind::Unavailable
                | ErrorKind::Deadline
                | ErrorKind::Transport
        )
    }

    /// Whether the call may have been carried out although it failed. False is certain.
    pub fn may_have_taken_effect(&self) -> bool {
        self.0.may_have_taken_effect
    }

    /// The idempotency key that the failed increment or batch was sent with, also when the client
    /// minted it: the next attempt must carry the same one.
    pub fn idempotency_key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// The gRPC status as it came; none when the client itself refused the call or gave up waiting.
    pub fn status(&self) -> Option<&tonic::Status> {
        match self.0.source.as_ref()? {
            Source::Status(status) => Some(status),
            Source::Transport(_) => None,
        }
    }

    /// An argument that the client does not send.
    pub(crate) fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        let violation = FieldViolation {
            field: field.into(),
            description: description.into(),
        };
        let mut error = Self::local(ErrorKind::Invalid, "the call was not sent", false);
        error.0.violations = vec![violation];
        error
    }

    /// An answer that breaks the contract. What was asked for has happened all the same.
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::local(ErrorKind::Malformed, message, true)
    }

    /// The client's own deadline.
    pub(crate) fn deadline(timeout: Duration) -> Self {
        let message = format!("no answer within {timeout:?}");
        Self::local(ErrorKind::Deadline, message, true)
    }

    /// A stream that ended before its last message.
    pub(crate) fn cut_off(message: impl Into<String>) -> Self {
        Self::local(ErrorKind::Transport, message, true)
    }

    /// The same refusal, seen from the message that holds the refused one.
    pub(crate) fn within(mut self, path: &str) -> Self {
        for violation in &mut self.0.violations {
            violation.field = format!("{path}.{}", violation.field);
        }
        self
    }

    /// The same failure of a later attempt: what an earlier one may have done may have been done.
    pub(crate) fn or_earlier_effect(mut self, earlier: bool) -> Self {
        self.0.may_have_taken_effect |= earlier;
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
        for violation in self.violations() {
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
