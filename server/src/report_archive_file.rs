//! The files of archives: one JSON object a line, first one that describes the file and then one for each report, with every
//! column and its decisions. Times are milliseconds of Unix time. A file is written once and never changed.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use chrono::DateTime;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    domain::{
        Millis,
        decision::{Action, Decided, Decision},
        hex::hex,
        report_archive::{ArchiveFile, ArchiveTotals},
        report_fold::{FinishedReport, Fold},
    },
    durable_file::{self, UNFINISHED},
};

/// What the file's first line begins with, so that another program knows it.
const FORMAT: &str = "usage-report-archive";
/// The version of the format.
const VERSION: u32 = 1;
/// How the names of archives begin and end.
const PREFIX: &str = "usage-reports_";
const SUFFIX: &str = ".jsonl";

/// The first line.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Header {
    format: String,
    version: u32,
    /// The database's id, which a copy of it has too.
    database: Uuid,
    /// The number of lines that follow.
    reports: i64,
    quantity: i64,
    /// The start of the first window.
    first_window: Millis,
    /// The end of the last window.
    last_window_end: Millis,
    written_at: Millis,
}

/// The line of a report.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    pub(crate) account_id: String,
    pub(crate) id: Uuid,
    /// The id of the row that it was folded into.
    pub(crate) folded_into: Uuid,
    pub(crate) meter: String,
    pub(crate) window_start: Millis,
    pub(crate) window_end: Millis,
    period_end: Option<Millis>,
    closed_at: Option<Millis>,
    pub(crate) quantity: i64,
    pub(crate) first_at: Millis,
    pub(crate) last_at: Millis,
    pub(crate) state: String,
    straddled: bool,
    generation: i32,
    event_timestamp: Option<Millis>,
    pub(crate) customer: Option<String>,
    attempts: i32,
    next_attempt_at: Option<Millis>,
    send_by: Option<Millis>,
    first_sent_at: Option<Millis>,
    last_sent_at: Option<Millis>,
    reported_at: Option<Millis>,
    last_error: Option<String>,
    run_id: Option<Uuid>,
    kind: String,
    note: Option<String>,
    entered_by: Option<String>,
    bill_at: Option<Millis>,
    confirmed_at: Option<Millis>,
    looked_up_at: Option<Millis>,
    decisions: Vec<DecisionPart>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct DecisionPart {
    action: String,
    reason: String,
    requested_by: String,
    from_state: String,
    generation: i32,
    decided_at: Millis,
}

/// What a file contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) sha256: String,
    pub(crate) lines: Vec<Line>,
}

/// The reports of a file to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewArchive<'a> {
    pub(crate) database: Uuid,
    pub(crate) reports: &'a [FinishedReport],
    pub(crate) fold: &'a Fold,
    pub(crate) now: Millis,
}

/// Writes an archive to a new file of a folder. When it returns, the file is on the disk under its name.
///
/// # Errors
/// The folder or the file cannot be written. Nothing is left under the file's name.
pub(crate) fn write(folder: &Path, archive: &NewArchive<'_>) -> io::Result<ArchiveFile> {
    let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidInput, what);
    let totals = ArchiveTotals::of(archive.reports).ok_or_else(|| invalid("no reports"))?;
    let name = new_name(totals.windows.start);
    let written = durable_file::write_new(folder, &name, |out| write_lines(out, archive, &totals))?;
    Ok(ArchiveFile {
        name,
        sha256: written.sha256,
        bytes: i64::try_from(written.bytes).unwrap_or(i64::MAX),
    })
}

/// A name that no other file has, by the time of the oldest usage in it.
fn new_name(first_window: Millis) -> String {
    let date = DateTime::from_timestamp_millis(first_window)
        .map(|at| at.format("%Y-%m-%d").to_string())
        .unwrap_or_default();
    format!("{PREFIX}{date}_{}{SUFFIX}", Uuid::now_v7().simple())
}

fn write_lines(
    mut out: &mut dyn Write,
    archive: &NewArchive<'_>,
    totals: &ArchiveTotals,
) -> io::Result<()> {
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        database: archive.database,
        reports: totals.reports,
        quantity: totals.quantity,
        first_window: totals.windows.start,
        last_window_end: totals.windows.end,
        written_at: archive.now,
    };
    write_line(&mut out, &header)?;
    for finished in archive.reports {
        let row = archive.fold.row_of.get(&finished.report.id).copied();
        let folded_into = row.ok_or_else(|| io::Error::other("a report is in no row"))?;
        write_line(&mut out, &Line::of(finished, folded_into))?;
    }
    Ok(())
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

impl Line {
    fn of(finished: &FinishedReport, folded_into: Uuid) -> Self {
        let report = &finished.report;
        Self {
            account_id: report.account_id.to_string(),
            id: report.id,
            folded_into,
            meter: report.meter.clone(),
            window_start: report.window_start,
            window_end: report.window_end,
            period_end: report.period_end,
            closed_at: report.closed_at,
            quantity: report.quantity,
            first_at: report.first_at,
            last_at: report.last_at,
            state: report.state.name().to_owned(),
            straddled: report.straddled,
            generation: report.generation,
            event_timestamp: report.event_timestamp,
            customer: report.customer.clone(),
            attempts: report.attempts,
            next_attempt_at: finished.next_attempt_at,
            send_by: finished.send_by,
            first_sent_at: report.first_sent_at,
            last_sent_at: report.last_sent_at,
            reported_at: report.reported_at,
            last_error: report.last_error.clone(),
            run_id: report.run_id,
            kind: report.kind.name().to_owned(),
            note: report.note.clone(),
            entered_by: report.entered_by.clone(),
            bill_at: report.bill_at,
            confirmed_at: report.confirmed_at,
            looked_up_at: report.looked_up_at,
            decisions: finished.decisions.iter().map(DecisionPart::from).collect(),
        }
    }
}

impl Line {
    /// When and what admins decided on the report.
    ///
    /// # Errors
    /// In words: an action is not known.
    pub(crate) fn decided(&self) -> Result<Vec<Decided>, String> {
        let parts = self.decisions.iter();
        let decided = parts.map(|part| {
            let action = Action::ALL
                .into_iter()
                .find(|action| action.name() == part.action);
            let action = action.ok_or_else(|| format!("unknown action {}", part.action))?;
            Ok(Decided {
                at: part.decided_at,
                action,
            })
        });
        decided.collect()
    }
}

impl From<&Decision> for DecisionPart {
    fn from(decision: &Decision) -> Self {
        Self {
            action: decision.action.name().to_owned(),
            reason: decision.reason.clone(),
            requested_by: decision.requested_by.clone(),
            from_state: decision.from_state.name().to_owned(),
            generation: decision.generation,
            decided_at: decision.decided_at,
        }
    }
}

/// The path of an archive's file.
pub(crate) fn path_of(folder: &Path, file: &ArchiveFile) -> PathBuf {
    folder.join(&file.name)
}

/// Reads a file in memory. The caller has compared its size, which is small, with the stored one.
///
/// # Errors
/// In words: it cannot be read, or is no archive that this version can read.
pub(crate) fn read(path: &Path) -> Result<Contents, String> {
    let bytes = fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    let sha256 = hex(&Sha256::digest(&bytes));
    let text = std::str::from_utf8(&bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let mut texts = text.lines();
    let header: Header = parsed(texts.next().unwrap_or_default(), 1)?;
    if header.format != FORMAT || header.version != VERSION {
        return Err(format!(
            "is of format {} version {}, not {FORMAT} version {VERSION}",
            header.format, header.version
        ));
    }
    let lines: Vec<Line> = (2_usize..)
        .zip(texts)
        .map(|(number, text)| parsed(text, number))
        .collect::<Result<_, _>>()?;
    if usize::try_from(header.reports) != Ok(lines.len()) {
        return Err(format!(
            "has {} reports, and its first line says {}",
            lines.len(),
            header.reports
        ));
    }
    Ok(Contents { sha256, lines })
}

fn parsed<'a, T: Deserialize<'a>>(text: &'a str, number: usize) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("line {number} cannot be read: {error}"))
}

/// The names of the files of a folder that are archives, whole or not.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let whole = name.strip_suffix(UNFINISHED).unwrap_or(&name);
        if whole.starts_with(PREFIX) && whole.ends_with(SUFFIX) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether files can be written in a folder: writes an empty one, and removes it.
///
/// # Errors
/// They cannot.
pub(crate) fn check_writable(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!(".usage-server_{}", Uuid::now_v7().simple()));
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    fs::remove_file(path)
}
