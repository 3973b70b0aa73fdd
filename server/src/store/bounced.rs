//! Transactions through PgBouncer, which gives each transaction any of its connections to the server.
//!
//! Nothing of a session may be relied on: settings are made in each transaction, and each statement is parsed again, without
//! a name, because a name would be known at one connection to the server only, or be in use there. The driver sends PARSE and
//! BIND in separate turns, so a statement outside a transaction could be parsed at one connection and run at another.

use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DbBackend, DbErr, ExecResult, IsolationLevel, QueryResult,
    RuntimeErr, Statement, TransactionOptions, prelude::async_trait::async_trait,
};
use sea_query_sqlx::SqlxValues;
use sqlx::{AssertSqlSafe, PgPool, Postgres, query::Query};
use tokio::sync::Mutex;

use super::durability;

/// What each transaction sets, as [`super::hosts`] does for a connection without a pooler.
const SETTINGS: &str = "SET LOCAL lock_timeout = '15s'; SET LOCAL statement_timeout = '60s'; \
    SET LOCAL idle_in_transaction_session_timeout = '5s'";

/// How transactions begin through PgBouncer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounced {
    /// Whether a standby refuses them: PgBouncer may have connected to one since.
    pub(super) writes: bool,
}

/// A transaction whose statements have no names. It is rolled back unless it is committed.
pub(super) struct BouncedTransaction(Mutex<sqlx::Transaction<'static, Postgres>>);

impl BouncedTransaction {
    /// Begins one.
    pub(super) async fn begin(
        pool: &PgPool,
        options: TransactionOptions,
        bounced: Bounced,
    ) -> Result<Self, DbErr> {
        let sql = begin(options, bounced.writes);
        let begun = pool.begin_with(AssertSqlSafe(sql)).await;
        begun
            .map(|transaction| Self(Mutex::new(transaction)))
            .map_err(|error| match error {
                sqlx::Error::PoolTimedOut => DbErr::ConnectionAcquire(ConnAcquireErr::Timeout),
                sqlx::Error::PoolClosed => {
                    DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed)
                }
                // Another host may serve, as after any lost connection.
                error if is_of_standby(&error) => DbErr::Conn(RuntimeErr::Internal(format!(
                    "the server is a standby: {error}"
                ))),
                error => query_error(error),
            })
    }

    /// Commits. After an error the outcome is unknown.
    pub(super) async fn commit(self) -> Result<(), DbErr> {
        self.0.into_inner().commit().await.map_err(exec_error)
    }

    pub(super) async fn rollback(self) -> Result<(), DbErr> {
        self.0.into_inner().rollback().await.map_err(exec_error)
    }
}

impl std::fmt::Debug for BouncedTransaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BouncedTransaction")
    }
}

/// One message to the server.
fn begin(options: TransactionOptions, writes: bool) -> String {
    let isolation = match options.isolation_level {
        Some(IsolationLevel::RepeatableRead) => " ISOLATION LEVEL REPEATABLE READ",
        // Whatever is the default of the database, as `super::hosts` says.
        _ => " ISOLATION LEVEL READ COMMITTED",
    };
    let access = if writes { " READ WRITE" } else { "" };
    format!(
        "BEGIN{isolation}{access}; {SETTINGS}; {}",
        durability::TRANSACT_DURABLY
    )
}

/// Whether the server refuses to write because it is a standby. To such a BEGIN, it says that it has no such feature, not that
/// it is read only; nothing else in that message can be refused so.
fn is_of_standby(error: &sqlx::Error) -> bool {
    const FEATURE_NOT_SUPPORTED: &str = "0A000";
    let error = error.as_database_error();
    error.is_some_and(|error| {
        error
            .code()
            .is_some_and(|code| code == FEATURE_NOT_SUPPORTED)
    })
}

fn unnamed(statement: &Statement) -> Query<'_, Postgres, SqlxValues> {
    let values = statement.values.clone();
    let values = values.unwrap_or_else(|| sea_orm::Values(Vec::new()));
    let sql = AssertSqlSafe(statement.sql.as_str());
    sqlx::query_with(sql, SqlxValues(values)).persistent(false)
}

fn exec_error(error: sqlx::Error) -> DbErr {
    DbErr::Exec(RuntimeErr::SqlxError(error.into()))
}

fn query_error(error: sqlx::Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(error.into()))
}

#[async_trait]
impl ConnectionTrait for BouncedTransaction {
    fn get_database_backend(&self) -> DbBackend {
        DbBackend::Postgres
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        let mut transaction = self.0.lock().await;
        let executed = unnamed(&statement).execute(&mut **transaction).await;
        executed.map(ExecResult::from).map_err(exec_error)
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        let mut transaction = self.0.lock().await;
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        let executed = sql.execute(&mut **transaction).await;
        executed.map(ExecResult::from).map_err(exec_error)
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let mut transaction = self.0.lock().await;
        let row = unnamed(&statement).fetch_optional(&mut **transaction).await;
        row.map(|row| row.map(QueryResult::from))
            .map_err(query_error)
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let mut transaction = self.0.lock().await;
        let rows = unnamed(&statement).fetch_all(&mut **transaction).await;
        rows.map(|rows| rows.into_iter().map(QueryResult::from).collect())
            .map_err(query_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_begins_with_all_its_settings_in_one_message() {
        let reading = TransactionOptions {
            isolation_level: Some(IsolationLevel::RepeatableRead),
            ..TransactionOptions::default()
        };
        let begun = begin(reading, true);
        assert!(
            begun.starts_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE; SET LOCAL "),
            "{begun}"
        );
        let writing = begin(TransactionOptions::default(), false);
        assert!(
            writing.starts_with("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL "),
            "{writing}"
        );
    }
}
