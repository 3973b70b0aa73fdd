//! How a command ends otherwise than well: the message and the exit code.

use crate::Error;
use std::io;

pub(super) const DONE: u8 = 0;
const REFUSED: u8 = 1;
const ARGUMENTS: u8 = 2;
const AGAIN: u8 = 3;
const IN_PART: u8 = 4;

#[derive(Debug)]
pub(super) enum Failure {
    /// The command line is wrong; the message is whole.
    Arguments(String),
    /// A call failed; what to do about it, where the command knows better than the error.
    Call(Error, Option<String>),
    /// Something here failed, such as a file.
    Here(String),
    /// What could be done is done, and has been said.
    InPart(String),
    /// Nobody reads any more, as when the output is piped into `head`.
    Unread,
}

impl Failure {
    pub(super) fn arguments(message: impl AsRef<str>) -> Self {
        Self::Arguments(format!("error: {}", message.as_ref()))
    }

    /// A file that cannot be used, by its name.
    pub(super) fn file(path: &std::path::Path, error: impl std::fmt::Display) -> Self {
        Self::Here(format!("{}: {error}", path.display()))
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Unread => DONE,
            Self::Arguments(_) => ARGUMENTS,
            Self::Call(error, _) if error.is_retryable() => AGAIN,
            Self::Call(..) | Self::Here(_) => REFUSED,
            Self::InPart(_) => IN_PART,
        }
    }

    pub(super) fn message(&self) -> Option<String> {
        match self {
            Self::Unread => None,
            Self::Arguments(message) => Some(message.clone()),
            Self::Here(message) | Self::InPart(message) => Some(format!("error: {message}")),
            Self::Call(error, advice) => {
                let advice = advice.as_deref();
                let advice = advice.or(error.is_retryable().then_some("Try again."));
                Some(match advice {
                    Some(advice) => format!("error: {error}\n{advice}"),
                    None => format!("error: {error}"),
                })
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
            return Self::Unread;
        }
        Self::Here(format!("the output cannot be written: {error}"))
    }
}
