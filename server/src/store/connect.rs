//! Opens the database of a URL: pools, timeouts and pragmas of both engines.

use std::{sync::Arc, time::Duration};

use sea_orm::{
    ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, DbBackend, DbErr,
    RuntimeErr, Statement,
};
use sqlx::{
    Connection as _,
    postgres::{PgConnectOptions, PgConnection},
    sqlite::{SqliteConnection, SqliteJournalMode, SqliteSynchronous},
};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    Store,
    connection::Pool,
    connection_trust::Trust,
    distribution::read_shards,
    driver_pool::{DriverPool, Replacement},
    durability, host_list,
    hosts::Hosts,
    sqlite_file::{self, SqliteFile},
};
use crate::planted_defects::{Defect, planted};

/// Boundary changes that callers requested and that run or wait: each takes milliseconds, so more would not be answered
/// in time.
pub(super) const MAX_REQUESTED_CHANGES: usize = 256;
/// How long a statement may wait for a connection or for SQLite's writer.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections are kept open. The pool's task that closes old ones counts idle connections without a lock, and can loop
/// forever if that number is briefly negative.
const NEVER: Option<Duration> = None;
/// The number of read-only connections to SQLite.
const SQLITE_READERS: u32 = 4;
/// The page cache of the connection that writes, 40 MiB: a group of random keys changes thousands of pages, and pages that
/// do not fit are written to the log twice.
const SQLITE_CACHE: &str = "-40960";
/// That of each connection that reads, 8 MiB: SQLite empties it after each commit of another connection.
const SQLITE_READER_CACHE: &str = "-8192";
/// That of the connection that reads who calls: it reads single rows.
const SQLITE_ACCESS_CACHE: &str = "-256";
/// The number of pages in the log before they are copied to the database file, 64 MiB. Groups mostly change the same
/// pages, and each page is copied only once.
const SQLITE_CHECKPOINT: &str = "16384";

/// What PostgreSQL shows as the application of a connection: of any, and of those that a server counts with.
const SERVICE: &str = "usage-server";
const COUNTER: &str = "usage-server counting";
/// And through PgBouncer, which shows one of them for a connection of all.
pub(super) const BOUNCED: &str = "usage-server pgbouncer";
/// And of the one that reads who calls.
const ACCESS: &str = "usage-server access";
/// One query for each key, every few seconds.
const ACCESS_CONNECTIONS: u32 = 1;

/// The shortest time between two replacements of a pool, and that without a connection before it: of the few connections for
/// counting, whose attempts are given up after seconds, and of the others, whose statements may take a minute.
const COUNTER_REPLACEMENT: Duration = Duration::from_secs(3);
const ACCESS_REPLACEMENT: Duration = Duration::from_secs(1);
const REPLACEMENT: Duration = Duration::from_mins(1);

impl Store {
    /// What shows that servers use this database, in words. Nothing on SQLite, whose lock keeps servers out.
    ///
    /// # Errors
    /// The database does not respond.
    pub(crate) async fn find_servers(&self) -> crate::error::Result<Option<String>> {
        if !self.has_parallel_writers() {
            return Ok(None);
        }
        let counting = self.connections_named(COUNTER).await?;
        if counting > 0 {
            return Ok(Some(format!("count in it over {counting} connections")));
        }
        // PgBouncer keeps connections that no server uses, and one connection is of several servers in turn.
        if !self.reader.is_bounced() && self.connections_named(BOUNCED).await? == 0 {
            return Ok(None);
        }
        let leases = self.held_leases().await?;
        Ok((leases > 0).then(|| format!("run {leases} background jobs, through PgBouncer")))
    }

    async fn connections_named(&self, name: &str) -> Result<i64, DbErr> {
        let sql = "SELECT COUNT(*) AS number FROM pg_stat_activity \
             WHERE datname = current_database() AND application_name = $1";
        let count = Statement::from_sql_and_values(DbBackend::Postgres, sql, [name.into()]);
        let row = self.reader.query_one_raw(count).await?;
        row.map_or(Ok(0), |row| row.try_get("", "number"))
    }

    /// Connects, and creates a SQLite file that does not exist yet.
    ///
    /// # Errors
    /// The URL has an unknown scheme, or the database does not respond.
    pub async fn open(url: &str, max_connections: u32) -> Result<Self, DbErr> {
        if is_sqlite(url) {
            sqlite_file::create(url)?;
        }
        Self::connect(url, true, max_connections).await
    }

    /// Connects to serve: as [`Store::open`], with some of the connections for counting alone where the engine allows
    /// several writers. Nothing else can take them.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub(crate) async fn open_to_serve(
        url: &str,
        max_connections: u32,
        writers: u32,
    ) -> Result<Self, DbErr> {
        if is_sqlite(url) {
            return Self::open(url, max_connections).await;
        }
        let taken = writers.saturating_add(ACCESS_CONNECTIONS);
        let others = max_connections.saturating_sub(taken).max(1);
        let store = Self::open(url, others).await?;
        let trust = store.writer.trust();
        let Some(hosts) = trust.hosts() else {
            return Ok(store);
        };
        let counter = postgres_pool(hosts, writers, COUNTER, &trust).await?;
        let access = postgres_pool(hosts, ACCESS_CONNECTIONS, ACCESS, &trust).await?;
        Ok(Self {
            counter,
            access,
            ..store
        })
    }

    /// Connects to an existing database. Does not create a SQLite file.
    ///
    /// # Errors
    /// The URL has an unknown scheme, or the database does not exist or does not respond.
    pub async fn open_existing(url: &str, max_connections: u32) -> Result<Self, DbErr> {
        Self::connect(url, false, max_connections).await
    }

    /// Commands that only check the database do not serve it, and change nothing in it.
    async fn connect(url: &str, serves: bool, max_connections: u32) -> Result<Self, DbErr> {
        if is_sqlite(url) {
            sqlite_file::check_not_between(url)?;
            let trust = Arc::<Trust>::default();
            // Not "rwc": a connection that is replaced later must not create an empty file where the file was deleted.
            let mut writer = sqlite_options(url, "rw", 1, SQLITE_CACHE, &trust);
            if serves {
                writer.map_sqlx_sqlite_pool_opts({
                    let trust = Arc::clone(&trust);
                    move |pool| {
                        let pool = trust.guard(pool, false);
                        pool.after_connect(|connection, _| Box::pin(sync_log(connection)))
                    }
                });
            }
            let writer = connect_sqlite(url, writer).await?;
            let reader = sqlite_options(url, "ro", SQLITE_READERS, SQLITE_READER_CACHE, &trust);
            let reader = connect_sqlite(url, reader).await?;
            let access = sqlite_options(url, "ro", ACCESS_CONNECTIONS, SQLITE_ACCESS_CACHE, &trust);
            let access = DriverPool::new(connect_sqlite(url, access).await?, None);
            let file = Arc::new(SqliteFile::opened(url)?);
            let writer = DriverPool::new(writer, None);
            let counter = Pool::new(writer, Arc::clone(&trust), Some(Arc::clone(&file)));
            return Ok(Self {
                writer: counter.gated(),
                counter,
                access: Pool::new(access, Arc::clone(&trust), None),
                reader: Pool::new(DriverPool::new(reader, None), trust, None),
                file: Some(file),
                clock: Arc::default(),
                boundary_moves: Arc::default(),
                boundary_turn: one_at_a_time(),
                requested_changes: requested_changes(),
            });
        }
        let hosts = Hosts::find(url, serves).await?;
        let trust = Arc::new(Trust::of(Arc::clone(&hosts)));
        let pool = postgres_pool(&hosts, max_connections, SERVICE, &trust).await?;
        let store = Self {
            counter: pool.clone(),
            writer: pool.clone(),
            access: pool.clone(),
            reader: pool,
            file: None,
            clock: Arc::default(),
            boundary_moves: Arc::default(),
            boundary_turn: one_at_a_time(),
            requested_changes: requested_changes(),
        };
        let shards = read_shards(&store.reader).await?;
        Ok(store.with_shards(shards))
    }
}

async fn postgres_pool(
    hosts: &Arc<Hosts>,
    connections: u32,
    name: &'static str,
    trust: &Arc<Trust>,
) -> Result<Pool, DbErr> {
    let options = postgres_options(hosts, connections, name, trust);
    let pool = match Database::connect(options.clone()).await {
        Ok(pool) => pool,
        Err(error) => return Err(connection_error(hosts, error).await),
    };
    let (after, interval) = match name {
        SERVICE => (ACQUIRE_TIMEOUT, REPLACEMENT),
        ACCESS => (ACCESS_REPLACEMENT, ACCESS_REPLACEMENT),
        _ => (COUNTER_REPLACEMENT, COUNTER_REPLACEMENT),
    };
    let replacement = Replacement {
        options,
        after,
        interval,
    };
    let pool = DriverPool::new(pool, Some(replacement)).bounced(hosts.bounced());
    hosts.follow(&pool, name);
    Ok(Pool::new(pool, Arc::clone(trust), None))
}

fn one_at_a_time() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1))
}

fn requested_changes() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MAX_REQUESTED_CHANGES))
}

/// Whether a URL is of a SQLite file; else it is of PostgreSQL.
pub(super) fn is_sqlite(url: &str) -> bool {
    url.starts_with("sqlite:")
}

/// Returns why PostgreSQL cannot be used, and where it was looked for. The pool only reports a timeout.
async fn connection_error(hosts: &Arc<Hosts>, of_pool: DbErr) -> DbErr {
    let options = hosts.options(SERVICE);
    let connecting = Box::pin(async {
        let mut connection = PgConnection::connect_with(&options).await?;
        prepare(&mut connection, hosts).await
    });
    let why = match timeout(ACQUIRE_TIMEOUT, connecting).await {
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", ACQUIRE_TIMEOUT.as_secs()),
        // It could be used this time.
        Ok(Ok(())) => return of_pool,
    };
    DbErr::Conn(RuntimeErr::Internal(format!(
        "{}: {why}",
        place_of(&options)
    )))
}

/// A URL as it may be shown: without user, password and parameters.
pub(crate) fn without_credentials(url: &str) -> String {
    if is_sqlite(url) {
        return url.split('?').next().unwrap_or_default().to_owned();
    }
    let hosts = host_list::split(url).map_or_else(|_| Vec::new(), |list| list.hosts);
    let options: Vec<PgConnectOptions> = hosts
        .iter()
        .filter_map(|host| host.url.parse().ok())
        .collect();
    let places: Vec<String> = options.iter().map(place_of).collect();
    let name = options.first().and_then(PgConnectOptions::get_database);
    format!(
        "postgres://{}/{}",
        places.join(","),
        name.unwrap_or_default()
    )
}

/// The host and the port, or the socket, of PostgreSQL. Not the user and the password.
fn place_of(options: &PgConnectOptions) -> String {
    let port = options.get_port();
    match options.get_socket() {
        Some(socket) => format!("{}, port {port}", socket.display()),
        None => format!("{}:{port}", options.get_host()),
    }
}

/// Connects to a SQLite file, which its error names.
async fn connect_sqlite(url: &str, options: ConnectOptions) -> Result<DatabaseConnection, DbErr> {
    let connected = Database::connect(options).await;
    connected.map_err(|error| sqlite_file::named(url, &error))
}

fn postgres_options(
    hosts: &Arc<Hosts>,
    connections: u32,
    name: &'static str,
    trust: &Arc<Trust>,
) -> ConnectOptions {
    let (trust, checking, connecting) = (Arc::clone(trust), Arc::clone(hosts), Arc::clone(hosts));
    let mut options = ConnectOptions::new(hosts.any_url());
    options
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(NEVER)
        .max_lifetime(NEVER)
        .sqlx_logging(false)
        .map_sqlx_postgres_pool_opts(move |pool| {
            let pool = trust.guard(pool, true);
            let hosts = Arc::clone(&checking);
            pool.after_connect(move |connection, _| {
                let hosts = Arc::clone(&hosts);
                Box::pin(async move { prepare(connection, &hosts).await })
            })
        })
        // Not those of the URL, but those of the host in use.
        .map_sqlx_postgres_opts(move |_| connecting.options(name));
    options
}

/// What each new connection to PostgreSQL does first. After an error the pool closes it and tries again.
async fn prepare(connection: &mut PgConnection, hosts: &Arc<Hosts>) -> Result<(), sqlx::Error> {
    hosts.check(connection).await?;
    if hosts.bounced().is_some() {
        // Each transaction says so itself.
        return Ok(());
    }
    commit_durably(connection).await
}

/// Every transaction waits for the disk, whatever the role is set to. Counting also says so in each transaction, because
/// a pooler between may change connections.
async fn commit_durably(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(durability::COMMIT_DURABLY)
        .execute(connection)
        .await
        .map(|_| ())
}

/// Syncs the log of earlier connections. Its last commit may have been written but not synced, if the process was killed
/// or the sync failed. A repeated key must not be acknowledged as a duplicate of such a commit.
async fn sync_log(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("PRAGMA wal_checkpoint(PASSIVE)")
        .execute(connection)
        .await
        .map(|_| ())
}

fn sqlite_options(
    url: &str,
    mode: &str,
    connections: u32,
    cache: &'static str,
    trust: &Arc<Trust>,
) -> ConnectOptions {
    let trust = Arc::clone(trust);
    let separator = if url.contains('?') { '&' } else { '?' };
    let mut options = ConnectOptions::new(format!("{url}{separator}mode={mode}"));
    options
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(NEVER)
        .max_lifetime(NEVER)
        .sqlx_logging(false)
        .map_sqlx_sqlite_pool_opts(move |pool| trust.guard(pool, false))
        .map_sqlx_sqlite_opts(move |sqlite| {
            sqlite
                .journal_mode(SqliteJournalMode::Wal)
                // FULL syncs the log at each commit: an acknowledged unit survives a power cut.
                .synchronous(if planted(Defect::NotSynced) {
                    SqliteSynchronous::Off
                } else {
                    SqliteSynchronous::Full
                })
                .busy_timeout(ACQUIRE_TIMEOUT)
                .pragma("cache_size", cache)
                .pragma("wal_autocheckpoint", SQLITE_CHECKPOINT)
        });
    options
}
