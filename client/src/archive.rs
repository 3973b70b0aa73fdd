//! Archives: the files with old reports that were folded into sums.

use crate::{Error, Period, proto, wire};
use chrono::{DateTime, Utc};

/// A file with old reports that are no longer listed, because they were folded into sums, and what is in it of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReportArchive {
    /// The name of the file in the server's folder of archives.
    pub file: String,
    /// The SHA-256 of its contents when it was written, in hexadecimal.
    pub sha256: String,
    /// The number of the account's reports in it.
    pub reports: i64,
    /// The sum of their quantities, of all meters.
    pub quantity: i64,
    /// From the start of the first of their windows to the end of the last.
    pub windows: Period,
    /// When they were folded.
    pub folded_at: Option<DateTime<Utc>>,
}

impl ReportArchive {
    pub(crate) fn from_wire(archive: proto::ReportArchive) -> Result<Self, Error> {
        Ok(Self {
            file: archive.file,
            sha256: archive.sha256,
            reports: archive.reports,
            quantity: archive.quantity,
            windows: wire::required_period(archive.windows, "archive.windows")?,
            folded_at: wire::optional_time(archive.folded_at, "archive.folded_at")?,
        })
    }
}
