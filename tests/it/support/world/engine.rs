//! Runs one list of tests on both database engines.

use std::{future::Future, io::Write as _};

use tokio::runtime::Runtime;

use super::World;
use crate::support::postgres;

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

/// Runs one test on one engine. Without `PostgreSQL` it prints that the test was skipped; in CI it fails.
pub(crate) fn run<F: Future<Output = ()>>(engine: Engine, test: fn(World) -> F) {
    if engine == Engine::Postgres
        && let Err(missing) = postgres::cluster()
    {
        let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!is_ci, "{missing}");
        // Not captured by the test runner: a skipped test must not look like a passed one.
        writeln!(std::io::stderr(), "SKIPPED: {missing}").expect("standard error");
        return;
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
