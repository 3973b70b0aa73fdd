//! The causes of errors, for those who run the service: callers are not told.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use super::Error;
use crate::log_limit::LogLimit;

/// Different causes of defects that are remembered.
const MAX_CAUSES: usize = 256;

/// While the database does not respond, it fails every call and every job.
static OUTAGES: LogLimit = LogLimit::new();
/// A defect can fail every call too. Each cause is told.
static DEFECTS: LazyLock<Mutex<HashMap<String, LogLimit>>> = LazyLock::new(Mutex::default);

impl Error {
    /// Logs the cause, if callers are not told and it is not in the log yet. Each error is logged once, by whoever ends
    /// it; many with the same cause have one line a minute, which says how many there were since the last.
    pub(crate) fn log(&self) {
        match self {
            Self::Internal(cause) => {
                if let Some(unlogged) = count_defect(format!("{cause:?}")) {
                    tracing::error!(error = ?cause, unlogged, "a request failed");
                }
            }
            Self::DatabaseUnavailable(cause) => {
                if let Some(unlogged) = OUTAGES.count() {
                    tracing::warn!(error = ?cause, unlogged, "the database did not answer");
                }
            }
            _ => {}
        }
    }

    /// What lies behind it.
    pub(crate) fn cause(&self) -> String {
        std::error::Error::source(self).map_or_else(|| self.to_string(), ToString::to_string)
    }
}

fn count_defect(cause: String) -> Option<u64> {
    let mut known = DEFECTS.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= MAX_CAUSES && !known.contains_key(&cause) {
        known.clear();
    }
    known.entry(cause).or_default().count()
}
