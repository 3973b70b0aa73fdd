//! The engines that are measured, and an empty database of each.

use std::env;

use tempfile::TempDir;

use super::{
    pgbouncer::PgBouncer,
    postgres::{CITUS, Cluster, Durability, StartError},
    service,
};

/// If it is set, PostgreSQL is measured through PgBouncer as well.
const PGBOUNCER: &str = "BENCH_PGBOUNCER";
/// PgBouncer's connections to PostgreSQL.
const BOUNCED_CONNECTIONS: u32 = 16;

/// An engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
    /// PostgreSQL that Citus distributes over two workers, all on this machine.
    Citus,
    /// PostgreSQL behind a PgBouncer that pools transactions.
    PgBouncer,
}

impl Engine {
    /// Its name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Citus => "citus",
            Self::PgBouncer => "pgbouncer",
        }
    }
}

/// The engines of this machine: SQLite, PostgreSQL where it is installed, and Citus where `CITUS_PG_CONFIG` names an
/// installation that has it.
pub(crate) struct Engines {
    postgres: Option<Cluster>,
    citus: Option<Cluster>,
    pgbouncer: Option<PgBouncer>,
}

impl Engines {
    /// Starts a durable PostgreSQL, or says that its rows are skipped.
    pub(crate) fn start() -> Self {
        let postgres = match Cluster::start(Durability::On) {
            Ok(cluster) => Some(cluster),
            Err(StartError::Unavailable(missing)) => {
                println!("The PostgreSQL rows are skipped: {missing}.");
                None
            }
            Err(StartError::Failed(error)) => panic!("PostgreSQL does not start: {error}"),
        };
        let citus = env::var_os(CITUS).map(|pg_config| {
            let cluster = Cluster::start_distributed(&pg_config, Durability::On);
            cluster.expect("a coordinator and two workers")
        });
        let server = postgres.as_ref().map(Cluster::address);
        let server = server.filter(|_| env::var_os(PGBOUNCER).is_some());
        let pgbouncer = server.map(|server| {
            let started = PgBouncer::start(server, BOUNCED_CONNECTIONS);
            started.expect("a PgBouncer")
        });
        Self {
            postgres,
            citus,
            pgbouncer,
        }
    }

    /// The engines that can be measured.
    pub(crate) fn available(&self) -> impl Iterator<Item = Engine> + '_ {
        let others = [
            (Engine::Postgres, self.postgres.is_some()),
            (Engine::Citus, self.citus.is_some()),
            (Engine::PgBouncer, self.pgbouncer.is_some()),
        ];
        let others = others.into_iter().filter(|(_, is_started)| *is_started);
        std::iter::once(Engine::Sqlite).chain(others.map(|(engine, _)| engine))
    }

    /// A new database.
    pub(crate) fn database(&self, engine: Engine) -> Database {
        let cluster = match engine {
            Engine::Sqlite => None,
            Engine::Postgres | Engine::PgBouncer => self.postgres.as_ref(),
            Engine::Citus => self.citus.as_ref(),
        };
        let mut database = cluster.map_or_else(Database::sqlite, Database::postgres);
        if let (Engine::PgBouncer, Some(bouncer)) = (engine, &self.pgbouncer) {
            database.url = bouncer.url(&database.url);
        }
        if engine == Engine::Citus {
            service::distribute(&database);
        }
        database
    }
}

/// An empty database. Deleted with this value or with the cluster.
pub(crate) struct Database {
    pub(crate) url: String,
    _folder: Option<TempDir>,
}

impl Database {
    /// A file in the build's folder: `/tmp` may be in memory, where durability is free.
    fn sqlite() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let url = format!("sqlite://{}", folder.path().join("usage.db").display());
        Self {
            url,
            _folder: Some(folder),
        }
    }

    fn postgres(cluster: &Cluster) -> Self {
        Self {
            url: cluster.create_database().expect("a database"),
            _folder: None,
        }
    }
}
