//! `usage-server archives verify`: compares each archive's file with its SHA-256, and its reports with the sums that they
//! were folded into, and with the decisions that are kept there. It only reads; a server may be running.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    path::{Path, PathBuf},
};

use clap::Args;
use uuid::Uuid;

use crate::{
    config::DatabaseConfig,
    domain::{
        Millis,
        account_id::AccountId,
        decision::Decided,
        report::State,
        report_archive::ReportArchive,
        report_fold::{FoldedReport, same_usage},
        window::Interval,
    },
    error::Error,
    report_archive_file::{self, Line},
    store::{Store, report_archives::StoredRows},
};

/// Differences of one file that are printed.
const MAX_SHOWN: usize = 5;

/// The flags of the command.
#[derive(Args, Debug)]
pub struct VerifyCommand {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseConfig,
    /// The folder of the archives.
    #[arg(long, env = "ARCHIVE_DIR")]
    pub archive_dir: PathBuf,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum ArchivesError {
    /// A setting is wrong, or the database cannot be used.
    #[error("{0}")]
    Failed(String),
    /// The output cannot be written.
    #[error("cannot print")]
    Print(#[from] std::io::Error),
}

impl From<Error> for ArchivesError {
    fn from(error: Error) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        Self::Failed(cause.unwrap_or_else(|| error.to_string()))
    }
}

/// Prints what is wrong with each archive, and a summary; returns whether all are as they were written.
///
/// # Errors
/// See [`ArchivesError`].
pub async fn verify(command: &VerifyCommand, out: &mut impl Write) -> Result<bool, ArchivesError> {
    let database = &command.database;
    let url = database.url().map_err(ArchivesError::Failed)?;
    let cannot = |error: sea_orm::DbErr| {
        ArchivesError::Failed(format!("the database cannot be used: {error}"))
    };
    let store = Store::open_existing(&url, database.database_connections)
        .await
        .map_err(cannot)?;
    let verified = match store.check_schema().await {
        Ok(()) => verify_all(&store, &command.archive_dir, out).await,
        Err(error) => Err(ArchivesError::Failed(error.to_string())),
    };
    store.close().await.map_err(cannot)?;
    verified
}

async fn verify_all(
    store: &Store,
    folder: &Path,
    out: &mut impl Write,
) -> Result<bool, ArchivesError> {
    // Before the archives: a file that is recorded meanwhile is one more of these, and its rows are compared below.
    let stored = store.stored_rows_by_archive().await?;
    let stored: HashMap<i64, StoredRows> = stored
        .into_iter()
        .map(|rows| (rows.archive, rows))
        .collect();
    let newest = stored.keys().max().copied().unwrap_or(0);
    let (mut archives, mut reports, mut wrong) = (0_u64, 0_i64, 0_u64);
    let mut last = 0;
    loop {
        let page = store.archives_after(last).await?;
        let Some(end) = page.last() else { break };
        last = end.number;
        for archive in page {
            let mut faults = Vec::new();
            if archive.number <= newest {
                faults.extend(total_fault(&archive, stored.get(&archive.number)));
            }
            faults.extend(file_faults(store, folder, &archive).await?);
            archives = archives.saturating_add(1);
            reports = reports.saturating_add(archive.totals.reports);
            wrong = wrong.saturating_add(u64::from(!faults.is_empty()));
            for fault in faults.iter().take(MAX_SHOWN) {
                writeln!(out, "{}: {fault}", archive.file.name)?;
            }
            let more = faults.len().saturating_sub(MAX_SHOWN);
            if more > 0 {
                writeln!(out, "{}: and {more} more", archive.file.name)?;
            }
        }
    }
    writeln!(
        out,
        "{archives} archives with {reports} reports, {wrong} with a difference"
    )?;
    Ok(wrong == 0)
}

/// Whether as much is folded as was archived.
fn total_fault(archive: &ReportArchive, stored: Option<&StoredRows>) -> Option<String> {
    let archived = StoredRows {
        archive: archive.number,
        folded_reports: archive.folded_reports,
        reports: archive.totals.reports,
        quantity: archive.totals.quantity,
    };
    (stored != Some(&archived)).then(|| {
        let shown = |rows: &StoredRows| {
            let StoredRows {
                folded_reports,
                reports,
                quantity,
                ..
            } = rows;
            format!("{folded_reports} rows of {reports} reports and {quantity} units")
        };
        let found = stored.map_or_else(|| "none".to_owned(), shown);
        format!(
            "the database has {found}; archived were {}",
            shown(&archived)
        )
    })
}

async fn file_faults(
    store: &Store,
    folder: &Path,
    archive: &ReportArchive,
) -> Result<Vec<String>, ArchivesError> {
    let path = report_archive_file::path_of(folder, &archive.file);
    let size = match std::fs::metadata(&path) {
        Ok(found) => found.len(),
        Err(error) => return Ok(vec![format!("cannot be read: {error}")]),
    };
    // Nothing larger is read.
    if i64::try_from(size) != Ok(archive.file.bytes) {
        return Ok(vec![format!(
            "has {size} bytes; {} were written",
            archive.file.bytes
        )]);
    }
    let contents = match report_archive_file::read(&path) {
        Ok(contents) => contents,
        Err(why) => return Ok(vec![why]),
    };
    if contents.sha256 != archive.file.sha256 {
        return Ok(vec![format!(
            "its SHA-256 is {}; {} was stored",
            contents.sha256, archive.file.sha256
        )]);
    }
    let sums = match sums_of(&contents.lines) {
        Ok(sums) => sums,
        Err(why) => return Ok(vec![why]),
    };
    let keys: Vec<(AccountId, Millis, Uuid)> = sums.keys().cloned().collect();
    let rows = store.folded_reports(&keys).await?;
    let mut rows: HashMap<Uuid, FoldedReport> = rows.into_iter().map(|row| (row.id, row)).collect();
    let mut faults = Vec::new();
    for ((_, _, id), sum) in &sums {
        match rows.remove(id) {
            None => faults.push(format!("its row {id} is not in the database")),
            Some(row) if !same_usage(&row, sum) => faults.push(format!(
                "its row {id} has {} units of {} reports in the database; the file has {} of {}",
                row.quantity, row.reports, sum.quantity, sum.reports
            )),
            Some(row) if row.decisions != sum.decisions => faults.push(format!(
                "its row {id} has {} in the database; the file has {}",
                decisions_of(&row),
                decisions_of(sum)
            )),
            Some(_) => {}
        }
    }
    Ok(faults)
}

/// The decisions of a row, as they are stored.
fn decisions_of(row: &FoldedReport) -> String {
    let texts = Decided::texts(&row.decisions);
    texts.map_or_else(
        || "no decision".to_owned(),
        |texts| format!("the decisions {texts}"),
    )
}

/// The sums of the reports of a file, by the row that they were folded into.
fn sums_of(lines: &[Line]) -> Result<BTreeMap<(AccountId, Millis, Uuid), FoldedReport>, String> {
    let mut sums: BTreeMap<(AccountId, Millis, Uuid), FoldedReport> = BTreeMap::new();
    for line in lines {
        let account_id = AccountId::parse(&line.account_id).map_err(|fault| fault.message)?;
        let state = State::ALL
            .into_iter()
            .find(|state| state.name() == line.state);
        let state = state.ok_or_else(|| format!("unknown state {}", line.state))?;
        let report = FoldedReport {
            account_id: account_id.clone(),
            id: line.folded_into,
            meter: line.meter.clone(),
            window: Interval {
                start: line.window_start,
                end: line.window_end,
            },
            state,
            customer: line.customer.clone(),
            event_timestamp: None,
            bill_at: None,
            sent_at: None,
            quantity: 0,
            reports: 0,
            first_at: line.first_at,
            last_at: line.last_at,
            decisions: Vec::new(),
        };
        let key = (account_id, line.window_start, line.folded_into);
        let sum = sums.entry(key).or_insert(report);
        sum.quantity = sum.quantity.saturating_add(line.quantity);
        sum.reports = sum.reports.saturating_add(1);
        sum.first_at = sum.first_at.min(line.first_at);
        sum.last_at = sum.last_at.max(line.last_at);
        sum.decisions.extend(line.decided()?);
    }
    for sum in sums.values_mut() {
        sum.decisions.sort_unstable();
    }
    Ok(sums)
}
