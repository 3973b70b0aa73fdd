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

mod background;
mod beside;
mod boundaries;
mod closing;
mod growth;
mod load;
mod memory;
mod naive;
mod options;
mod pages;
mod reading;
mod servers;
mod stored;
#[path = "../support/mod.rs"]
mod support;
mod table;

use std::time::Duration;

use clap::Parser;
use load::{Load, MANY_ACCOUNTS, Measured, Work};
use servers::{Running, Side};
use support::{
    engines::{Database, Engine, Engines},
    start_log,
};
use table::Row;

/// That of the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures increments a second.
#[derive(Parser)]
struct Cli {
    /// Seconds that each cell is measured, after a short warm-up.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Connections that the calls are spread over.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Measure the rows of a million accounts and of growth too, and close a million reports. They need many minutes, and
    /// 15 GB on the disk.
    #[arg(long)]
    full: bool,
    /// The keys that the rows of growth store before; there is a report for five of them.
    #[arg(long, default_value_t = growth::KEYS, value_parser = clap::value_parser!(u64).range(10_000..=100_000_000))]
    stored_keys: u64,
    /// Measure only the service, without the two bounds.
    #[arg(long)]
    ours: bool,
    /// Measure only the rows whose `ENGINE WORK` contains this, such as `sqlite unary`.
    filter: Option<String>,
    /// Set by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let cli = Cli::parse();
    if !cli.bench {
        println!("throughput: not measured; run `cargo bench -p usage-server --bench throughput`");
        return;
    }
    start_log();
    let engines = Engines::start();
    let is_selected = |engine: Engine, work: Work| {
        let name = format!("{} {}", engine.name(), work.name());
        cli.filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter))
    };
    let mut rows: Vec<Row> = Vec::new();
    for engine in engines.available() {
        for work in Work::ALL
            .into_iter()
            .filter(|work| is_selected(engine, *work))
            .filter(|work| cli.full || work.accounts() < MANY_ACCOUNTS)
        {
            eprintln!("measuring {} {} ...", engine.name(), work.name());
            let database = || engines.database(engine);
            // The call that does nothing needs no database: measure it once for both engines.
            let earlier = rows
                .iter()
                .find(|row| row.work.for_nothing() == work.for_nothing())
                .and_then(|row| row.noop.clone());
            let noop = (!cli.ours)
                .then(|| earlier.unwrap_or_else(|| measure(&cli, work, Side::Noop, None)));
            let naive = (!cli.ours && work.has_naive() && !is_variant(engine))
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
    let duration = Duration::from_secs_f64(cli.seconds);
    // They fill tables with statements of one machine.
    for engine in engines.available().filter(|engine| !is_variant(*engine)) {
        for (name, measure) in others(&cli, &engines, engine, duration) {
            if cli
                .filter
                .as_ref()
                .is_none_or(|filter| name.contains(filter))
            {
                eprintln!("measuring {name} ...");
                measure(engines.database(engine));
            }
        }
    }
}

/// The measurement of a row that has no bounds, on a new database.
type Other<'a> = Box<dyn FnOnce(Database) + 'a>;

/// The rows that have no bounds, with their names.
fn others<'a>(
    cli: &'a Cli,
    engines: &'a Engines,
    engine: Engine,
    duration: Duration,
) -> Vec<(String, Other<'a>)> {
    let size = |brief: u64, full: u64| if cli.full { full } else { brief };
    let reports = size(closing::REPORTS, closing::MANY_REPORTS);
    let accounts = size(reading::ACCOUNTS_READ, reading::MANY_ACCOUNTS_READ);
    let mut all: Vec<(String, Other<'a>)> = vec![
        (
            beside::name(engine),
            Box::new(move |database| beside::measure(engine, database, duration)),
        ),
        (
            boundaries::name(engine),
            Box::new(move |database| boundaries::measure(engine, database, duration)),
        ),
        (
            closing::name(engine),
            Box::new(move |database| closing::measure(engine, database, duration, reports)),
        ),
        (
            reading::name(engine),
            Box::new(move |database| reading::measure(engine, database, duration, accounts)),
        ),
        (
            pages::name(engine),
            Box::new(move |database| pages::measure(engine, database, duration, accounts)),
        ),
        (
            memory::name(engine),
            Box::new(move |database| memory::measure(engine, &database, duration, accounts)),
        ),
    ];
    // Each setting needs a database.
    all.push((
        options::name(engine),
        Box::new(move |_| options::measure(engine, engines, duration)),
    ));
    if cli.full {
        let on_empty = move |work| measure(cli, work, Side::Ours, Some(engines.database(engine)));
        all.push((
            growth::name(engine),
            Box::new(move |database| {
                growth::measure(engine, database, cli.stored_keys, on_empty, |work| {
                    load(cli, work)
                });
            }),
        ));
    }
    all
}

fn load(cli: &Cli, work: Work) -> Load {
    Load {
        work,
        connections: cli.connections,
        duration: Duration::from_secs_f64(cli.seconds),
    }
}

/// Measures one cell on a new database.
fn measure(cli: &Cli, work: Work, side: Side, database: Option<Database>) -> Measured {
    let stored = match &database {
        Some(database) if work.accounts() >= MANY_ACCOUNTS => {
            stored::open_reports(database, work.accounts())
        }
        _ => 0,
    };
    let server = Running::start(side, database);
    let measured = load(cli, work).run(server.endpoint());
    server.stop_and_verify(stored + measured.acknowledged);
    measured
}

/// Whether only increments are measured with an engine.
fn is_variant(engine: Engine) -> bool {
    matches!(engine, Engine::Citus | Engine::PgBouncer)
}
