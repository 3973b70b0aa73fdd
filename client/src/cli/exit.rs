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
                let cause = error.cause_id();
                let lines = [
                    Some(format!("error: {error}")),
                    advice.map(str::to_owned),
                    id.map(|id| format!("Request id: {id}")),
                    // Most failed calls have no line there.
                    cause.map(|id| format!("The server's log has the cause: cause_id {id}")),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto;
    use std::collections::HashMap;
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt as _};

    fn message(metadata: HashMap<String, String>) -> String {
        let mut details = ErrorDetails::new();
        details.set_error_info("INTERNAL", proto::ERROR_DOMAIN, metadata);
        details.set_request_info("r-1", "");
        let status = Status::with_error_details(Code::Internal, "internal error", details);
        Failure::from(Error::from(status)).message().unwrap()
    }

    #[test]
    fn the_log_is_named_only_if_it_has_the_cause() {
        let without = message(HashMap::new());
        assert!(without.ends_with("\nRequest id: r-1"), "{without}");
        let cause = (proto::CAUSE_ID.to_owned(), "c-1".to_owned());
        let with = message(HashMap::from([cause]));
        let words = "Request id: r-1\nThe server's log has the cause: cause_id c-1";
        assert!(with.ends_with(words), "{with}");
    }
}
