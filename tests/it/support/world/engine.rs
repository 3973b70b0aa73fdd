//! Runs one list of tests on both database engines. If `CITUS_PG_CONFIG` names an installation that has Citus, the
//! databases of PostgreSQL are distributed.

use std::{future::Future, io::Write as _};

use tokio::runtime::Runtime;

use super::World;
use crate::support::postgres::{self, Cluster};

/// The database engine of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// Turns a list of test functions into tests on both engines.
macro_rules! on_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[test] fn $name() { $crate::support::world::engine::run($crate::support::world::Engine::Sqlite, super::$name); })+
        }
        mod postgres {
            $(#[test] fn $name() { $crate::support::world::engine::run($crate::support::world::Engine::Postgres, super::$name); })+
        }
    };
}
pub(crate) use on_both_engines;

/// Turns a list of test functions into tests on `PostgreSQL` alone.
macro_rules! on_postgres {
    ($($name:ident),+ $(,)?) => {
        mod only_postgres {
            $(#[test] fn $name() { $crate::support::world::engine::run($crate::support::world::Engine::Postgres, super::$name); })+
        }
    };
}
pub(crate) use on_postgres;

/// Turns a list of test functions into tests on SQLite alone.
macro_rules! on_sqlite {
    ($($name:ident),+ $(,)?) => {
        mod only_sqlite {
            $(#[test] fn $name() { $crate::support::world::engine::run($crate::support::world::Engine::Sqlite, super::$name); })+
        }
    };
}
pub(crate) use on_sqlite;

/// Turns a list of test functions into tests on a database that Citus distributes.
macro_rules! on_citus {
    ($($name:ident),+ $(,)?) => {
        mod only_citus {
            $(#[test] fn $name() { $crate::support::world::engine::run_on_citus(super::$name); })+
        }
    };
}
pub(crate) use on_citus;

/// Runs one test on Citus. Without an installation it prints that the test was skipped.
pub(crate) fn run_on_citus<F: Future<Output = ()>>(test: fn(World) -> F) {
    if std::env::var_os(postgres::CITUS).is_some() {
        run(Engine::Postgres, test);
    } else {
        skipped(&format!(
            "{} names no installation of PostgreSQL that has Citus",
            postgres::CITUS
        ));
    }
}

/// Says that a test was skipped. Not captured by the test runner: a skipped test must not look like a passed one.
pub(crate) fn skipped(why: &str) {
    writeln!(std::io::stderr(), "SKIPPED: {why}").expect("standard error");
}

impl World {
    /// Whether the tables of its database are spread over the workers of Citus.
    pub(crate) fn is_distributed(&self) -> bool {
        self.engine == Engine::Postgres && postgres::cluster().is_ok_and(Cluster::is_distributed)
    }

    /// Ends a test that Citus cannot have, and says why; otherwise returns its world.
    pub(crate) async fn unless_distributed(self, why: &str) -> Option<Self> {
        if !self.is_distributed() {
            return Some(self);
        }
        skipped(&format!("not for Citus: {why}"));
        self.finish().await;
        None
    }
}

/// Runs one test on one engine. Without `PostgreSQL` it prints that the test was skipped; in CI it fails.
pub(crate) fn run<F: Future<Output = ()>>(engine: Engine, test: fn(World) -> F) {
    if engine == Engine::Postgres
        && let Err(missing) = postgres::cluster()
    {
        let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!is_ci, "{missing}");
        return skipped(&missing.to_string());
    }
    runtime(2).block_on(async { test(World::start(engine).await).await });
}

pub(super) fn runtime(threads: usize) -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .expect("a runtime")
}
