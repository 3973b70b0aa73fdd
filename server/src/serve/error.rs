//! Why the service did not start or ended.

use std::net::SocketAddr;

use crate::workers::runner::JobEnded;

/// Why the service did not start or ended, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A setting is wrong.
    #[error("{0}")]
    Config(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({setting}): {why}")]
    Listen {
        /// The setting with the address.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// The cause, and what to do.
        why: String,
    },
    /// The database cannot be reached or used.
    #[error("the database cannot be used: {0}")]
    Database(sea_orm::DbErr),
    /// PostgreSQL acknowledges commits that a power cut can lose.
    #[error(
        "PostgreSQL runs with {0} off, so a power cut can lose acknowledged usage; turn it on, or start with --insecure-durability"
    )]
    InsecureDurability(String),
    /// The machine is a worker of Citus. Boundaries are protected by locks of one machine, so all servers enter by the same.
    #[error("DATABASE_URL names a worker of Citus; every server must connect to the coordinator")]
    Worker,
    /// The database has pending migrations, and the configuration forbids running them.
    #[error(
        "the database lacks {0} migrations; run `usage-server migrate`, or start without --no-migrate"
    )]
    NotMigrated(usize),
    /// Whoever reaches the address would be allowed everything.
    #[error(
        "the database has no API key, and {0} (LISTEN or HTTP_LISTEN) can be reached from other machines: create a key with `usage-server keys create`, listen on 127.0.0.1, or start with --insecure"
    )]
    OpenToAll(SocketAddr),
    /// The socket or the scheduler failed.
    #[error("the service cannot run: {0}")]
    Io(Box<dyn std::error::Error + Send + Sync>),
    /// A background job ended by itself.
    #[error("the service cannot go on: {0}")]
    Job(#[from] JobEnded),
    /// The SQLite file was deleted, replaced or overwritten: nothing that is written is kept.
    #[error("the service cannot go on: {0}")]
    FileLost(String),
    /// A task that commits increments ended by itself.
    #[error("the service cannot go on: a task that commits increments {0}")]
    Writer(String),
}

impl ServeError {
    /// Whether the log has had it since the service began to stop.
    pub fn is_logged(&self) -> bool {
        matches!(self, Self::Job(_) | Self::FileLost(_) | Self::Writer(_))
    }
}

impl From<sea_orm::DbErr> for ServeError {
    fn from(error: sea_orm::DbErr) -> Self {
        Self::Database(error)
    }
}
