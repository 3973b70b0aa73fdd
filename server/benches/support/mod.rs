//! What the benchmarks share: the engines with their databases, the service in this process or one of its own, and the log.

pub(crate) mod engines;
#[path = "../../../tests/it/support/pgbouncer.rs"]
#[allow(dead_code, reason = "the tests use the rest of it")]
mod pgbouncer;
#[path = "../../../tests/it/support/postgres/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use the rest of it")]
mod postgres;
pub(crate) mod process;
pub(crate) mod service;

use tracing_subscriber::{EnvFilter, fmt::writer::MakeWriterExt as _};

/// Starts the log at the service's level, because its cost is part of the figures. Prints errors only.
pub(crate) fn start_log() {
    let filter = EnvFilter::new("info,sqlx=warn,stripe=error,async_stripe=error");
    let writer = std::io::stderr.with_max_level(tracing::Level::ERROR);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .init();
}
