//! How long statements and transactions may take, so that a connection that is dead keeps nothing waiting for ever.

use std::time::Duration;

use sea_orm::{DbBackend, DbErr, RuntimeErr};
use tokio::time::{Instant, timeout};

/// The limit for a statement. It is longer than the limit in PostgreSQL, so only dead connections reach it.
pub(super) const STATEMENT_LIMIT: Duration = Duration::from_secs(65);
/// The limit for a transaction with all its statements.
const TRANSACTION_LIMIT: Duration = Duration::from_secs(130);

/// How long the next statement may take, of a transaction that began then.
pub(super) fn limit_since(begun: Option<Instant>) -> Duration {
    begun.map_or(STATEMENT_LIMIT, |begun| limit_after(begun.elapsed()))
}

fn limit_after(elapsed: Duration) -> Duration {
    TRANSACTION_LIMIT
        .saturating_sub(elapsed)
        .min(STATEMENT_LIMIT)
}

/// Limits a statement on PostgreSQL, because a dead connection never responds.
pub(super) async fn limited<T>(
    backend: DbBackend,
    limit: Duration,
    statement: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, DbErr> {
    if backend != DbBackend::Postgres {
        return statement.await;
    }
    timeout(limit, statement)
        .await
        .unwrap_or_else(|_| Err(unresponsive()))
}

pub(super) fn unresponsive() -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(
        "the database did not respond in time".to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_has_what_its_transaction_leaves() {
        let after = |secs| limit_after(Duration::from_secs(secs));
        assert_eq!(after(0), STATEMENT_LIMIT);
        assert_eq!(after(100), Duration::from_secs(30));
        assert_eq!(after(200), Duration::ZERO);
    }
}
