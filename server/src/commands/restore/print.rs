//! What the command prints: what Stripe has, what was decided, and what is lost.

use std::io::Write;

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use super::entry::Entry;
use crate::{
    domain::{Millis, period::rfc3339},
    restore_look_up::ComparedHour,
};

/// The rows that are printed one by one.
const MAX_ROWS: usize = 1_000;

/// The numbers and totals of the decisions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) undecided: (usize, i64),
    pub(super) to_send: (usize, i64),
    /// Days before the backup of which Stripe had more before it.
    pub(super) left_out: usize,
    /// Whether the time before the backup was not compared, because other databases send to the same meters.
    pub(super) has_other_databases: bool,
    /// Whether nothing was compared, because another integration bills.
    pub(super) is_billed_elsewhere: bool,
}

impl Totals {
    pub(super) fn add(&mut self, hour: &ComparedHour) {
        let sum = |(number, total): (usize, i64), (more, quantity): (usize, i64)| {
            (number.saturating_add(more), total.saturating_add(quantity))
        };
        self.undecided = sum(self.undecided, hour.undecided);
        self.to_send = sum(self.to_send, hour.to_send);
    }
}

pub(super) fn print_result(
    out: &mut impl Write,
    (backup_at, restored_at): (Millis, Millis),
    entries: &[Entry],
    totals: &Totals,
    is_dry_run: bool,
) -> std::io::Result<()> {
    let (from, until) = (rfc3339(backup_at), rfc3339(restored_at));
    writeln!(out, "The backup goes until {from}.")?;
    if totals.is_billed_elsewhere {
        writeln!(
            out,
            "Another integration bills by this database, so nothing was looked up at Stripe. If a moment was named since the \
             backup from which this service bills, run this again with --bill-from and that moment. Without it, nothing is sent."
        )?;
    } else if entries.is_empty() {
        writeln!(out, "Stripe has nothing that the database lacks.")?;
    } else {
        let sum = entries.iter().fold(0_i64, |sum, entry| {
            sum.saturating_add(entry.hour.already_sent)
        });
        writeln!(out, "Stripe has {sum} units that the database lacks:")?;
        writeln!(out, "{}", table(entries))?;
        if let Some(more @ 1..) = entries.len().checked_sub(MAX_ROWS) {
            writeln!(out, "and {more} more hours")?;
        }
    }
    if totals.has_other_databases {
        writeln!(
            out,
            "Other databases send to these meters, so Stripe's totals do not show late usage that this one sent after the \
             backup for a time before it: that time was not compared."
        )?;
    }
    if totals.left_out > 0 {
        writeln!(
            out,
            "{} days before the backup were left out: Stripe had more of them than the database when the backup was \
             made. `usage-server reconcile` shows the differences.",
            totals.left_out
        )?;
    }
    let (reports, quantity) = totals.to_send;
    writeln!(
        out,
        "{reports} reports with {quantity} units are not at Stripe: they are sent."
    )?;
    let (reports, quantity) = totals.undecided;
    if reports > 0 {
        writeln!(
            out,
            "{reports} reports with {quantity} units stay `unknown`, because Stripe's totals do not show whether it has \
             them. They are looked up again every hour, and never sent without an answer. If that lasts, decide with \
             ResolveReport."
        )?;
    }
    if is_dry_run {
        writeln!(
            out,
            "A dry run does not close the reports that are open: their usage is among what Stripe has, or will be sent."
        )?;
    }
    writeln!(
        out,
        "Units counted from {from} until {until} that Stripe does not have are lost, unless callers repeat them with the \
         time of their usage and their idempotency keys. The recorder of usage-client does so with its spool by itself. \
         `usagectl import` repeats a file: delete its `.progress` file first; rows from before the backup count once. Repeated usage takes \
         the place of what is entered here, and only what Stripe lacks of its hour is sent. Also repeat changes of \
         accounts that were made in that time."
    )
}

fn table(entries: &[Entry]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "account",
        "customer",
        "meter",
        "hour",
        "Stripe",
        "database",
        "already sent",
    ]);
    for entry in entries.iter().take(MAX_ROWS) {
        table.add_row([
            entry.account_id.to_string(),
            entry.stream.customer.clone(),
            entry.stream.meter.clone(),
            rfc3339(entry.hour.hour),
            entry.hour.stripe_total.to_string(),
            entry.hour.known.to_string(),
            entry.hour.already_sent.to_string(),
        ]);
    }
    for column in 4..7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
