//! The driver's pool of connections, which is replaced when it has no connection to give.
//!
//! The driver asks each connection that is returned whether it responds, and waits for it without a limit. A connection
//! to PostgreSQL that dies silently at that moment keeps its place until the system gives it up, after about fifteen
//! minutes. Without another pool, nothing could be counted until then, because counting has few connections of its own.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use sea_orm::{
    ConnAcquireErr, ConnectOptions, ConnectionTrait, Database, DatabaseConnection,
    DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult, Statement, TransactionOptions,
    TransactionTrait as _, prelude::async_trait::async_trait,
};

/// A pool that can be replaced. Its clones share it.
#[derive(Clone, Debug)]
pub(super) struct DriverPool(Arc<Shared>);

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
        Self(Arc::new(Shared {
            current: Mutex::new(Current::new(pool)),
            replacement,
        }))
    }

    /// The pool in use now.
    pub(super) fn current(&self) -> DatabaseConnection {
        self.lock().pool.clone()
    }

    /// Replaces the pool, unless it is new, closed, or gave a connection lately. Connections of the old one that are in use
    /// are closed when they are returned, and the others when none is in use.
    pub(super) async fn replace(&self) {
        let Some(replacement) = &self.0.replacement else {
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
    ) -> Result<DatabaseTransaction, DbErr> {
        let begun = self.current().begin_with_options(options).await;
        if self.was_replaced(&begun).await {
            return self.current().begin_with_options(options).await;
        }
        begun
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
        let current = &self.0.current;
        current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ConnectionTrait for DriverPool {
    fn get_database_backend(&self) -> DbBackend {
        self.lock().pool.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
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
        let result = self.current().query_one_raw(statement.clone()).await;
        if self.was_replaced(&result).await {
            return self.current().query_one_raw(statement).await;
        }
        result
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let result = self.current().query_all_raw(statement.clone()).await;
        if self.was_replaced(&result).await {
            return self.current().query_all_raw(statement).await;
        }
        result
    }
}
