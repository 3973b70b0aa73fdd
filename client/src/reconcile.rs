//! The comparison of counted usage, reported usage and Stripe's totals.

use crate::{
    DifferenceAcknowledgement, Error, Period, ReportState, proto,
    wire::{self, non_empty, page_size_to_wire},
};
use chrono::{DateTime, Utc};
use std::fmt;

/// Selects what to compare: by default the current billing periods of all accounts.
///
/// ```
/// use usage_client::Reconcile;
///
/// let of_one = Reconcile::new().account("acct_42");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "nothing is compared until it is sent"]
pub struct Reconcile {
    account_id: String,
    period: Option<Period>,
    page_size: u32,
    page_token: String,
}

impl Reconcile {
    /// All accounts, at most 10 per page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only this account.
    pub fn account(mut self, account_id: impl Into<String>) -> Self {
        self.account_id = account_id.into();
        self
    }

    /// All billing periods that overlap the time from `start` until just before `end`.
    pub fn period(
        mut self,
        start: impl Into<DateTime<Utc>>,
        end: impl Into<DateTime<Utc>>,
    ) -> Self {
        self.period = Some(Period::new(start, end));
        self
    }

    /// The maximum number of accounts on the page, up to 50.
    pub fn page_size(mut self, page_size: u32) -> Self {
        self.page_size = page_size;
        self
    }

    /// The page that follows the one with this [`ReconcilePage::next_page_token`], for the same account and period.
    pub fn page_token(mut self, page_token: impl Into<String>) -> Self {
        self.page_token = page_token.into();
        self
    }

    pub(crate) fn into_wire(self) -> Result<proto::ReconcileRequest, Error> {
        let period = self
            .period
            .map(|period| wire::period_to_wire(period, "period.start", "period.end"));
        Ok(proto::ReconcileRequest {
            account_id: self.account_id,
            period: period.transpose()?,
            page_size: page_size_to_wire(self.page_size),
            page_token: self.page_token,
        })
    }
}

/// The totals of some accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReconcilePage {
    /// The rows; a page can be empty without being the last.
    pub rows: Vec<ReconciledUsage>,
    /// The token of the next page; none on the last page.
    pub next_page_token: Option<String>,
}

/// The three totals of one account, customer, meter and period.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReconciledUsage {
    /// The account.
    pub account_id: String,
    /// The Stripe customer it is billed to.
    pub stripe_customer: String,
    /// The meter.
    pub meter: String,
    /// The billing period, or a calendar month in UTC if none is known.
    pub period: Period,
    /// Whether `period` is a billing period.
    pub is_billing_period: bool,
    /// The quantity to bill: all usage and corrections, except what is never billed.
    pub counted: i64,
    /// The part of it that Stripe accepted.
    pub reported: i64,
    /// Stripe's own meter total, or why it could not be read.
    pub stripe_total: Result<i64, String>,
    /// The reports of the row, by state.
    pub states: Vec<StateCount>,
    /// The comparison with invoices, one for each subscription item and price; empty until the invoices are final.
    pub invoices: Vec<InvoiceComparison>,
    /// The comparisons with invoices that are due and were not made.
    pub waiting: Vec<WaitingComparison>,
}

/// A comparison with invoices that is due and was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitingComparison {
    /// The subscription item, `si_...`.
    pub item: String,
    /// The billing period.
    pub period: Period,
    /// Since when it waits.
    pub since: DateTime<Utc>,
    /// Why its invoices cannot be read; none if they were not tried yet.
    pub reason: Option<String>,
}

/// What a comparison with invoices found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvoiceFinding {
    /// The final invoices charge exactly what Stripe's meter totals contain.
    Equal,
    /// They charge more or less.
    Differs,
    /// A line has no quantity, or none that is a whole number.
    Unreadable,
    /// They would charge it, but one of them is uncollectible.
    Uncollectible,
    /// They would charge it, but one of them is void.
    Void,
    /// Days after the period's last invoice, one is still a draft.
    Overdue,
    /// The same, because the automatic finalization of the draft is off: the collection is paused, or an invoice is unpaid.
    KeptDraft,
    /// They charge all usage of the item, but divided otherwise between its prices. Nothing is lost.
    PriceSplit,
    /// They also charge usage that another item of the customer charges.
    ChargedTwice,
    /// Stripe's totals contain the usage, but it is in no billing period that is known.
    NoPeriod,
    /// They charge more or less, and Stripe's totals were not seen to contain everything that it accepted.
    Unverified,
    /// A finding that this version of the client does not know, by its number.
    Unrecognised(i32),
}

impl fmt::Display for InvoiceFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "equal",
            Self::Differs => "differs",
            Self::Unreadable => "unreadable",
            Self::Uncollectible => "uncollectible",
            Self::Void => "void",
            Self::Overdue => "overdue",
            Self::KeptDraft => "kept_draft",
            Self::PriceSplit => "price_split",
            Self::ChargedTwice => "charged_twice",
            Self::NoPeriod => "no_period",
            Self::Unverified => "unverified",
            Self::Unrecognised(number) => return write!(f, "{number}"),
        })
    }
}

/// The usage of one subscription item, price and billing period, and what invoices charge of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvoiceComparison {
    /// The subscription item, `si_...`; empty if no billing period contains the usage.
    pub item: String,
    /// The price, `price_...`.
    pub price: String,
    /// The billing period.
    pub period: Period,
    /// What was found.
    pub finding: InvoiceFinding,
    /// The usage that Stripe's meter totals contain.
    pub reported: i64,
    /// The quantity on final invoices that are neither void nor uncollectible; none if it could not be read.
    pub invoiced: Option<i64>,
    /// The invoices with a line for it.
    pub invoices: Vec<ComparedInvoice>,
    /// When the finding or a figure last changed.
    pub changed_at: DateTime<Utc>,
    /// Names this result for [`AcknowledgeDifference`](crate::AcknowledgeDifference); none if the figures are equal.
    pub difference_id: Option<String>,
    /// Who has acknowledged this result.
    pub acknowledged: Option<DifferenceAcknowledgement>,
}

/// An invoice that was compared.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ComparedInvoice {
    /// `in_...`.
    pub id: String,
    /// Stripe's name of its status, such as `paid`.
    pub status: String,
}

/// The reports in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateCount {
    /// The state.
    pub state: ReportState,
    /// The number of reports.
    pub reports: i64,
    /// The sum of their quantities.
    pub quantity: i64,
}

impl ReconciledUsage {
    /// Whether all three totals are equal, and invoices charge them as far as they are final.
    pub fn is_equal(&self) -> bool {
        self.counted == self.reported
            && self.stripe_total.as_ref() == Ok(&self.reported)
            && self
                .invoices
                .iter()
                .all(|one| one.finding == InvoiceFinding::Equal)
            && self.waiting.is_empty()
    }

    fn from_wire(row: proto::ReconciledUsage) -> Result<Self, Error> {
        let states = row.states.into_iter().map(|one| {
            let count = one.count.unwrap_or_default();
            StateCount {
                state: ReportState::from_wire(one.state),
                reports: count.reports,
                quantity: count.quantity,
            }
        });
        let invoices = row.invoices.into_iter().map(InvoiceComparison::from_wire);
        let waiting = row.waiting.into_iter().map(WaitingComparison::from_wire);
        Ok(Self {
            invoices: invoices.collect::<Result<_, _>>()?,
            waiting: waiting.collect::<Result<_, _>>()?,
            account_id: row.account_id,
            stripe_customer: row.stripe_customer,
            meter: row.meter,
            period: wire::required_period(row.period, "rows.period")?,
            is_billing_period: row.is_billing_period,
            counted: row.counted,
            reported: row.reported,
            stripe_total: row.stripe_total.ok_or(row.stripe_error),
            states: states.collect(),
        })
    }
}

impl InvoiceFinding {
    fn from_wire(number: i32) -> Self {
        use proto::InvoiceFinding as Wire;
        match Wire::try_from(number) {
            Ok(Wire::Equal) => Self::Equal,
            Ok(Wire::Differs) => Self::Differs,
            Ok(Wire::Unreadable) => Self::Unreadable,
            Ok(Wire::Uncollectible) => Self::Uncollectible,
            Ok(Wire::Void) => Self::Void,
            Ok(Wire::Overdue) => Self::Overdue,
            Ok(Wire::KeptDraft) => Self::KeptDraft,
            Ok(Wire::PriceSplit) => Self::PriceSplit,
            Ok(Wire::ChargedTwice) => Self::ChargedTwice,
            Ok(Wire::NoPeriod) => Self::NoPeriod,
            Ok(Wire::Unverified) => Self::Unverified,
            Ok(Wire::Unspecified) | Err(_) => Self::Unrecognised(number),
        }
    }
}

impl WaitingComparison {
    fn from_wire(from: proto::WaitingComparison) -> Result<Self, Error> {
        Ok(Self {
            item: from.item,
            period: wire::required_period(from.period, "rows.waiting.period")?,
            since: wire::required_time(from.since, "rows.waiting.since")?,
            reason: non_empty(from.reason),
        })
    }
}

impl InvoiceComparison {
    pub(crate) fn from_wire(from: proto::InvoiceComparison) -> Result<Self, Error> {
        let invoices = from.invoices.into_iter().map(|one| ComparedInvoice {
            id: one.id,
            status: one.status,
        });
        Ok(Self {
            item: from.item,
            price: from.price,
            period: wire::required_period(from.period, "rows.invoices.period")?,
            finding: InvoiceFinding::from_wire(from.finding),
            reported: from.reported,
            invoiced: from.invoiced,
            invoices: invoices.collect(),
            changed_at: wire::required_time(from.changed_at, "rows.invoices.changed_at")?,
            difference_id: non_empty(from.difference_id),
            acknowledged: from
                .acknowledged
                .map(DifferenceAcknowledgement::from_wire)
                .transpose()?,
        })
    }
}

impl ReconcilePage {
    pub(crate) fn from_wire(response: proto::ReconcileResponse) -> Result<Self, Error> {
        let rows = response.rows.into_iter().map(ReconciledUsage::from_wire);
        Ok(Self {
            rows: rows.collect::<Result<_, _>>()?,
            next_page_token: non_empty(response.next_page_token),
        })
    }
}
