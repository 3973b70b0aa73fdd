//! Usage reports, and lists of them.

use crate::{
    Error, Period, ReportArchive, ReportDecision, ReportState, proto,
    wire::{self, non_empty, page_size_to_wire},
};
use chrono::{DateTime, Utc};
use proto::UsageReportKind as WireKind;

/// The total of one account and meter in one window, or one correction. Once closed, it is sent to Stripe as exactly
/// one meter event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsageReport {
    /// A UUIDv7, unique over all accounts.
    pub id: String,
    /// The account whose usage this is.
    pub account_id: String,
    /// The meter.
    pub meter: String,
    /// The window in which the usage happened. Several reports may share a window; each contains what was counted while
    /// it was open.
    pub window: Period,
    /// The window's end, set when the report is closed.
    pub period_end: Option<DateTime<Utc>>,
    /// When it was closed; none while it is open.
    pub closed_at: Option<DateTime<Utc>>,
    /// The usage in the meter's unit. Only a correction can be negative.
    pub quantity: i64,
    /// Its state.
    pub state: ReportState,
    /// Whether Stripe has it: true if it is accepted, confirmed or invoiced.
    pub reported: bool,
    /// The `identifier` of its Stripe meter event, the same on every retry.
    pub identifier: String,
    /// The Stripe customer it is billed to, if there is one.
    pub stripe_customer: Option<String>,
    /// The `timestamp` of its Stripe meter event; none before the first attempt.
    pub event_timestamp: Option<DateTime<Utc>>,
    /// How many times it was sent to Stripe.
    pub attempts: i32,
    /// When it was first sent to Stripe; none as long as it cannot have arrived.
    pub first_sent_at: Option<DateTime<Utc>>,
    /// When Stripe accepted it.
    pub reported_at: Option<DateTime<Utc>>,
    /// The last error, as text; none while a forced run sends it again.
    pub last_error: Option<String>,
    /// The report run that closed it, if one did.
    pub run_id: Option<String>,
    /// Whether a boundary inside the window became known too late to split the window. The whole report then counts as
    /// usage of its first increment's time.
    pub straddled: bool,
    /// Whether it is counted usage or a correction.
    pub kind: ReportKind,
    /// Why a correction was entered; none for usage.
    pub note: Option<String>,
    /// Who entered a correction; none for usage.
    pub entered_by: Option<String>,
    /// The time in whose billing period it is billed instead of its window's, if one was chosen.
    pub bill_at: Option<DateTime<Utc>>,
    /// When Stripe's meter totals were first found to include it.
    pub confirmed_at: Option<DateTime<Utc>>,
    /// The decisions of admins on it, oldest first.
    pub decisions: Vec<ReportDecision>,
    /// Whether another integration bills it: it shows the meter event that would be sent, and is never sent.
    pub billed_elsewhere: bool,
}

/// What the quantity of a usage report consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReportKind {
    /// Counted usage.
    Usage,
    /// A correction that an admin entered.
    Correction,
    /// Usage that Stripe had and a restored backup lacked. It is counted and shown, and never sent.
    AlreadySent,
    /// A kind that this version of the client does not know, by its number.
    Unrecognised(i32),
}

impl ReportKind {
    fn to_wire(self) -> i32 {
        match self {
            Self::Usage => WireKind::Usage.into(),
            Self::Correction => WireKind::Correction.into(),
            Self::AlreadySent => WireKind::AlreadySent.into(),
            Self::Unrecognised(number) => number,
        }
    }

    fn from_wire(number: i32) -> Self {
        match WireKind::try_from(number) {
            // A server without corrections does not set it.
            Ok(WireKind::Usage | WireKind::Unspecified) => Self::Usage,
            Ok(WireKind::Correction) => Self::Correction,
            Ok(WireKind::AlreadySent) => Self::AlreadySent,
            Err(_) => Self::Unrecognised(number),
        }
    }
}

impl UsageReport {
    pub(crate) fn required_from_wire(report: Option<proto::UsageReport>) -> Result<Self, Error> {
        let report = report.ok_or_else(|| Error::malformed("`report` is missing"))?;
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
            billed_elsewhere: report.billed_elsewhere,
        })
    }

    pub(crate) fn all_from_wire(reports: Vec<proto::UsageReport>) -> Result<Vec<Self>, Error> {
        reports.into_iter().map(Self::from_wire).collect()
    }
}

/// Selects usage reports: by default all of them. Those of one account are listed newest first; those of all accounts the
/// open ones first, then the closed ones, the latest closed first.
///
/// ```
/// use usage_client::{ListReports, ReportState};
///
/// let stuck = ListReports::new()
///     .account("acct_42")
///     .states([ReportState::Rejected, ReportState::CustomerDeleted]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "nothing is listed until it is sent"]
pub struct ListReports {
    account_id: String,
    states: Vec<ReportState>,
    run_id: String,
    kind: Option<ReportKind>,
    meter: String,
    stripe_customer: String,
    from: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    decided_from: Option<DateTime<Utc>>,
    decided_until: Option<DateTime<Utc>>,
    page_size: u32,
    page_token: String,
}

impl ListReports {
    /// The newest reports of all accounts, at most 100 per page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only reports of this account.
    pub fn account(mut self, account_id: impl Into<String>) -> Self {
        self.account_id = account_id.into();
        self
    }

    /// Only reports in these states.
    pub fn states(mut self, states: impl IntoIterator<Item = ReportState>) -> Self {
        self.states = states.into_iter().collect();
        self
    }

    /// Only reports that this run closed.
    pub fn run(mut self, run_id: impl Into<String>) -> Self {
        self.run_id = run_id.into();
        self
    }

    /// Only reports of this kind.
    pub fn kind(mut self, kind: ReportKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Only reports of this meter.
    pub fn meter(mut self, meter: impl Into<String>) -> Self {
        self.meter = meter.into();
        self
    }

    /// Only reports that are billed to this Stripe customer, `cus_...`. Open reports have no customer yet.
    pub fn customer(mut self, customer: impl Into<String>) -> Self {
        self.stripe_customer = customer.into();
        self
    }

    /// Only reports whose window begins at this time or later.
    pub fn from(mut self, from: DateTime<Utc>) -> Self {
        self.from = Some(from);
        self
    }

    /// Only reports whose window begins before this time.
    pub fn until(mut self, until: DateTime<Utc>) -> Self {
        self.until = Some(until);
        self
    }

    /// Only reports on which an admin decided at this time or later; [`DateTime::UNIX_EPOCH`] selects all of them. Of one
    /// [`account`](Self::account).
    pub fn decided_from(mut self, from: DateTime<Utc>) -> Self {
        self.decided_from = Some(from);
        self
    }

    /// Only reports on which an admin decided before this time. Of one [`account`](Self::account).
    pub fn decided_until(mut self, until: DateTime<Utc>) -> Self {
        self.decided_until = Some(until);
        self
    }

    /// The maximum number of reports on the page, up to 1,000. With a meter or a time, and neither account nor customer, a
    /// page can have fewer, or none, without being the last.
    pub fn page_size(mut self, page_size: u32) -> Self {
        self.page_size = page_size;
        self
    }

    /// The page that follows the one with this [`ReportPage::next_page_token`], for the same filter.
    pub fn page_token(mut self, page_token: impl Into<String>) -> Self {
        self.page_token = page_token.into();
        self
    }

    pub(crate) fn into_wire(self) -> Result<proto::ListReportsRequest, Error> {
        let states = self.states.into_iter().map(ReportState::to_wire);
        let time = wire::optional_time_to_wire;
        Ok(proto::ListReportsRequest {
            account_id: self.account_id,
            states: states.collect(),
            run_id: self.run_id,
            kind: self.kind.map_or(0, ReportKind::to_wire),
            page_size: page_size_to_wire(self.page_size),
            page_token: self.page_token,
            meter: self.meter,
            stripe_customer: self.stripe_customer,
            from: time(self.from, "from")?,
            until: time(self.until, "until")?,
            decided_from: time(self.decided_from, "decided_from")?,
            decided_until: time(self.decided_until, "decided_until")?,
        })
    }
}

/// A page of usage reports.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReportPage {
    /// The reports.
    pub reports: Vec<UsageReport>,
    /// The token of the next page; none on the last page.
    pub next_page_token: Option<String>,
    /// On the last page of an account's reports: where its older reports are, which were folded into sums. Newest first.
    pub archives: Vec<ReportArchive>,
}

impl ReportPage {
    pub(crate) fn empty() -> Self {
        Self {
            reports: Vec::new(),
            next_page_token: None,
            archives: Vec::new(),
        }
    }

    pub(crate) fn from_wire(response: proto::ListReportsResponse) -> Result<Self, Error> {
        Ok(Self {
            reports: UsageReport::all_from_wire(response.reports)?,
            next_page_token: non_empty(response.next_page_token),
            archives: response
                .archives
                .into_iter()
                .map(ReportArchive::from_wire)
                .collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_texts_are_absent() {
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
