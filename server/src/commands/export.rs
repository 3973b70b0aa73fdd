//! `usage-server export`: writes audit entries, runs, decisions or reports, as JSON lines or CSV. It only reads, page by page; a
//! server may be running.

use std::{
    collections::HashSet,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use super::{keys::open, reconcile::parse_time};
use crate::{
    config::DatabaseConfig,
    domain::{
        Millis, account_id::AccountId, audit::EntryFilter, decision::RecordedDecision,
        report::State,
    },
    durable_file::NewFile,
    error::Error,
    record::Record,
    store::{Store, report_filter::ReportFilter},
};

/// Rows that are read at once: memory is bounded by them.
const PAGE: u64 = 1_000;

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// What admins did, tried and were refused; newest first.
    Audit,
    /// Runs of the reporter; oldest first.
    Runs,
    /// Admins' decisions on reports, by account.
    Decisions,
    /// Usage reports that are not folded: the open ones, then the closed ones, the latest first.
    Reports,
}

/// How a row is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A JSON object a line.
    Jsonl,
    /// CSV with a first line of names.
    Csv,
}

/// The flags of the command.
#[derive(Args, Debug)]
pub struct ExportCommand {
    /// What to export.
    pub kind: Kind,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseConfig,
    /// JSON lines, or CSV.
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    pub format: Format,
    /// A new file, which only its owner can read. Default: standard output.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Only what is of this time or later: a date or an RFC 3339 time. Of a report, the start of its window counts.
    #[arg(long, value_parser = parse_time)]
    pub from: Option<Millis>,
    /// Only what is from before this time.
    #[arg(long, value_parser = parse_time)]
    pub until: Option<Millis>,
    /// Only what is about this account. Runs are about all.
    #[arg(long)]
    pub account: Option<String>,
}

/// Why nothing, or not all, was exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A setting is wrong, or the database cannot be used.
    #[error("{0}")]
    Failed(String),
    /// An account was deleted meanwhile: its rows have other places, and some may be missing.
    #[error("an account was deleted meanwhile, so rows of it may be missing: export again")]
    AccountDeleted,
    /// The file cannot be written.
    #[error("{}: {error}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The output cannot be written.
    #[error("cannot print")]
    Print(#[from] io::Error),
}

impl From<Error> for ExportError {
    fn from(error: Error) -> Self {
        Self::Failed(error.cause())
    }
}

/// Exports. Returns the number of rows.
///
/// # Errors
/// See [`ExportError`]. There is no file then, unless it existed before.
pub async fn run(
    command: &ExportCommand,
    stdout: &mut (impl Write + Send),
) -> Result<u64, ExportError> {
    let account = match &command.account {
        None => None,
        Some(_) if command.kind == Kind::Runs => {
            return Err(ExportError::Failed(
                "--account: a run is of several accounts; leave it out".to_owned(),
            ));
        }
        Some(account) => Some(
            AccountId::parse_field("--account", account)
                .map_err(|violation| ExportError::Failed(violation.message))?,
        ),
    };
    let store = open(&command.database).await.map_err(ExportError::Failed)?;
    let selection = Selection {
        from: command.from,
        until: command.until,
        account,
    };
    let exported = match &command.out {
        None => {
            let mut out = BufWriter::new(stdout);
            let exported = export(&store, command, &selection, &mut out).await;
            exported.and_then(|rows| Ok(out.flush().map(|()| rows)?))
        }
        Some(file) => to_file(&store, command, &selection, file).await,
    };
    let closed = store.close().await;
    let rows = exported?;
    closed.map_err(|error| ExportError::Failed(error.to_string()))?;
    Ok(rows)
}

async fn to_file(
    store: &Store,
    command: &ExportCommand,
    selection: &Selection,
    file: &Path,
) -> Result<u64, ExportError> {
    let of_file = |error| ExportError::File {
        file: file.to_owned(),
        error,
    };
    // An existing file is never overwritten, and one with only a part of the rows never has this name.
    let mut out = NewFile::create(file).map_err(of_file)?;
    match export(store, command, selection, &mut out).await {
        Ok(rows) => out.finish().map(|()| rows).map_err(of_file),
        Err(ExportError::Print(error)) => Err(of_file(error)),
        Err(other) => Err(other),
    }
}

/// What is exported of a kind.
struct Selection {
    from: Option<Millis>,
    until: Option<Millis>,
    account: Option<AccountId>,
}

impl Selection {
    fn includes(&self, at: Millis) -> bool {
        self.from.is_none_or(|from| at >= from) && self.until.is_none_or(|until| at < until)
    }

    fn is_of_account(&self, decision: &RecordedDecision) -> bool {
        let account = self.account.as_ref();
        account.is_none_or(|account| *account == decision.account_id)
    }
}

/// Writes rows in a format.
struct Writer<'a, W> {
    out: &'a mut W,
    format: Format,
    rows: u64,
}

impl<W: Write> Writer<'_, W> {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        match self.format {
            Format::Jsonl => record.write_json(self.out)?,
            Format::Csv => {
                if self.rows == 0 {
                    record.write_csv_names(self.out)?;
                }
                record.write_csv(self.out)?;
            }
        }
        self.rows = self.rows.saturating_add(1);
        Ok(())
    }
}

async fn export<W: Write>(
    store: &Store,
    command: &ExportCommand,
    selection: &Selection,
    out: &mut W,
) -> Result<u64, ExportError> {
    let mut writer = Writer {
        out,
        format: command.format,
        rows: 0,
    };
    let deletions = store.deletions_seen().await?;
    match command.kind {
        Kind::Audit => audit(store, selection, &mut writer).await?,
        Kind::Runs => runs(store, selection, &mut writer).await?,
        Kind::Decisions => decisions(store, selection, &mut writer).await?,
        Kind::Reports => reports(store, selection, &mut writer).await?,
    }
    let moves_rows = matches!(command.kind, Kind::Decisions | Kind::Reports);
    if moves_rows && store.deletions_seen().await? != deletions {
        return Err(ExportError::AccountDeleted);
    }
    Ok(writer.rows)
}

async fn audit<W: Write>(
    store: &Store,
    selection: &Selection,
    writer: &mut Writer<'_, W>,
) -> Result<(), ExportError> {
    let filter = EntryFilter {
        from: selection.from,
        until: selection.until,
        account_id: selection.account.as_ref().map(ToString::to_string),
        ..EntryFilter::default()
    };
    let mut after = None;
    loop {
        let page = store.list_audit_entries(&filter, after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some((last.at, last.id));
        for entry in &page {
            writer.write(&Record::from(entry))?;
        }
    }
}

async fn runs<W: Write>(
    store: &Store,
    selection: &Selection,
    writer: &mut Writer<'_, W>,
) -> Result<(), ExportError> {
    let mut after = None;
    loop {
        let page = store.runs_after(after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.id);
        for run in page.iter().filter(|run| selection.includes(run.started_at)) {
            writer.write(&Record::from(run))?;
        }
    }
}

async fn decisions<W: Write>(
    store: &Store,
    selection: &Selection,
    writer: &mut Writer<'_, W>,
) -> Result<(), ExportError> {
    let mut after: Option<(AccountId, uuid::Uuid)> = None;
    loop {
        let place = after.as_ref().map(|(account, id)| (account, *id));
        let page = store.list_decisions(place, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some((last.account_id.clone(), last.id));
        let selected = page.iter().filter(|one| {
            selection.is_of_account(one) && selection.includes(one.decision.decided_at)
        });
        for decision in selected {
            writer.write(&Record::from(decision))?;
        }
    }
}

async fn reports<W: Write>(
    store: &Store,
    selection: &Selection,
    writer: &mut Writer<'_, W>,
) -> Result<(), ExportError> {
    let filter = ReportFilter {
        account_id: selection.account.clone(),
        ..ReportFilter::default()
    };
    let mut after = None;
    // The open ones come first. One that is closed meanwhile is listed again then. An id has 16 bytes, and there are as many
    // as accounts and meters in use at once.
    let mut open = HashSet::new();
    loop {
        let page = store.list_reports(&filter, after.as_ref(), PAGE).await?;
        let last = page.reports.last().map(|last| last.place.clone());
        after = page.read_to.or(last);
        if after.is_none() {
            return Ok(());
        }
        let reports = page.reports.iter().map(|listed| &listed.report);
        for report in reports.filter(|report| selection.includes(report.window_start)) {
            if report.state == State::Open {
                open.insert(report.id);
            } else if open.contains(&report.id) {
                continue;
            }
            writer.write(&Record::from(report))?;
        }
    }
}
