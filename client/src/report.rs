//! Usage reports: which ones are asked for, and what they say.

use crate::{
    Error, Period, ReportDecision, ReportState, proto,
    wire::{self, non_empty, page_size_to_wire},
};
use chrono::{DateTime, Utc};
use proto::UsageReportKind as WireKind;

/// One row of the usage table: the total of one account and meter in one window. Closed, it is sent
/// to Stripe as exactly one meter event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsageReport {
    /// A UUID of version 7, unique over all accounts.
    pub id: String,
    /// The account that used something.
    pub account_id: String,
    /// What was counted.
    pub meter: String,
    /// The window the usage happened in. Several reports may share a window: each holds what was
    /// counted while it was open.
    pub window: Period,
    /// The window's end once the report is closed; none while it counts.
    pub period_end: Option<DateTime<Utc>>,
    /// When it was closed; none while it counts.
    pub closed_at: Option<DateTime<Utc>>,
    /// The usage, in the meter's unit.
    pub quantity: i64,
    /// Where it is on its way.
    pub state: ReportState,
    /// Whether Stripe has it.
    pub reported: bool,
    /// The meter event's `identifier` at Stripe, the same on every retry.
    pub identifier: String,
    /// The Stripe customer it is billed to; none when nobody is.
    pub stripe_customer: Option<String>,
    /// The meter event's `timestamp` at Stripe; none before the first attempt.
    pub event_timestamp: Option<DateTime<Utc>>,
    /// How often it was given to Stripe.
    pub attempts: i32,
    /// When it was first given to Stripe; none while it surely has not arrived.
    pub first_sent_at: Option<DateTime<Utc>>,
    /// When Stripe took it.
    pub reported_at: Option<DateTime<Utc>>,
    /// What went wrong last, in words; none also while a forced run has it tried anew.
    pub last_error: Option<String>,
    /// The run that closed it; none when none did.
    pub run_id: Option<String>,
    /// A boundary inside the window was learned too late to cut it: the whole report belongs to the
    /// window's start.
    pub straddled: bool,
    /// What it holds.
    pub kind: ReportKind,
    /// Why a correction was entered; none for usage.
    pub note: Option<String>,
    /// Who entered a correction; none for usage.
    pub entered_by: Option<String>,
    /// When it is billed instead of in its own window's period.
    pub bill_at: Option<DateTime<Utc>>,
    /// When Stripe's totals were seen to contain it.
    pub confirmed_at: Option<DateTime<Utc>>,
    /// What admins decided on it, oldest first.
    pub decisions: Vec<ReportDecision>,
}

/// What a usage report holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReportKind {
    /// What was counted.
    Usage,
    /// What an admin added or took away.
    Correction,
    /// A kind that this version of the client does not know, by its number.
    Unrecognised(i32),
}

impl ReportKind {
    fn to_wire(self) -> i32 {
        match self {
            Self::Usage => WireKind::Usage.into(),
            Self::Correction => WireKind::Correction.into(),
            Self::Unrecognised(number) => number,
        }
    }

    fn from_wire(number: i32) -> Self {
        match WireKind::try_from(number) {
            // A server from before corrections holds nothing else.
            Ok(WireKind::Usage | WireKind::Unspecified) => Self::Usage,
            Ok(WireKind::Correction) => Self::Correction,
            Err(_) => Self::Unrecognised(number),
        }
    }
}

impl UsageReport {
    pub(crate) fn required_from_wire(report: Option<proto::UsageReport>) -> Result<Self, Error> {
        let report = report.ok_or_else(|| Error::malformed("the answer has no report"))?;
        Self::from_wire(report)
    }

    pub(crate) fn from_wire(report: proto::UsageReport) -> Result<Self, Error> {
        let time = wire::optional_time;
        Ok(Self {
            id: report.id,
            account_id: report.account_id,
            meter: report.meter,
            window: wire::required_period(report.window, "report.window")?,
            period_end: time(report.period_end, "report.period_end")?,
            closed_at: time(report.closed_at, "report.closed_at")?,
            quantity: report.quantity,
            state: ReportState::from_wire(report.state),
            reported: report.reported,
            identifier: report.identifier,
            stripe_customer: non_empty(report.stripe_customer),
            event_timestamp: time(report.event_timestamp, "report.event_timestamp")?,
            attempts: report.attempts,
            first_sent_at: time(report.first_sent_at, "report.first_sent_at")?,
            reported_at: time(report.reported_at, "report.reported_at")?,
            last_error: non_empty(report.last_error),
            run_id: non_empty(report.run_id),
            straddled: report.straddled,
            kind: ReportKind::from_wire(report.kind),
            note: non_empty(report.note),
            entered_by: non_empty(report.entered_by),
            bill_at: time(report.bill_at, "report.bill_at")?,
            confirmed_at: time(report.confirmed_at, "report.confirmed_at")?,
            decisions: report
                .decisions
                .into_iter()
                .map(ReportDecision::from_wire)
                .collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn all_from_wire(reports: Vec<proto::UsageReport>) -> Result<Vec<Self>, Error> {
        reports.into_iter().map(Self::from_wire).collect()
    }
}

/// Which usage reports are asked for; all of them, newest first, unless it is narrowed.
///
/// ```
/// use usage_client::{ListReports, ReportState};
///
/// let stuck = ListReports::new()
///     .account("acct_42")
///     .states([ReportState::Rejected, ReportState::CustomerDeleted]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "nothing is listed before it is sent"]
pub struct ListReports {
    account_id: String,
    states: Vec<ReportState>,
    run_id: String,
    kind: Option<ReportKind>,
    page_size: u32,
    page_token: String,
}

impl ListReports {
    /// The newest reports of all accounts, 100 at most.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only this account.
    pub fn account(mut self, account_id: impl Into<String>) -> Self {
        self.account_id = account_id.into();
        self
    }

    /// Only these states.
    pub fn states(mut self, states: impl IntoIterator<Item = ReportState>) -> Self {
        self.states = states.into_iter().collect();
        self
    }

    /// Only what this run closed.
    pub fn run(mut self, run_id: impl Into<String>) -> Self {
        self.run_id = run_id.into();
        self
    }

    /// Only reports that hold this.
    pub fn kind(mut self, kind: ReportKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// At most this many on a page, up to 1,000.
    pub fn page_size(mut self, page_size: u32) -> Self {
        self.page_size = page_size;
        self
    }

    /// The page after the one that gave this [`ReportPage::next_page_token`]; the filter must be the
    /// same.
    pub fn page_token(mut self, page_token: impl Into<String>) -> Self {
        self.page_token = page_token.into();
        self
    }

    pub(crate) fn into_wire(self) -> proto::ListReportsRequest {
        let states = self.states.into_iter().map(ReportState::to_wire);
        proto::ListReportsRequest {
            account_id: self.account_id,
            states: states.collect(),
            run_id: self.run_id,
            kind: self.kind.map_or(0, ReportKind::to_wire),
            page_size: page_size_to_wire(self.page_size),
            page_token: self.page_token,
        }
    }
}

/// Some usage reports, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReportPage {
    /// The reports.
    pub reports: Vec<UsageReport>,
    /// What to go on with; none when there are no more.
    pub next_page_token: Option<String>,
}

impl ReportPage {
    pub(crate) fn empty() -> Self {
        Self {
            reports: Vec::new(),
            next_page_token: None,
        }
    }

    pub(crate) fn from_wire(response: proto::ListReportsResponse) -> Result<Self, Error> {
        Ok(Self {
            reports: UsageReport::all_from_wire(response.reports)?,
            next_page_token: non_empty(response.next_page_token),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_on_the_wire_is_absent() {
        let window = proto::Period {
            start: Some(prost_types::Timestamp::default()),
            end: Some(prost_types::Timestamp::default()),
        };
        let report = UsageReport::from_wire(proto::UsageReport {
            window: Some(window),
            ..Default::default()
        })
        .unwrap();
        assert_eq!(report.stripe_customer, None);
        assert_eq!(report.last_error, None);
        assert_eq!(report.run_id, None);
        assert_eq!(report.period_end, None);
    }
}
