//! The engines that are measured, and an empty database of each.

use tempfile::TempDir;

use super::postgres::{Cluster, Durability, StartError};

/// An engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    /// Its name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// The engines of this machine: SQLite, and PostgreSQL where it is installed.
pub(crate) struct Engines {
    postgres: Option<Cluster>,
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
        Self { postgres }
    }

    /// The engines that can be measured.
    pub(crate) fn available(&self) -> impl Iterator<Item = Engine> + '_ {
        [Engine::Sqlite, Engine::Postgres]
            .into_iter()
            .filter(|engine| *engine == Engine::Sqlite || self.postgres.is_some())
    }

    /// A new database.
    pub(crate) fn database(&self, engine: Engine) -> Database {
        match (&self.postgres, engine) {
            (Some(cluster), Engine::Postgres) => Database::postgres(cluster),
            _ => Database::sqlite(),
        }
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
