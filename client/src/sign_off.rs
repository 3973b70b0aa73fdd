//! The sign-off of a month for finance: whether it is closed, its totals, and its file.

use crate::{Error, Period, proto, wire};
use proto::export_sign_off_response::Part;
use tonic::Streaming;

/// A calendar month in UTC: whether it is closed, and its totals.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignOff {
    /// The month, such as `2026-10`.
    pub month: String,
    /// Its first moment, and that of the next month.
    pub period: Period,
    /// Whether the month is over and nothing more is expected to happen to its usage.
    pub closed: bool,
    /// Why it is not closed, in words; empty if it is.
    pub reasons: Vec<String>,
    /// The totals of each meter with usage in the month, in the order of their names.
    pub meters: Vec<SignOffTotals>,
    /// The totals of all meters.
    pub total: SignOffTotals,
    /// What is exported as CSV now.
    pub csv: SignOffFile,
    /// What is exported as JSON lines now.
    pub json_lines: SignOffFile,
}

/// Sums of the usage of a month.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SignOffTotals {
    /// The meter; empty in the total of all.
    pub meter: String,
    /// The number of usage reports.
    pub reports: i64,
    /// What increments counted.
    pub counted: i64,
    /// What Stripe had and a restored backup lacked.
    pub already_sent: i64,
    /// The corrections, each with its sign.
    pub corrected: i64,
    /// What is never billed.
    pub not_billable: i64,
    /// What admins decided not to bill.
    pub written_off: i64,
    /// What Stripe accepted.
    pub reported: i64,
    /// What Stripe's totals contain.
    pub confirmed: i64,
    /// What final invoices charge.
    pub invoiced: i64,
    /// What no final invoice charges, in billing periods whose difference an admin acknowledged.
    pub acknowledged: i64,
    /// What is not accounted for.
    pub difference: i64,
    /// What is still counted.
    pub open: i64,
    /// What is closed and not accepted by Stripe yet.
    pub to_send: i64,
    /// What waits for a link.
    pub no_customer: i64,
    /// What needs a decision of an admin.
    pub needs_decision: i64,
    /// How many decisions admins made on the reports.
    pub decisions: i64,
}

/// What a file of a month consists of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SignOffFile {
    /// The number of rows, with those that are totals and without the names of CSV.
    pub rows: i64,
    /// The SHA-256 of all its bytes, in hexadecimal digits.
    pub sha256: String,
}

/// Asks for the file of a month.
///
/// ```
/// use usage_client::ExportSignOff;
///
/// let closed = ExportSignOff::csv("2026-10");
/// let as_it_is = ExportSignOff::json_lines("2026-10").open();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is exported until it is sent"]
pub struct ExportSignOff(proto::ExportSignOffRequest);

impl ExportSignOff {
    /// As CSV.
    pub fn csv(month: impl Into<String>) -> Self {
        Self::of(month.into(), proto::SignOffFormat::Csv)
    }

    /// As JSON lines.
    pub fn json_lines(month: impl Into<String>) -> Self {
        Self::of(month.into(), proto::SignOffFormat::JsonLines)
    }

    /// Also a month that is not closed, as it is.
    pub fn open(mut self) -> Self {
        self.0.open = true;
        self
    }

    fn of(month: String, format: proto::SignOffFormat) -> Self {
        Self(proto::ExportSignOffRequest {
            month,
            format: format.into(),
            open: false,
        })
    }

    pub(crate) fn into_wire(self) -> proto::ExportSignOffRequest {
        self.0
    }
}

/// The file of a month, part by part.
///
/// Dropping it ends the export. There is no deadline between two parts; keep-alive detects a lost server, and the server ends an
/// export of which a part is not read for a minute.
#[derive(Debug)]
#[must_use = "read the parts, or nothing is exported"]
pub struct SignOffExport {
    stream: Streaming<proto::ExportSignOffResponse>,
    file: Option<SignOffFile>,
}

impl SignOffExport {
    pub(crate) fn open(stream: Streaming<proto::ExportSignOffResponse>) -> Self {
        Self { stream, file: None }
    }

    /// The next bytes; none after the last ones.
    ///
    /// # Errors
    /// The month is not closed, the server fails, or it is lost: what was read before is not complete.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        while self.file.is_none() {
            let message = self.stream.message().await?;
            let message = message
                .ok_or_else(|| Error::cut_off("the stream ended before the end of the file"))?;
            match message.part {
                Some(Part::Data(bytes)) => return Ok(Some(bytes)),
                Some(Part::End(file)) => self.file = Some(file.into()),
                // A part that this version does not know.
                None => {}
            }
        }
        Ok(None)
    }

    /// What was exported; none until the last bytes were read.
    pub fn file(&self) -> Option<&SignOffFile> {
        self.file.as_ref()
    }
}

impl SignOff {
    pub(crate) fn from_wire(response: proto::GetSignOffResponse) -> Result<Self, Error> {
        Ok(Self {
            month: response.month,
            period: wire::required_period(response.period, "period")?,
            closed: response.closed,
            reasons: response.reasons,
            meters: response.meters.into_iter().map(Into::into).collect(),
            total: response.total.unwrap_or_default().into(),
            csv: response.csv.unwrap_or_default().into(),
            json_lines: response.json_lines.unwrap_or_default().into(),
        })
    }
}

impl From<proto::SignOffFile> for SignOffFile {
    fn from(file: proto::SignOffFile) -> Self {
        Self {
            rows: file.rows,
            sha256: file.sha256,
        }
    }
}

impl From<proto::SignOffTotals> for SignOffTotals {
    fn from(totals: proto::SignOffTotals) -> Self {
        Self {
            meter: totals.meter,
            reports: totals.reports,
            counted: totals.counted,
            already_sent: totals.already_sent,
            corrected: totals.corrected,
            not_billable: totals.not_billable,
            written_off: totals.written_off,
            reported: totals.reported,
            confirmed: totals.confirmed,
            invoiced: totals.invoiced,
            acknowledged: totals.acknowledged,
            difference: totals.difference,
            open: totals.open,
            to_send: totals.to_send,
            no_customer: totals.no_customer,
            needs_decision: totals.needs_decision,
            decisions: totals.decisions,
        }
    }
}
