//! What watching a run costs its sending: reports sent a second with no watcher, with one, and with five. And whether the
//! configured rate is reached.
//!
//! `cargo bench -p usage-server --bench sending` prints one table from one run. Client, server, database and fake Stripe
//! share this machine, so compare the figures of a row with each other, not with another machine's. Every commit waits for
//! the disk. Each cell ends with a comparison of what was counted with what Stripe has: a wrong result stops the benchmark.
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

mod cell;
mod configured;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod usage;
mod watchers;

use cell::Cell;
use clap::Parser;
use support::{engines::Engines, start_log};
use table::Row;

/// The columns of the table: how many watchers a run has.
const WATCHERS: [usize; 3] = [0, 1, 5];

/// Measures reports sent a second.
#[derive(Parser)]
struct Cli {
    /// Reports that each cell sends, 250 to 50,000; rounded down to a multiple of 250.
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(250..=50_000))]
    reports: u32,
    /// How often each cell is measured, 1 to 9; the table shows the median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=9))]
    rounds: u8,
    /// Send 200,000 reports at the configured rate, instead of 3,000. It needs four minutes for each engine.
    #[arg(long)]
    full: bool,
    /// Measure only the rows whose name contains this, such as `sqlite` or `postgres configured-rate`.
    filter: Option<String>,
    /// Set by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let cli = Cli::parse();
    if !cli.bench {
        println!("sending: not measured; run `cargo bench -p usage-server --bench sending`");
        return;
    }
    start_log();
    let engines = Engines::start();
    let mut rows = Vec::new();
    let is_selected = |name: &str| {
        let filter = cli.filter.as_ref();
        filter.is_none_or(|filter| name.contains(filter))
    };
    for engine in engines.available() {
        if !is_selected(&format!("{} watchers", engine.name())) {
            continue;
        }
        let mut row = Row::new(engine.name(), &WATCHERS);
        // Each round begins with another cell, so that a machine that gets slower or faster changes all of them.
        let mut order = WATCHERS;
        for round in 1..=cli.rounds {
            order.rotate_left(1);
            for watchers in order {
                let measured = Cell {
                    reports: cli.reports,
                    watchers,
                }
                .measure(&engines.database(engine));
                eprintln!(
                    "{} round {round}: {watchers} watchers, {} reports a second, {} updates",
                    engine.name(),
                    measured.per_sec,
                    measured.updates
                );
                row.add(watchers, measured.per_sec);
            }
        }
        rows.push(row);
    }
    table::print(&rows);
    let reports = if cli.full {
        configured::MANY_REPORTS
    } else {
        configured::REPORTS
    };
    for engine in engines.available() {
        let name = configured::name(engine);
        if is_selected(&name) {
            eprintln!("measuring {name} ...");
            configured::measure(engine, &engines.database(engine), reports);
        }
    }
}
