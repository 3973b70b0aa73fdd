//! The connections and transactions of the store. They check each error, and whether its connection can be used again.

mod limits;
mod transaction;

use std::{
    fmt::Debug,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, ExecResult,
    IsolationLevel, QueryResult, SqliteTransactionMode, Statement, TransactionOptions,
    prelude::async_trait::async_trait,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use self::limits::{STATEMENT_LIMIT, limit_since, limited, unresponsive};
use super::{
    connection_trust::{Trust, Unfinished},
    driver_pool::DriverPool,
    driver_transaction::DriverTransaction,
    retried::retried,
    sqlite_file::SqliteFile,
};
use crate::{
    database_error::{breaks_connection, is_busy},
    domain::shards::ShardMap,
};

/// The limit for the wait at a gate, as for a connection.
const GATE_LIMIT: Duration = Duration::from_secs(10);

/// A pool of connections.
pub(super) type Pool = Examined<DriverPool>;
/// A transaction. It is rolled back unless it is committed.
pub(super) type Transaction = Examined<DriverTransaction>;

/// Runs statements and checks their errors.
#[derive(Clone, Debug)]
pub(super) struct Examined<C> {
    /// Of a transaction: that it has not ended. Dropped before its connection goes back to the pool.
    unfinished: Unfinished,
    inner: C,
    trust: Arc<Trust>,
    /// The SQLite file, if this writes to one.
    file: Option<Arc<SqliteFile>>,
    /// Whether each statement is a separate transaction.
    is_pool: bool,
    /// When a transaction began.
    begun: Option<Instant>,
    /// Whether a statement of this transaction has failed.
    has_failed: Arc<AtomicBool>,
    /// On SQLite: one transaction at a time that does not count waits for the only connection that writes. Counting does
    /// not take this permit, so it waits for one of the others at most.
    gate: Option<Arc<Semaphore>>,
    held: Vec<Arc<dyn Held>>,
    /// The shards that rows of accounts are on.
    shards: Arc<ShardMap>,
}

/// What a transaction holds until its end.
pub(super) trait Held: Debug + Send + Sync {}

impl<T: Debug + Send + Sync> Held for T {}

impl<C: ConnectionTrait> Examined<C> {
    async fn examined<T>(
        &self,
        statement: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, DbErr> {
        let _permit = self.pass_gate().await?;
        let limit = limit_since(self.begun);
        // If this is given up, `unfinished` is dropped before the statement gives its connection back.
        let statement = pin!(statement);
        let mut unfinished = self.trust.expect_end();
        let result = limited(self.inner.get_database_backend(), limit, statement).await;
        unfinished.end();
        if result.is_err() {
            self.has_failed.store(true, Ordering::Relaxed);
        }
        match &result {
            Err(DbErr::ConnectionAcquire(_)) => self.trust.search_host(),
            Err(error) if breaks_connection(error) => {
                self.trust.renew_after_error();
                if let Some(file) = &self.file {
                    // A lost file may be the cause.
                    file.check()?;
                }
            }
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

impl<C> Examined<C> {
    /// The shards that rows of accounts are on.
    pub(super) fn shards(&self) -> &ShardMap {
        &self.shards
    }

    /// Takes the gate's permit, before the connection is requested.
    async fn pass_gate(&self) -> Result<Option<Arc<OwnedSemaphorePermit>>, DbErr> {
        let Some(gate) = &self.gate else {
            return Ok(None);
        };
        let passing = timeout(GATE_LIMIT, Arc::clone(gate).acquire_owned()).await;
        match passing {
            Ok(Ok(permit)) => Ok(Some(Arc::new(permit))),
            Ok(Err(_)) | Err(_) => Err(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)),
        }
    }
}

impl Pool {
    /// The same connections behind a gate: one statement or transaction at a time waits for them.
    pub(super) fn gated(&self) -> Self {
        Self {
            gate: Some(Arc::new(Semaphore::new(1))),
            ..self.clone()
        }
    }

    /// The same connections to a database with these shards.
    pub(super) fn with_shards(&self, shards: &Arc<ShardMap>) -> Self {
        Self {
            shards: Arc::clone(shards),
            ..self.clone()
        }
    }

    pub(super) fn new(inner: DriverPool, trust: Arc<Trust>, file: Option<Arc<SqliteFile>>) -> Self {
        Self {
            inner,
            trust,
            file,
            is_pool: true,
            begun: None,
            has_failed: Arc::default(),
            gate: None,
            unfinished: Unfinished::nothing(),
            held: Vec::new(),
            shards: Arc::default(),
        }
    }

    /// Begins a transaction that may write. On SQLite, one that reads first and writes later could fail immediately,
    /// regardless of the busy timeout.
    pub(super) async fn begin(&self) -> Result<Transaction, DbErr> {
        self.begin_with(TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        })
        .await
    }

    /// Begins a transaction whose reads all see the same state of the database.
    pub(super) async fn begin_reading(&self) -> Result<Transaction, DbErr> {
        // Every transaction on SQLite is like that.
        let is_postgres = self.inner.get_database_backend() == DbBackend::Postgres;
        self.begin_with(TransactionOptions {
            isolation_level: is_postgres.then_some(IsolationLevel::RepeatableRead),
            sqlite_transaction_mode: Some(SqliteTransactionMode::Deferred),
            ..TransactionOptions::default()
        })
        .await
    }

    async fn begin_with(&self, options: TransactionOptions) -> Result<Transaction, DbErr> {
        // Large: it would be on the stack of each caller.
        self.begun(Box::pin(self.inner.begin(options))).await
    }

    /// Begins a transaction for SeaORM's migrator. Through PgBouncer, its statements have names at the connection to the
    /// server, so what former ones left there is removed, and what it leaves is removed by [`Transaction::forget_names`].
    pub(super) async fn begin_migrating(&self) -> Result<Transaction, DbErr> {
        if !self.is_bounced() {
            return self.begin().await;
        }
        let tx = self.begun(Box::pin(self.inner.begin_named())).await?;
        tx.forget_names().await?;
        Ok(tx)
    }

    /// Whether PgBouncer is between.
    pub(super) fn is_bounced(&self) -> bool {
        self.inner.is_bounced()
    }

    async fn begun(
        &self,
        beginning: impl Future<Output = Result<DriverTransaction, DbErr>>,
    ) -> Result<Transaction, DbErr> {
        if let Some(file) = &self.file {
            file.check()?;
        }
        let permit = self.pass_gate().await?;
        let held = permit.into_iter().map(|permit| -> Arc<dyn Held> { permit });
        let watch = self.trust.watch();
        let begun = limited(
            self.inner.get_database_backend(),
            STATEMENT_LIMIT,
            beginning,
        )
        .await;
        watch.end(begun.as_ref().is_err_and(|error| !is_busy(error)));
        if begun.is_err() {
            self.trust.search_host();
        }
        Ok(Examined {
            inner: begun?,
            trust: Arc::clone(&self.trust),
            file: self.file.clone(),
            is_pool: false,
            begun: Some(Instant::now()),
            has_failed: Arc::default(),
            gate: None,
            unfinished: self.trust.expect_end(),
            held: held.collect(),
            shards: Arc::clone(&self.shards),
        })
    }

    /// The error of a transaction that was given up because the database did not respond.
    pub(super) fn unresponsive(&self) -> DbErr {
        self.trust.renew();
        unresponsive()
    }

    /// The same of one that may have waited for a connection. A pool that gives none is replaced.
    pub(super) async fn give_up(&self) -> DbErr {
        self.inner.replace().await;
        self.unresponsive()
    }

    pub(super) fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.trust)
    }

    /// Waits for running statements and closes every connection.
    pub(super) async fn close(self) -> Result<(), DbErr> {
        self.inner.close().await
    }

    /// For SeaORM's migrator, which takes no other connection.
    pub(super) fn plain(&self) -> DatabaseConnection {
        self.inner.current()
    }
}

/// Makes each statement visible to tests, which check its plan on a large database.
fn trace(statement: &Statement) {
    let (backend, sql) = (statement.db_backend, statement.sql.as_str());
    tracing::trace!(target: "usage_server::statement", ?backend, sql);
}

/// A single statement of a pool is a transaction of its own, which is run again if the database undid it.
#[async_trait]
impl<C: ConnectionTrait + Send> ConnectionTrait for Examined<C> {
    fn get_database_backend(&self) -> DbBackend {
        self.inner.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        trace(&statement);
        if self.is_pool {
            let run = || self.examined(self.inner.execute_raw(statement.clone()));
            return retried(run).await;
        }
        self.examined(self.inner.execute_raw(statement)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        if self.is_pool {
            let run = || self.examined(self.inner.execute_unprepared(sql));
            return retried(run).await;
        }
        self.examined(self.inner.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        trace(&statement);
        if self.is_pool {
            let run = || self.examined(self.inner.query_one_raw(statement.clone()));
            return retried(run).await;
        }
        self.examined(self.inner.query_one_raw(statement)).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        trace(&statement);
        if self.is_pool {
            let run = || self.examined(self.inner.query_all_raw(statement.clone()));
            return retried(run).await;
        }
        self.examined(self.inner.query_all_raw(statement)).await
    }
}
