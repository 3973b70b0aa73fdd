//! `usagectl sign-off`: whether a month is closed, its totals, and its file for finance.

use super::{
    Streams,
    exit::Failure,
    new_file::NewFile,
    output::{Format, Rows, print_json},
};
use crate::{Error, ExportSignOff, SignOff, SignOffFile, SignOffTotals, UsageClient};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    fmt::Write as _,
    io::Write,
    path::{Path, PathBuf},
};

const COLUMNS: [&str; 17] = [
    "meter",
    "reports",
    "counted",
    "already_sent",
    "corrected",
    "not_billable",
    "written_off",
    "reported",
    "confirmed",
    "invoiced",
    "acknowledged",
    "difference",
    "open",
    "to_send",
    "no_customer",
    "needs_decision",
    "decisions",
];

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The calendar month in UTC, such as 2026-10
    month: String,
    /// Export a row for each account, customer and meter
    #[arg(long, value_enum, value_name = "FORM", conflicts_with_all = ["json", "csv"])]
    export: Option<Form>,
    /// Write a new file, which only you can read, instead of the standard output
    #[arg(long, value_name = "FILE", requires = "export")]
    output: Option<PathBuf>,
    /// Export also a month that is not closed, as it is
    #[arg(long, requires = "export")]
    open: bool,
    #[command(flatten)]
    format: Format,
}

/// The form of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// CSV
    Csv,
    /// JSON lines
    Jsonl,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let Some(form) = arguments.export else {
        let found = client.sign_off(arguments.month).await?;
        return show(&found, arguments.format, streams);
    };
    let mut wanted = match form {
        Form::Csv => ExportSignOff::csv(arguments.month),
        Form::Jsonl => ExportSignOff::json_lines(arguments.month),
    };
    if arguments.open {
        wanted = wanted.open();
    }
    let (name, file) = match arguments.output {
        None => {
            let file = write(client, wanted, &mut streams.out).await?;
            ("standard output".to_owned(), file)
        }
        Some(path) => {
            let file = write_file(client, wanted, &path).await?;
            (path.display().to_string(), file)
        }
    };
    let SignOffFile { rows, sha256 } = file;
    Ok(writeln!(
        streams.err,
        "{name}: {rows} rows; SHA-256 {sha256}"
    )?)
}

fn show(found: &SignOff, format: Format, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let mut rows = Rows::new(&COLUMNS);
    for totals in &found.meters {
        rows.push(cells(totals));
    }
    rows.push(cells(&found.total));
    if format.json {
        let file = |file: &SignOffFile| json!({ "rows": file.rows, "sha256": file.sha256 });
        let found = json!({
            "month": found.month,
            "closed": found.closed,
            "reasons": found.reasons,
            "totals": rows.json(),
            "csv": file(&found.csv),
            "jsonl": file(&found.json_lines),
        });
        return print_json(&found, streams);
    }
    rows.print(format, streams)?;
    if found.closed {
        writeln!(streams.err, "month {} is closed", found.month)?;
        writeln!(streams.err, "SHA-256 as CSV: {}", found.csv.sha256)?;
        let lines = &found.json_lines.sha256;
        writeln!(streams.err, "SHA-256 as JSON lines: {lines}")?;
    }
    for reason in &found.reasons {
        writeln!(streams.err, "not closed: {reason}")?;
    }
    Ok(())
}

/// The values of [`COLUMNS`].
fn cells(totals: &SignOffTotals) -> Vec<Value> {
    let meter = if totals.meter.is_empty() {
        "total"
    } else {
        &totals.meter
    };
    let mut cells = vec![json!(meter)];
    let figures = [
        totals.reports,
        totals.counted,
        totals.already_sent,
        totals.corrected,
        totals.not_billable,
        totals.written_off,
        totals.reported,
        totals.confirmed,
        totals.invoiced,
        totals.acknowledged,
        totals.difference,
        totals.open,
        totals.to_send,
        totals.no_customer,
        totals.needs_decision,
        totals.decisions,
    ];
    cells.extend(figures.map(|figure| json!(figure)));
    cells
}

/// Exports to a new file, which is on the disk in the end.
async fn write_file(
    client: &UsageClient,
    wanted: ExportSignOff,
    path: &Path,
) -> Result<SignOffFile, Failure> {
    let mut new = NewFile::create(path)?;
    let file = write(client, wanted, &mut new).await?;
    new.finish()?;
    Ok(file)
}

/// Writes the parts, and compares what was written with what the server sent.
async fn write(
    client: &UsageClient,
    wanted: ExportSignOff,
    out: &mut impl Write,
) -> Result<SignOffFile, Failure> {
    let mut export = client.export_sign_off(wanted).await?;
    let mut sha256 = Sha256::new();
    while let Some(bytes) = export.next().await? {
        sha256.update(&bytes);
        out.write_all(&bytes)?;
    }
    let file = export.file().cloned().unwrap_or_default();
    let mut written = String::new();
    for byte in sha256.finalize() {
        let _written = write!(written, "{byte:02x}");
    }
    if written == file.sha256 {
        return Ok(file);
    }
    let message = format!(
        "what arrived has the SHA-256 {written}, and the server sent {}",
        file.sha256
    );
    Err(Error::malformed(message).into())
}
