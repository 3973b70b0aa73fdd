//! Prints the result: a table for people, and the same figures as plain lines for programs.

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

/// The measurements of an engine.
pub(crate) struct Row {
    engine: &'static str,
    /// For each number of watchers, the reports a second of all rounds.
    per_sec: Vec<(usize, Vec<u64>)>,
}

impl Row {
    /// A row without measurements.
    pub(crate) fn new(engine: &'static str, watchers: &[usize]) -> Self {
        Self {
            engine,
            per_sec: watchers
                .iter()
                .map(|number| (*number, Vec::new()))
                .collect(),
        }
    }

    /// Adds the measurement of one round.
    pub(crate) fn add(&mut self, watchers: usize, per_sec: u64) {
        for (number, rounds) in &mut self.per_sec {
            if *number == watchers {
                rounds.push(per_sec);
            }
        }
    }

    /// The medians, by the number of watchers.
    fn medians(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.per_sec.iter().map(|(watchers, rounds)| {
            let mut sorted = rounds.clone();
            sorted.sort_unstable();
            (
                *watchers,
                sorted.get(sorted.len() / 2).copied().unwrap_or(0),
            )
        })
    }

    /// The rate without watchers, which the others are compared with.
    fn alone(&self) -> u64 {
        let without = self.medians().find(|(watchers, _)| *watchers == 0);
        without.map_or(0, |(_, per_sec)| per_sec)
    }

    fn ratio(&self, per_sec: u64) -> f64 {
        per_sec as f64 / self.alone().max(1) as f64
    }
}

/// Prints all measurements.
pub(crate) fn print(rows: &[Row]) {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header([
        "engine",
        "watchers",
        "reports /s",
        "min - max",
        "with watchers : without",
    ]);
    for row in rows {
        for ((watchers, median), (_, rounds)) in row.medians().zip(&row.per_sec) {
            let least = rounds.iter().min().copied().unwrap_or(0);
            let most = rounds.iter().max().copied().unwrap_or(0);
            table.add_row([
                row.engine.to_owned(),
                watchers.to_string(),
                median.to_string(),
                format!("{least} - {most}"),
                format!("{:.2}", row.ratio(median)),
            ]);
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!(
        "Reports sent a second while a run has watchers: the median of the rounds. Every commit is durable."
    );
    println!("{table}");
    for row in rows {
        for (watchers, median) in row.medians() {
            println!(
                "bench: {} watchers-{watchers} ours={median} alone={} ratio={:.2}",
                row.engine,
                row.alone(),
                row.ratio(median)
            );
        }
    }
}
