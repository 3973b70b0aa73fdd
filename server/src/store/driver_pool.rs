//! The driver's pool of connections, which is replaced when it has no connection to give.
//!
//! The driver asks each connection that is returned whether it responds, and waits for it without a limit. A connection
//! to PostgreSQL that dies silently at that moment keeps its place until the system gives it up, after about fifteen
//! minutes. Without another pool, nothing could be counted until then, because counting has few connections of its own.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use sea_orm::{
    ConnAcquireErr, ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend,
    DbErr, ExecResult, QueryResult, Statement, TransactionOptions, TransactionTrait as _,
    prelude::async_trait::async_trait,
};
use sqlx::postgres::PgConnectOptions;

use super::{
    bounced::{Bounced, BouncedTransaction},
    driver_transaction::DriverTransaction,
};

/// A pool that can be replaced. Its clones share it.
#[derive(Clone, Debug)]
pub(super) struct DriverPool {
    shared: Arc<Shared>,
    /// Whether PgBouncer is between.
    bounced: Option<Bounced>,
}

#[derive(Debug)]
struct Shared {
    current: Mutex<Current>,
    replacement: Option<Replacement>,
}

#[derive(Debug)]
struct Current {
    pool: DatabaseConnection,
    since: Instant,
    /// When it last had a connection to give.
    given_at: Option<Instant>,
    is_closed: bool,
}

/// A pool that may be gone.
#[derive(Clone, Debug)]
pub(super) struct WeakPool {
    shared: Weak<Shared>,
    bounced: Option<Bounced>,
}

impl WeakPool {
    pub(super) fn upgrade(&self) -> Option<DriverPool> {
        let (shared, bounced) = (self.shared.upgrade()?, self.bounced);
        Some(DriverPool { shared, bounced })
    }
}

/// How a pool is replaced.
#[derive(Debug)]
pub(super) struct Replacement {
    /// What the next pool connects with.
    pub(super) options: ConnectOptions,
    /// How long the pool has given no connection. A busy pool gives one now and then.
    pub(super) after: Duration,
    /// The shortest time between two replacements. Connections of the old pool that are in use stay open until they are
    /// returned, so this bounds how many there are.
    pub(super) interval: Duration,
}

impl Current {
    fn new(pool: DatabaseConnection) -> Self {
        Self {
            pool,
            since: Instant::now(),
            given_at: None,
            is_closed: false,
        }
    }
}

impl DriverPool {
    /// Without a `replacement`, the pool stays as it is.
    pub(super) fn new(pool: DatabaseConnection, replacement: Option<Replacement>) -> Self {
        let shared = Arc::new(Shared {
            current: Mutex::new(Current::new(pool)),
            replacement,
        });
        let bounced = None;
        Self { shared, bounced }
    }

    /// The same connections, with PgBouncer between.
    pub(super) fn bounced(self, bounced: Option<Bounced>) -> Self {
        Self { bounced, ..self }
    }

    /// Whether PgBouncer is between.
    pub(super) fn is_bounced(&self) -> bool {
        self.bounced.is_some()
    }

    pub(super) fn downgrade(&self) -> WeakPool {
        WeakPool {
            shared: Arc::downgrade(&self.shared),
            bounced: self.bounced,
        }
    }

    /// Makes new connections to PostgreSQL with these options, also those of a wait that has begun.
    pub(super) fn set_connect_options(&self, options: PgConnectOptions) {
        let pool = self.current();
        pool.get_postgres_connection_pool()
            .set_connect_options(options);
    }

    /// The pool in use now.
    pub(super) fn current(&self) -> DatabaseConnection {
        self.lock().pool.clone()
    }

    /// Replaces the pool, unless it is new, closed, or gave a connection lately. Connections of the old one that are in use
    /// are closed when they are returned, and the others when none is in use.
    pub(super) async fn replace(&self) {
        let Some(replacement) = &self.shared.replacement else {
            return;
        };
        let mut options = replacement.options.clone();
        // The first statement connects.
        options.connect_lazy(true);
        let pool = match Database::connect(options).await {
            Ok(pool) => pool,
            Err(error) => {
                tracing::error!(%error, "cannot replace the connections to the database");
                return;
            }
        };
        let old = {
            let mut current = self.lock();
            let given_at = current.given_at.unwrap_or(current.since);
            if current.is_closed
                || current.since.elapsed() < replacement.interval
                || given_at.elapsed() < replacement.after
            {
                return;
            }
            std::mem::replace(&mut *current, Current::new(pool))
        };
        if old.given_at.is_some() {
            tracing::warn!("no connection to the database came back in time; using new ones");
        }
        // The first poll marks it as closed. A connection that is stuck would never let it end.
        let _ = old.pool.close().now_or_never();
    }

    pub(super) async fn begin(
        &self,
        options: TransactionOptions,
    ) -> Result<DriverTransaction, DbErr> {
        let begun = self.begin_once(options).await;
        if self.was_replaced(&begun).await {
            return self.begin_once(options).await;
        }
        begun
    }

    async fn begin_once(&self, options: TransactionOptions) -> Result<DriverTransaction, DbErr> {
        let current = self.current();
        let Some(bounced) = self.bounced else {
            let begun = current.begin_with_options(options).await?;
            return Ok(DriverTransaction::Driver(begun));
        };
        let pool = current.get_postgres_connection_pool();
        // Large, and most databases have no PgBouncer.
        let begun = Box::pin(BouncedTransaction::begin(pool, options, bounced)).await?;
        Ok(DriverTransaction::Bounced(begun))
    }

    /// Begins a transaction of SeaORM's, which its migrator needs.
    pub(super) async fn begin_named(&self) -> Result<DriverTransaction, DbErr> {
        let begun = self.current().begin().await?;
        Ok(DriverTransaction::Driver(begun))
    }

    /// A transaction for one statement, if PgBouncer is between.
    async fn begin_single(&self) -> Result<Option<DriverTransaction>, DbErr> {
        if self.is_bounced() {
            self.begin(TransactionOptions::default()).await.map(Some)
        } else {
            Ok(None)
        }
    }

    /// Closes every connection of the pool in use, for good.
    pub(super) async fn close(&self) -> Result<(), DbErr> {
        let pool = {
            let mut current = self.lock();
            current.is_closed = true;
            current.pool.clone()
        };
        pool.close().await
    }

    /// Whether it failed because the pool was replaced while it waited for a connection. Replaces a pool that has none.
    async fn was_replaced<T>(&self, result: &Result<T, DbErr>) -> bool {
        match result {
            Err(DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed)) => {
                !self.lock().is_closed
            }
            Err(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)) => {
                self.replace().await;
                false
            }
            _ => {
                self.lock().given_at = Some(Instant::now());
                false
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        let current = &self.shared.current;
        current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ConnectionTrait for DriverPool {
    fn get_database_backend(&self) -> DbBackend {
        self.lock().pool.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        if let Some(tx) = self.begin_single().await? {
            let result = tx.execute_raw(statement).await?;
            tx.commit().await?;
            return Ok(result);
        }
        let result = self.current().execute_raw(statement.clone()).await;
        if self.was_replaced(&result).await {
            return self.current().execute_raw(statement).await;
        }
        result
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        let result = self.current().execute_unprepared(sql).await;
        if self.was_replaced(&result).await {
            return self.current().execute_unprepared(sql).await;
        }
        result
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        if let Some(tx) = self.begin_single().await? {
            let result = tx.query_one_raw(statement).await?;
            tx.commit().await?;
            return Ok(result);
        }
        let result = self.current().query_one_raw(statement.clone()).await;
        if self.was_replaced(&result).await {
            return self.current().query_one_raw(statement).await;
        }
        result
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        if let Some(tx) = self.begin_single().await? {
            let result = tx.query_all_raw(statement).await?;
            tx.commit().await?;
            return Ok(result);
        }
        let result = self.current().query_all_raw(statement.clone()).await;
        if self.was_replaced(&result).await {
            return self.current().query_all_raw(statement).await;
        }
        result
    }
}
