//! The causes of errors, for those who run the service: callers are not told.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use uuid::Uuid;

use super::Error;
use crate::log_limit::{LogLimit, LogLine};

/// Kinds of defects that are told apart.
const MAX_KINDS: usize = 64;
/// What a kind of defect begins with: what follows may be of the request, such as the values of a row.
const KIND_CHARS: usize = 60;
/// The longest cause in a line.
const MAX_CAUSE_CHARS: usize = 2_000;

/// While the database does not respond, it fails every call and every job.
static OUTAGES: LogLimit = LogLimit::new();
/// A defect can fail every call too. Each kind is told.
static DEFECTS: LazyLock<Mutex<HashMap<String, LogLimit>>> = LazyLock::new(Mutex::default);
/// The kinds beyond [`MAX_KINDS`].
static OTHERS: LogLimit = LogLimit::new();

impl Error {
    /// Logs the cause, if callers are not told and it is not in the log yet. Each error is logged once, by whoever ends
    /// it; many with the same cause have one line a minute, which says how many there were since the last. Returns the
    /// `cause_id` of the line that tells this cause, for the caller to name.
    pub(crate) fn log(&self) -> Option<Uuid> {
        match self {
            Self::Internal(cause) => {
                let cause: String = format!("{cause:?}").chars().take(MAX_CAUSE_CHARS).collect();
                let LogLine { id, unlogged } = defect_line(&cause);
                if let Some(unlogged) = unlogged {
                    tracing::error!(error = cause, cause_id = %id, unlogged, "a request failed");
                }
                Some(id)
            }
            Self::DatabaseUnavailable(cause) => {
                let LogLine { id, unlogged } = OUTAGES.line();
                if let Some(unlogged) = unlogged {
                    tracing::warn!(error = ?cause, cause_id = %id, unlogged, "the database did not answer");
                }
                Some(id)
            }
            // Whoever could not read the keys has logged why.
            Self::KeysUnreadable => OUTAGES.last_id(),
            Self::Logged { cause_id, .. } => *cause_id,
            _ => None,
        }
    }

    /// What lies behind it.
    pub(crate) fn cause(&self) -> String {
        if let Self::Logged { error, .. } = self {
            return error.cause();
        }
        std::error::Error::source(self).map_or_else(|| self.to_string(), ToString::to_string)
    }
}

fn defect_line(cause: &str) -> LogLine {
    let kind: String = cause.chars().take(KIND_CHARS).collect();
    let mut known = DEFECTS.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= MAX_KINDS && !known.contains_key(&kind) {
        return OTHERS.line();
    }
    known.entry(kind).or_default().line()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defects_with_different_values_are_a_few_lines() {
        let beginning = "a".repeat(KIND_CHARS);
        let is_logged = |cause: String| defect_line(&cause).unlogged;
        let same = (0..1_000).filter_map(|row| is_logged(format!("{beginning} row {row}")));
        assert_eq!(same.count(), 1);
        let different = (0..1_000).filter_map(|kind| is_logged(format!("kind {kind}")));
        assert!(different.count() <= MAX_KINDS + 1);
    }
}
