//! The database: every query of the service, each public function one transaction.
//!
//! Nothing here calls Stripe. Only the store uses `entity`, and it returns the domain's types. SQLite and PostgreSQL
//! share one schema and one set of functions. Where their SQL differs, both texts are side by side.
//!
//! To prevent deadlocks, locks are always taken in the same order: first the boundary lock (shared to count and to
//! close, exclusive to move a boundary), then keys in key order, then open reports in the order of their unique key,
//! then closed reports in the order of their ids, then single rows by primary key.

pub(crate) mod accounts;
mod additions;
mod batch_results;
mod batch_sql;
mod billing_context;
pub(crate) mod boundaries;
pub(crate) mod cleanup;
pub(crate) mod close;
pub(crate) mod commit;
pub(crate) mod corrections;
mod database_clock;
pub(crate) mod decisions;
mod dedupe;
pub(crate) mod delivery;
pub(crate) mod doctor;
pub(crate) mod group;
pub(crate) mod leases;
pub mod ledger_check;
mod links;
mod mark_sending;
pub(crate) mod near_deadlines;
mod reassign;
pub(crate) mod reconciliation;
mod report_rollover;
pub(crate) mod reports;
mod rows;
pub(crate) mod runs;
pub(crate) mod send;
pub(crate) mod subscription_changes;
pub(crate) mod subscriptions;
mod unfinished_changes;
pub(crate) mod verification;
pub mod webhooks;

use std::{sync::Arc, time::Duration};

use sea_orm::{
    ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, DatabaseTransaction,
    DbBackend, DbErr, RuntimeErr, SqliteTransactionMode, Statement, TransactionOptions,
    TransactionTrait as _,
};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use usage_migrations::{Migrator, MigratorTrait as _};

use crate::clock::Clock;
use database_clock::DatabaseClock;

/// How long a statement may wait for a connection or for SQLite's writer.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections are kept open. The pool's task that closes old ones counts idle connections without a lock, and can loop
/// forever if that number is briefly negative.
const NEVER: Option<Duration> = None;
/// Limits for locks and statements, and for the locks of a replica that crashed in a transaction.
const POSTGRES_TIMEOUTS: [(&str, &str); 3] = [
    ("lock_timeout", "15s"),
    ("statement_timeout", "60s"),
    ("idle_in_transaction_session_timeout", "30s"),
];
/// The number of read-only connections to SQLite.
const SQLITE_READERS: u32 = 4;
/// The page cache, 64 MiB: a group of random keys changes thousands of pages, and pages that do not fit are written to
/// the log twice.
const SQLITE_CACHE: &str = "-65536";
/// The number of pages in the log before they are copied to the database file, 64 MiB. Groups mostly change the same
/// pages, and each page is copied only once.
const SQLITE_CHECKPOINT: &str = "16384";
/// The advisory lock of PostgreSQL that protects the boundaries.
const BOUNDARY_LOCK: i64 = 0x5553_4147_0001;
/// The advisory lock of PostgreSQL that lets one replica migrate at a time.
const MIGRATION_LOCK: i64 = 0x5553_4147_0002;

/// The database of the service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    /// The connections for transactions. SQLite has a single writer, so one connection is enough.
    writer: DatabaseConnection,
    /// The connections for single queries. PostgreSQL uses one pool for both.
    reader: DatabaseConnection,
    clock: Arc<DatabaseClock>,
}

impl Store {
    /// Connects, and creates a SQLite file that does not exist yet.
    ///
    /// # Errors
    /// The URL has an unknown scheme, or the database does not respond.
    pub async fn open(url: &str, max_connections: u32) -> Result<Self, DbErr> {
        Self::connect(url, "rwc", max_connections).await
    }

    /// Connects to an existing database. Does not create a SQLite file.
    ///
    /// # Errors
    /// The URL has an unknown scheme, or the database does not exist or does not respond.
    pub async fn open_existing(url: &str, max_connections: u32) -> Result<Self, DbErr> {
        Self::connect(url, "rw", max_connections).await
    }

    /// The same database with a clock that follows a manual clock.
    pub(crate) fn with_clock(self, clock: Clock) -> Self {
        Self {
            clock: Arc::new(DatabaseClock::new(clock)),
            ..self
        }
    }

    async fn connect(url: &str, sqlite_mode: &str, max_connections: u32) -> Result<Self, DbErr> {
        if url.starts_with("sqlite:") {
            let writer = Database::connect(sqlite_options(url, sqlite_mode, 1)).await?;
            let reader = Database::connect(sqlite_options(url, "ro", SQLITE_READERS)).await?;
            Ok(Self {
                writer,
                reader,
                clock: Arc::default(),
            })
        } else {
            let mut options = ConnectOptions::new(url);
            options
                .max_connections(max_connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .idle_timeout(NEVER)
                .max_lifetime(NEVER)
                .sqlx_logging(false)
                .map_sqlx_postgres_opts(|postgres| {
                    postgres
                        .application_name("usage-server")
                        .options(POSTGRES_TIMEOUTS)
                });
            let pool = match Database::connect(options).await {
                Ok(pool) => pool,
                Err(error) => return Err(connection_error(url).await.unwrap_or(error)),
            };
            Ok(Self {
                writer: pool.clone(),
                reader: pool,
                clock: Arc::default(),
            })
        }
    }

    /// Applies pending migrations. Replicas that start at the same time take turns.
    ///
    /// # Errors
    /// The database fails.
    pub async fn migrate(&self) -> Result<(), DbErr> {
        let tx = self.begin().await?;
        if self.backend() == DbBackend::Postgres {
            // A migration, or waiting for that of another replica, has no time limit.
            tx.execute_unprepared("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
                .await?;
            lock(&tx, "SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK).await?;
        }
        Migrator::up(&tx, None).await?;
        tx.commit().await
    }

    /// The number of pending migrations.
    ///
    /// # Errors
    /// The database fails.
    pub async fn pending_migrations(&self) -> Result<usize, DbErr> {
        Ok(Migrator::get_pending_migrations_read_only(&self.writer)
            .await?
            .len())
    }

    /// Checks that the database responds.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn ping(&self) -> Result<(), DbErr> {
        let statement = Statement::from_string(self.backend(), "SELECT 1");
        self.reader.query_one_raw(statement).await.map(|_| ())
    }

    /// Waits for running statements and closes every connection.
    ///
    /// # Errors
    /// The database fails.
    pub async fn close(self) -> Result<(), DbErr> {
        self.reader.close().await?;
        self.writer.close().await
    }

    /// The database engine.
    pub fn backend(&self) -> DbBackend {
        self.writer.get_database_backend()
    }

    /// Whether the engine allows several writers at the same time.
    pub fn has_parallel_writers(&self) -> bool {
        self.backend() == DbBackend::Postgres
    }

    /// Begins a transaction that may write. On SQLite, one that reads first and writes later could fail immediately,
    /// regardless of the busy timeout.
    async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        self.writer
            .begin_with_options(TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            })
            .await
    }

    /// Begins a transaction during which no boundary can move.
    async fn begin_within_boundaries(&self) -> Result<DatabaseTransaction, DbErr> {
        let tx = self.begin().await?;
        if self.backend() == DbBackend::Postgres {
            lock(
                &tx,
                "SELECT pg_advisory_xact_lock_shared($1)",
                BOUNDARY_LOCK,
            )
            .await?;
        }
        Ok(tx)
    }

    /// Begins a transaction that may move boundaries, excluding all others. The lock is a fair queue: unlike with row
    /// locks, a stream of commits cannot keep it waiting forever.
    async fn begin_moving_boundaries(&self) -> Result<DatabaseTransaction, DbErr> {
        let tx = self.begin().await?;
        if self.backend() == DbBackend::Postgres {
            lock(&tx, "SELECT pg_advisory_xact_lock($1)", BOUNDARY_LOCK).await?;
        }
        Ok(tx)
    }
}

/// Returns why PostgreSQL cannot be reached. The pool only reports a timeout.
async fn connection_error(url: &str) -> Option<DbErr> {
    let error = sqlx::postgres::PgConnection::connect(url).await.err()?;
    Some(DbErr::Conn(RuntimeErr::Internal(error.to_string())))
}

async fn lock(tx: &DatabaseTransaction, sql: &str, key: i64) -> Result<(), DbErr> {
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, [key.into()]);
    tx.execute_raw(statement).await.map(|_| ())
}

fn sqlite_options(url: &str, mode: &str, connections: u32) -> ConnectOptions {
    let separator = if url.contains('?') { '&' } else { '?' };
    let mut options = ConnectOptions::new(format!("{url}{separator}mode={mode}"));
    options
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(NEVER)
        .max_lifetime(NEVER)
        // A file has no connection to lose, so a check before each transaction is not needed.
        .test_before_acquire(false)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(|sqlite| {
            sqlite
                .journal_mode(SqliteJournalMode::Wal)
                // FULL syncs the log at each commit: an acknowledged unit survives a power failure.
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(ACQUIRE_TIMEOUT)
                .pragma("cache_size", SQLITE_CACHE)
                .pragma("wal_autocheckpoint", SQLITE_CHECKPOINT)
        });
    options
}
