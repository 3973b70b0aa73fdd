//! Runs transactions again that PostgreSQL undid because of others.
//!
//! Only transactions that callers wait for need it: a group commit has its own way, in `ingest`, and jobs run again.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use sea_orm::DbErr;
use tokio::time::Instant;

use crate::{database_error::is_undone, error::Error, log_limit::LogLimit};

/// How long after its first attempt a transaction is begun again. It is longer than the limit for a lock, so that a
/// transaction that waited so long for one is run again once.
const RETRY_LIMIT: Duration = Duration::from_secs(20);
const MIN_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_millis(500);

static UNDONE: LogLimit = LogLimit::new();

/// An error that may be one of the database.
pub(super) trait MayBeOfDatabase {
    /// The database's error.
    fn database_error(&self) -> Option<&DbErr>;
}

impl MayBeOfDatabase for DbErr {
    fn database_error(&self) -> Option<&DbErr> {
        Some(self)
    }
}

impl MayBeOfDatabase for Error {
    fn database_error(&self) -> Option<&DbErr> {
        match self {
            Self::DatabaseUnavailable(error) => Some(error),
            _ => None,
        }
    }
}

/// Runs a transaction, and runs it again while the database undoes it for a serialization failure, a deadlock or a lock
/// that it did not get in time. It must be one transaction at most: an earlier one would be run twice.
///
/// # Errors
/// Those of the last attempt.
pub(super) async fn retried<T, E, F>(transaction: impl Fn() -> F) -> Result<T, E>
where
    E: MayBeOfDatabase,
    F: Future<Output = Result<T, E>>,
{
    let started = Instant::now();
    let mut waits = None;
    loop {
        // Large: it would be on the stack of each caller.
        let error = match Box::pin(transaction()).await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let Some(cause) = error.database_error().filter(|cause| is_undone(cause)) else {
            return Err(error);
        };
        let wait = waits
            .get_or_insert_with(backoff)
            .next()
            .unwrap_or(MAX_BACKOFF);
        if started.elapsed().saturating_add(wait) > RETRY_LIMIT {
            return Err(error);
        }
        if let Some(unlogged) = UNDONE.count() {
            tracing::warn!(error = %cause, unlogged, "the database undid a transaction because of others: it is run again");
        }
        tokio::time::sleep(wait).await;
    }
}

fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(MIN_BACKOFF)
        .with_max_delay(MAX_BACKOFF)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn other_errors_end_at_once() {
        let attempts = Cell::new(0);
        let failing = || async {
            attempts.set(attempts.get() + 1);
            Err::<(), _>(Error::from(DbErr::Custom("a defect".to_owned())))
        };
        retried(failing).await.unwrap_err();
        assert_eq!(attempts.get(), 1);
    }
}
