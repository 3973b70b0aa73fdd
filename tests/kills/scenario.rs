//! The list of scenarios, and how often each of them kills.

use clap::ValueEnum;

use crate::{
    run::{Run, Told},
    scenarios::{database, freeze, full_disk, network, pooler, servers, standby, torn_log},
};

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// The only server of a SQLite file, by SIGKILL.
    Sqlite,
    /// One of two servers on PostgreSQL, by SIGKILL, in turn.
    Servers,
    /// PostgreSQL, by an immediate stop, with a recovery after it.
    Database,
    /// The primary of a synchronous standby, which is promoted.
    Standby,
    /// The primary of an asynchronous standby, which is promoted. Counts what is lost.
    AsynchronousStandby,
    /// The connections to PostgreSQL: cut, delayed, half closed or swallowed.
    Network,
    /// One of two servers: stopped by SIGSTOP for longer than its leases.
    Freeze,
    /// A small file system that is filled, and emptied again.
    FullDisk,
    /// The files of a server that was killed, as a power cut would have left them.
    TornLog,
    /// PgBouncer, which pools transactions.
    Pooler,
}

impl Scenario {
    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// How often it kills without a number on the command line.
    pub(crate) fn times(self, is_brief: bool) -> usize {
        let (full, brief) = match self {
            Self::Sqlite | Self::Servers => (100, 20),
            Self::Database => (30, 6),
            Self::Standby => (5, 1),
            Self::AsynchronousStandby => (3, 1),
            Self::Network => (60, 6),
            Self::Freeze | Self::FullDisk => (10, 2),
            Self::TornLog => (30, 3),
            Self::Pooler => (30, 5),
        };
        if is_brief { brief } else { full }
    }

    /// Plays it.
    pub(crate) async fn play(self, run: &Run) -> Told {
        match self {
            Self::Sqlite => Box::pin(servers::of_a_file(run)).await,
            Self::Servers => Box::pin(servers::of_a_cluster(run)).await,
            Self::Database => Box::pin(database::stops(run)).await,
            Self::Standby => Box::pin(standby::synchronous(run)).await,
            Self::AsynchronousStandby => Box::pin(standby::asynchronous(run)).await,
            Self::Network => Box::pin(network::fails(run)).await,
            Self::Freeze => Box::pin(freeze::beyond_leases(run)).await,
            Self::FullDisk => Box::pin(full_disk::fills(run)).await,
            Self::TornLog => Box::pin(torn_log::after_kills(run)).await,
            Self::Pooler => Box::pin(pooler::is_killed(run)).await,
        }
    }
}
