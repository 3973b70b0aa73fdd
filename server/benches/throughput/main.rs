//! Increments a second of the service, between an upper and a lower bound: the same call that does nothing, and one
//! transaction a call.
//!
//! `cargo bench -p usage-server --bench throughput` prints one table from one run. Client, server and database share this
//! machine, so compare the figures with each other, not with another machine's. Every commit waits for the disk. Each cell
//! ends with a comparison of the acknowledged increments with the database: a wrong result stops the benchmark.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark prints, rounds, and panics on an unexpected result"
)]

mod load;
mod naive;
#[path = "../../../tests/it/support/postgres/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use the rest of it")]
mod postgres;
mod servers;
mod table;

use std::time::Duration;

use clap::Parser;
use load::{Load, Measured, Work};
use postgres::{Cluster, Durability, StartError};
use servers::{Database, Running, Side};
use table::Row;
use tracing_subscriber::{EnvFilter, fmt::writer::MakeWriterExt as _};

/// Measures increments a second.
#[derive(Parser)]
struct Cli {
    /// Seconds that each cell is measured, after a short warm-up.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Connections that the calls are spread over.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Measure only the service, without the two bounds.
    #[arg(long)]
    ours: bool,
    /// Measure only the rows whose `ENGINE WORK` contains this, such as `sqlite unary`.
    filter: Option<String>,
    /// Set by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The engines of the table's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

fn main() {
    let cli = Cli::parse();
    if !cli.bench {
        println!("throughput: not measured; run `cargo bench -p usage-server --bench throughput`");
        return;
    }
    start_log();
    let cluster = match Cluster::start(Durability::On) {
        Ok(cluster) => Some(cluster),
        Err(StartError::Unavailable(missing)) => {
            println!("The PostgreSQL rows are skipped: {missing}.");
            None
        }
        Err(StartError::Failed(error)) => panic!("PostgreSQL does not start: {error}"),
    };
    let is_selected = |engine: Engine, work: Work| {
        let name = format!("{} {}", engine.name(), work.name());
        (engine == Engine::Sqlite || cluster.is_some())
            && cli
                .filter
                .as_ref()
                .is_none_or(|filter| name.contains(filter))
    };
    let mut rows: Vec<Row> = Vec::new();
    for engine in [Engine::Sqlite, Engine::Postgres] {
        for work in Work::ALL
            .into_iter()
            .filter(|work| is_selected(engine, *work))
        {
            eprintln!("measuring {} {} ...", engine.name(), work.name());
            let database = || match (&cluster, engine) {
                (Some(cluster), Engine::Postgres) => Database::postgres(cluster),
                _ => Database::sqlite(),
            };
            // The call that does nothing needs no database: measure it once for both engines.
            let earlier = rows
                .iter()
                .find(|row| row.work == work)
                .and_then(|row| row.noop.clone());
            let noop = (!cli.ours)
                .then(|| earlier.unwrap_or_else(|| measure(&cli, work, Side::Noop, None)));
            let naive = (!cli.ours && work.has_naive())
                .then(|| measure(&cli, work, Side::Naive, Some(database())));
            let ours = measure(&cli, work, Side::Ours, Some(database()));
            rows.push(Row {
                engine: engine.name(),
                work,
                ours,
                noop,
                naive,
            });
        }
    }
    table::print(&rows, cli.seconds);
}

/// Starts the log at the service's level, because its cost is part of the figures. Prints errors only.
fn start_log() {
    let filter = EnvFilter::new("info,sqlx=warn,stripe=error,async_stripe=error");
    let writer = std::io::stderr.with_max_level(tracing::Level::ERROR);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .init();
}

/// Measures one cell on a new database.
fn measure(cli: &Cli, work: Work, side: Side, database: Option<Database>) -> Measured {
    let server = Running::start(side, database);
    let load = Load {
        work,
        connections: cli.connections,
        duration: Duration::from_secs_f64(cli.seconds),
    };
    let measured = load.run(server.endpoint());
    server.stop_and_verify(measured.acknowledged);
    measured
}
