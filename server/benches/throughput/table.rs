//! Prints the result: a table for people, and the same figures as plain lines for programs.

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use hdrhistogram::Histogram;

use crate::load::{Measured, Work};

/// One row of the table: an engine and a kind of calls.
pub(crate) struct Row {
    pub(crate) engine: &'static str,
    pub(crate) work: Work,
    pub(crate) ours: Measured,
    pub(crate) noop: Option<Measured>,
    pub(crate) naive: Option<Measured>,
}

/// Prints all measurements.
pub(crate) fn print(rows: &[Row], seconds: f64) {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header([
        "engine",
        "work",
        "nothing /s",
        "p50 / p99 ms",
        "tx a call /s",
        "p50 / p99 ms",
        "ours /s",
        "p50 / p99 ms",
        "ours : tx a call",
    ]);
    for row in rows {
        let mut cells = vec![row.engine.to_owned(), row.work.name()];
        for measured in [row.noop.as_ref(), row.naive.as_ref(), Some(&row.ours)] {
            cells.push(measured.map_or_else(|| "-".to_owned(), |cell| grouped(cell.per_sec)));
            cells.push(measured.map_or_else(|| "-".to_owned(), |cell| latencies(&cell.latencies)));
        }
        cells.push(row.naive.as_ref().map_or_else(
            || "-".to_owned(),
            |naive| {
                format!(
                    "{:.1}",
                    row.ours.per_sec as f64 / naive.per_sec.max(1) as f64
                )
            },
        ));
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!(
        "Increments a second and latency of a call. Each cell was measured for {seconds} s; every commit is durable."
    );
    println!("{table}");
    let per_sec = |measured: &Option<Measured>| measured.as_ref().map_or(0, |cell| cell.per_sec);
    for row in rows {
        println!(
            "bench: {} {} ours={} noop={} naive={}",
            row.engine,
            row.work.name(),
            row.ours.per_sec,
            per_sec(&row.noop),
            per_sec(&row.naive)
        );
    }
}

pub(crate) fn latencies(micros: &Histogram<u64>) -> String {
    let millis = |quantile: f64| micros.value_at_quantile(quantile) as f64 / 1_000.0;
    format!("{:.2} / {:.2}", millis(0.5), millis(0.99))
}

/// Formats 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
