//! The connections and transactions of the store. They check each error, and whether its connection can be used again.

use std::{sync::Arc, time::Duration};

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult,
    QueryResult, RuntimeErr, SqliteTransactionMode, Statement, TransactionOptions,
    TransactionTrait as _, prelude::async_trait::async_trait,
};
use tokio::time::timeout;

use super::{sqlite_file::SqliteFile, trust::Trust};
use crate::database_error::{breaks_connection, is_busy};

/// The limit for a statement. It is longer than the limit in PostgreSQL, so only dead connections reach it.
const STATEMENT_LIMIT: Duration = Duration::from_secs(65);

/// A pool of connections.
pub(super) type Pool = Examined<DatabaseConnection>;
/// A transaction. It is rolled back unless it is committed.
pub(super) type Transaction = Examined<DatabaseTransaction>;

/// Runs statements and checks their errors.
#[derive(Clone, Debug)]
pub(super) struct Examined<C> {
    inner: C,
    trust: Arc<Trust>,
    /// The SQLite file, if this writes to one.
    file: Option<Arc<SqliteFile>>,
    /// Whether each statement is a separate transaction.
    is_pool: bool,
}

impl<C: ConnectionTrait> Examined<C> {
    async fn examined<T>(
        &self,
        statement: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, DbErr> {
        let result = limited(self.inner.get_database_backend(), statement).await;
        match &result {
            Err(error) if breaks_connection(error) => self.trust.renew_after_error(),
            Ok(_) if self.is_pool => {
                if let Some(file) = &self.file {
                    file.check()?;
                }
            }
            _ => {}
        }
        result
    }
}

impl Pool {
    pub(super) fn new(
        inner: DatabaseConnection,
        trust: Arc<Trust>,
        file: Option<Arc<SqliteFile>>,
    ) -> Self {
        Self {
            inner,
            trust,
            file,
            is_pool: true,
        }
    }

    /// Begins a transaction that may write. On SQLite, one that reads first and writes later could fail immediately,
    /// regardless of the busy timeout.
    pub(super) async fn begin(&self) -> Result<Transaction, DbErr> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        if let Some(file) = &self.file {
            file.check()?;
        }
        let watch = self.trust.watch();
        let begun = limited(
            self.inner.get_database_backend(),
            self.inner.begin_with_options(options),
        )
        .await;
        watch.end(begun.as_ref().is_err_and(|error| !is_busy(error)));
        Ok(Examined {
            inner: begun?,
            trust: Arc::clone(&self.trust),
            file: self.file.clone(),
            is_pool: false,
        })
    }

    /// The error of a transaction that was given up because the database did not respond.
    pub(super) fn unresponsive(&self) -> DbErr {
        self.trust.renew();
        unresponsive()
    }

    /// Waits for running statements and closes every connection.
    pub(super) async fn close(self) -> Result<(), DbErr> {
        self.inner.close().await
    }

    /// For SeaORM's migrator, which takes no other connection.
    pub(super) fn plain(&self) -> &DatabaseConnection {
        &self.inner
    }
}

impl Transaction {
    /// Commits. After an error the outcome is unknown.
    pub(super) async fn commit(self) -> Result<(), DbErr> {
        let Self {
            inner, trust, file, ..
        } = self;
        let (backend, watch) = (inner.get_database_backend(), trust.watch());
        let committed = limited(backend, inner.commit()).await;
        watch.end(committed.is_err());
        committed?;
        file.map_or(Ok(()), |file| file.check())
    }

    pub(super) async fn rollback(self) -> Result<(), DbErr> {
        let Self { inner, trust, .. } = self;
        let (backend, watch) = (inner.get_database_backend(), trust.watch());
        let rolled_back = limited(backend, inner.rollback()).await;
        watch.end(rolled_back.is_err());
        rolled_back
    }

    /// For SeaORM's migrator, which takes no other transaction.
    pub(super) fn plain(&self) -> &DatabaseTransaction {
        &self.inner
    }
}

/// Limits a statement on PostgreSQL, because a dead connection never responds.
async fn limited<T>(
    backend: DbBackend,
    statement: impl Future<Output = Result<T, DbErr>>,
) -> Result<T, DbErr> {
    if backend != DbBackend::Postgres {
        return statement.await;
    }
    timeout(STATEMENT_LIMIT, statement)
        .await
        .unwrap_or_else(|_| Err(unresponsive()))
}

fn unresponsive() -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(
        "the database did not respond in time".to_owned(),
    ))
}

#[async_trait]
impl<C: ConnectionTrait + Send> ConnectionTrait for Examined<C> {
    fn get_database_backend(&self) -> DbBackend {
        self.inner.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.examined(self.inner.execute_raw(statement)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.examined(self.inner.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.examined(self.inner.query_one_raw(statement)).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.examined(self.inner.query_all_raw(statement)).await
    }
}
