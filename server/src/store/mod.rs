//! The database: every query of the service, each public function one transaction.
//!
//! Nothing here calls Stripe. Only the store uses `entity`, and it returns the domain's types. SQLite and PostgreSQL
//! share one schema and one set of functions. Where their SQL differs, both texts are side by side.
//!
//! To prevent deadlocks, locks are always taken in the same order: first the boundary lock (shared to count and to
//! close, exclusive to move a boundary), then batch keys in key order, then open reports in the order of their primary
//! key, then idempotency keys in the order of their primary key, then closed reports in the order of their ids, then folded
//! ones, then single rows by primary key.

pub(crate) mod account_deletion;
pub(crate) mod account_export;
pub(crate) mod account_history;
pub(crate) mod account_list;
mod account_tables;
pub(crate) mod accounts;
mod additions;
pub(crate) mod api_keys;
mod as_read;
pub(crate) mod audit;
mod batch_keys;
mod batch_results;
mod billing_context;
mod billing_start;
mod bounced;
pub(crate) mod boundaries;
mod citus_settings;
pub(crate) mod cleanup;
pub(crate) mod close;
mod close_on_shards;
mod close_reports;
mod columns;
pub(crate) mod commit;
mod commit_warning;
pub(crate) mod connect;
mod connection;
mod connection_trust;
pub(crate) mod console_sessions;
pub(crate) mod corrections;
mod count_at_once;
pub(crate) mod cursors;
mod database_clock;
pub(crate) mod decisions;
mod dedupe;
pub(crate) mod deleted_accounts;
pub(crate) mod delivery;
pub mod distribution;
pub(crate) mod doctor;
mod driver_pool;
mod driver_transaction;
mod dry_run;
mod durability;
pub(crate) mod explanations;
mod folded_reports;
pub(crate) mod group;
pub(crate) mod heartbeat;
mod host_answer;
pub(crate) mod host_list;
mod hosts;
pub(crate) mod invoice_comparison;
mod key_entries;
pub(crate) mod key_search;
mod keys;
pub(crate) mod leases;
pub mod ledger_check;
mod links;
mod mark_sending;
pub(crate) mod near_deadlines;
mod of_shard;
mod old_keys;
mod old_records;
mod open_reports;
pub(crate) mod other_meters;
mod postgres_arrays;
mod reassign;
pub(crate) mod recent_usage;
pub(crate) mod reconciliation;
pub(crate) mod report_archives;
mod report_figures;
pub(crate) mod report_filter;
pub(crate) mod report_folding;
pub(crate) mod report_list;
pub(crate) mod report_place;
mod report_preview;
mod report_rollover;
mod report_rules;
mod report_states;
pub(crate) mod reports;
pub(crate) mod restore_look_up;
mod retried;
mod rows;
pub(crate) mod run_list;
pub(crate) mod runs;
mod schema;
pub(crate) mod send_order;
pub(crate) mod send_queue;
pub(crate) mod sending_state;
pub(crate) mod sign_off;
pub(crate) mod snapshot;
mod sqlite_copy;
mod sqlite_file;
mod stream_figures;
pub(crate) mod stripe_account;
pub(crate) mod subscription_changes;
pub(crate) mod subscriptions;
mod unfinished_changes;
pub(crate) mod usage_of_accounts;
pub(crate) mod usage_summary;
pub(crate) mod usage_sums;
mod value_rows;
pub(crate) mod verification;
pub(crate) mod watched_customers;
pub(crate) mod watched_reports;
pub mod webhooks;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use sea_orm::{
    ColumnTrait, ConnAcquireErr, ConnectionTrait, DbBackend, DbErr, Statement, sea_query::Expr,
};
use tokio::{sync::Semaphore, time::timeout};

use crate::{clock::Clock, error::Error};
use boundaries::BoundaryMove;
use connect::MAX_REQUESTED_CHANGES;
use connection::{Pool, Transaction};
use database_clock::DatabaseClock;
use sqlite_file::SqliteFile;

pub use schema::SchemaError;
pub use sqlite_file::FileLock;

/// The advisory lock of PostgreSQL that protects the boundaries.
const BOUNDARY_LOCK: i64 = 0x5553_4147_0001;
/// The advisory lock of PostgreSQL that lets one replica migrate at a time.
const MIGRATION_LOCK: i64 = 0x5553_4147_0002;
/// The advisory lock of PostgreSQL that lets one replica store the first API key.
const FIRST_KEY_LOCK: i64 = 0x5553_4147_0003;
/// The advisory lock of PostgreSQL that lets one forced run begin at a time.
const FORCED_RUN_LOCK: i64 = 0x5553_4147_0004;

/// From this size in bytes on, the log of a SQLite database cannot be copied into its file.
const LARGE_LOG: u64 = 256 * 1024 * 1024;

/// How long a change of boundaries waits for its turn.
const BOUNDARY_TURN_LIMIT: Duration = Duration::from_secs(10);

/// The database of the service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    /// The connections for counting. SQLite has a single writer, so one connection is enough for all transactions.
    counter: Pool,
    /// The connections for other transactions. On SQLite it is that of `counter`, behind a gate: one of the others waits
    /// for it at a time.
    writer: Pool,
    /// The connections for single queries. PostgreSQL uses one pool for these and for the other transactions.
    reader: Pool,
    /// The connection that reads who calls: no other query makes calls wait for it.
    access: Pool,
    /// How many changes of boundaries have ended here. After one, what is remembered of boundaries is old.
    boundary_moves: Arc<AtomicU64>,
    /// One change of boundaries at a time. Each excludes counting, so several in a row would delay it by all of them.
    boundary_turn: Arc<Semaphore>,
    /// A permit for each change of boundaries that a caller requested.
    requested_changes: Arc<Semaphore>,
    /// The file of a SQLite database.
    file: Option<Arc<SqliteFile>>,
    clock: Arc<DatabaseClock>,
}

impl Store {
    /// Keeps other processes from serving or restoring the database, where it is a SQLite file; waits a few seconds for one that ends.
    ///
    /// # Errors
    /// Another process serves it.
    pub async fn lock(url: &str) -> Result<Option<FileLock>, DbErr> {
        if connect::is_sqlite(url) {
            FileLock::take(url).await.map(Some)
        } else {
            Ok(None)
        }
    }

    /// The file of a SQLite database; `None` of PostgreSQL.
    ///
    /// # Errors
    /// The URL is wrong.
    pub(crate) fn sqlite_path(url: &str) -> Result<Option<PathBuf>, DbErr> {
        if connect::is_sqlite(url) {
            sqlite_file::path_of(url).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Where a backup is that is about to take the place of a SQLite file. While it is there, the file is not opened.
    pub(crate) fn restored_beside(file: &Path) -> PathBuf {
        sqlite_file::restored_beside(file)
    }

    /// The same database with a clock that follows a manual clock.
    pub(crate) fn with_clock(self, clock: Clock) -> Self {
        Self {
            clock: Arc::new(DatabaseClock::new(clock)),
            ..self
        }
    }

    /// Marks the SQLite file that the lock is on, so that a file that is overwritten in place is noticed.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn mark_file(&self, lock: &FileLock) -> Result<(), DbErr> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let Some(marker) = file.new_marker(lock)? else {
            return Ok(());
        };
        // SQLite keeps this number in the header of the file, and uses it for nothing.
        let mark = format!("PRAGMA user_version = {marker}; PRAGMA wal_checkpoint(PASSIVE)");
        self.writer.plain().execute_unprepared(&mark).await?;
        file.check()
    }

    /// For a while, asks each connection whether it responds before it is used: the server has closed one.
    pub(crate) fn doubt_connections(&self) {
        self.reader.trust().doubt();
    }

    /// Resolves, with the reason, when the SQLite file is found deleted, replaced or overwritten.
    pub(crate) async fn file_lost(&self) -> String {
        match &self.file {
            Some(file) => file.lost().await,
            None => std::future::pending().await,
        }
    }

    /// Whether another program wrote into the SQLite file. Then nothing more may be copied into it.
    pub(crate) fn is_overwritten(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.is_overwritten())
    }

    /// The size of the log of a SQLite database.
    pub(crate) fn log_bytes(&self) -> Option<u64> {
        self.file.as_ref().map(|file| file.log_bytes())
    }

    /// When a process last wrote to the log of a SQLite database.
    pub(crate) fn log_written_at(&self) -> Option<SystemTime> {
        self.file.as_ref()?.log_written_at()
    }

    /// The size of a log that is far larger than SQLite lets it grow. SQLite reports no failed copy by itself.
    pub(crate) fn large_log(&self) -> Option<u64> {
        self.log_bytes().filter(|bytes| *bytes >= LARGE_LOG)
    }

    /// Copies the log of a SQLite database into its file. If the log was deleted, it is the only place of the latest commits.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn rescue_log(&self) -> Result<(), DbErr> {
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        self.writer.plain().execute_unprepared(checkpoint).await?;
        Ok(())
    }

    /// Waits for running statements and closes every connection.
    ///
    /// # Errors
    /// The database fails.
    pub async fn close(self) -> Result<(), DbErr> {
        self.access.close().await?;
        self.reader.close().await?;
        self.writer.close().await?;
        self.counter.close().await
    }

    /// The database engine.
    pub fn backend(&self) -> DbBackend {
        self.writer.get_database_backend()
    }

    /// Whether the engine allows several writers at the same time.
    pub fn has_parallel_writers(&self) -> bool {
        self.backend() == DbBackend::Postgres
    }

    async fn begin(&self) -> Result<Transaction, DbErr> {
        self.writer.begin().await
    }

    /// Begins several reads of one state of the database: none of them sees what is committed meanwhile.
    async fn begin_reading(&self) -> Result<Transaction, DbErr> {
        self.reader.begin_reading().await
    }

    /// Begins a transaction that counts, during which no boundary can move.
    async fn begin_counting(&self) -> Result<Transaction, DbErr> {
        self.exclude_boundary_changes(self.counter.begin().await?)
            .await
    }

    /// Begins another transaction during which no boundary can move.
    async fn begin_within_boundaries(&self) -> Result<Transaction, DbErr> {
        self.exclude_boundary_changes(self.begin().await?).await
    }

    async fn exclude_boundary_changes(&self, tx: Transaction) -> Result<Transaction, DbErr> {
        if self.backend() == DbBackend::Postgres {
            // One message to the server, and the lock after its time limit.
            let sql = format!(
                "{}; SELECT pg_advisory_xact_lock_shared({BOUNDARY_LOCK})",
                durability::COUNT_DURABLY
            );
            tx.execute_unprepared(&sql).await?;
        }
        Ok(tx)
    }

    /// Begins a transaction that may move boundaries, excluding all others. The lock is a fair queue: unlike with row
    /// locks, a stream of commits cannot keep it waiting forever.
    ///
    /// One runs at a time. Others wait without a connection.
    async fn begin_moving_boundaries(&self) -> Result<Transaction, DbErr> {
        let turn = Arc::clone(&self.boundary_turn).acquire_owned();
        // Never closed.
        let turn = timeout(BOUNDARY_TURN_LIMIT, turn).await;
        let turn = turn.map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::Timeout))?;
        let mut tx = self.begin().await?;
        tx.keep(BoundaryMove(Arc::clone(&self.boundary_moves)));
        if let Ok(turn) = turn {
            tx.keep(turn);
        }
        if self.backend() == DbBackend::Postgres {
            lock(&tx, "SELECT pg_advisory_xact_lock($1)", BOUNDARY_LOCK).await?;
        }
        Ok(tx)
    }
}

impl Store {
    /// Begins a change of boundaries that a caller requested.
    ///
    /// # Errors
    /// Too many of them run or wait, or the database fails.
    async fn begin_requested_change(&self) -> crate::error::Result<Transaction> {
        let permit = Arc::clone(&self.requested_changes).try_acquire_owned();
        let permit = permit.map_err(|_| Error::TooManyChanges {
            limit: MAX_REQUESTED_CHANGES,
        })?;
        let mut tx = self.begin_moving_boundaries().await?;
        tx.keep(permit);
        Ok(tx)
    }
}

/// A number of a row that was found by other columns. PostgreSQL would also read the index of this column, of all accounts:
/// no index has this expression.
fn unindexed(column: impl ColumnTrait) -> Expr {
    Expr::cust(format!("{} + 0", column.as_str()))
}

async fn lock(tx: &impl ConnectionTrait, sql: &str, key: i64) -> Result<(), DbErr> {
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, [key.into()]);
    tx.execute_raw(statement).await.map(|_| ())
}
