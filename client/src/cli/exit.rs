//! The failure of a command: its message and its exit code.

use crate::Error;
use std::io;

pub(super) const DONE: u8 = 0;
const FAILED: u8 = 1;
const INVALID_ARGUMENTS: u8 = 2;
const TRY_AGAIN: u8 = 3;
const PARTLY_DONE: u8 = 4;

#[derive(Debug)]
pub(super) enum Failure {
    /// The arguments are invalid. The message is printed as it is.
    Usage(String),
    /// A call failed. The text says what to do, if the command knows more than the error.
    Call(Error, Option<String>),
    /// Something on this machine failed, such as reading a file.
    Local(String),
    /// The command did what it could; the message says what is left.
    Partial(String),
    /// A signal stopped the command; the message says what is left. Has the exit code of that signal.
    Stopped(String, u8),
    /// The reader closed the output, as `head` does. This is not an error.
    OutputClosed,
}

impl Failure {
    pub(super) fn arguments(message: impl AsRef<str>) -> Self {
        Self::Usage(format!("error: {}", message.as_ref()))
    }

    /// A file that cannot be used.
    pub(super) fn file(path: &std::path::Path, error: impl std::fmt::Display) -> Self {
        Self::Local(format!("{}: {error}", path.display()))
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::OutputClosed => DONE,
            Self::Usage(_) => INVALID_ARGUMENTS,
            Self::Call(error, _) if error.is_retryable() => TRY_AGAIN,
            Self::Call(..) | Self::Local(_) => FAILED,
            Self::Partial(_) => PARTLY_DONE,
            Self::Stopped(_, code) => *code,
        }
    }

    pub(super) fn message(&self) -> Option<String> {
        match self {
            Self::OutputClosed => None,
            Self::Usage(message) | Self::Stopped(message, _) => Some(message.clone()),
            Self::Local(message) | Self::Partial(message) => Some(format!("error: {message}")),
            Self::Call(error, advice) => {
                let advice = advice.as_deref();
                let advice = advice.or(error.is_retryable().then_some("Try again."));
                let id = error.request_id();
                let id = id.map(|id| format!("Request id: {id}"));
                let lines = [
                    Some(format!("error: {error}")),
                    advice.map(str::to_owned),
                    id,
                ];
                Some(lines.into_iter().flatten().collect::<Vec<_>>().join("\n"))
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Call(error, None)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        Self::Local(format!("writing the output failed: {error}"))
    }
}
