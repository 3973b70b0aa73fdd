//! Archives: files with the reports that were folded, one by one.

use uuid::Uuid;

use super::{Millis, report_fold::FinishedReport, window::Interval};

/// What the reports of an archive are in total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveTotals {
    /// Their number.
    pub reports: i64,
    /// The sum of their quantities.
    pub quantity: i64,
    /// From the start of the first of their windows to the end of the last.
    pub windows: Interval,
    /// The least and the greatest of their ids.
    pub ids: (Uuid, Uuid),
}

impl ArchiveTotals {
    /// The totals of some reports; `None` of none.
    pub fn of(reports: &[FinishedReport]) -> Option<Self> {
        let reports = || reports.iter().map(|finished| &finished.report);
        let ids = || reports().map(|report| report.id);
        Some(Self {
            reports: i64::try_from(reports().count()).unwrap_or(i64::MAX),
            quantity: reports().fold(0, |sum: i64, report| sum.saturating_add(report.quantity)),
            windows: Interval {
                start: reports().map(|report| report.window_start).min()?,
                end: reports().map(|report| report.window_end).max()?,
            },
            ids: (ids().min()?, ids().max()?),
        })
    }
}

/// A file as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveFile {
    /// Its name in the folder of archives.
    pub name: String,
    /// The SHA-256 of its contents, in hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: i64,
}

/// An archive that is recorded in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportArchive {
    /// Its number.
    pub number: i64,
    /// Its file.
    pub file: ArchiveFile,
    /// What is in it.
    pub totals: ArchiveTotals,
    /// The number of rows that its reports were folded into.
    pub folded_reports: i64,
    /// When it was recorded.
    pub created_at: Millis,
}

/// The part of an archive that is of one account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountArchive {
    /// The archive.
    pub archive: ReportArchive,
    /// The number of the account's reports in it.
    pub reports: i64,
    /// The sum of their quantities.
    pub quantity: i64,
    /// From the start of the first of their windows to the end of the last.
    pub windows: Interval,
}
