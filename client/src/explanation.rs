//! The way from a call to its invoice, and from an invoice to its calls.

use crate::{
    Error, InvoiceComparison, Period, ReportArchive, UsageReport, proto,
    wire::{self, non_empty, page_size_to_wire},
};
use chrono::{DateTime, Utc};
use usage_proto::amounts::decimal_amount;

/// Asks which report and invoice contain the increment of an idempotency key.
///
/// ```
/// use usage_client::FindIncrement;
///
/// let of_one = FindIncrement::new("acct_42", "order-7").meter("tokens");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is looked up until it is sent"]
pub struct FindIncrement {
    account_id: String,
    idempotency_key: String,
    meter: String,
}

impl FindIncrement {
    /// The increment that an account's key counted: the key as the increment gave it, or as
    /// [`CountedIncrement::key`] shows it.
    pub fn new(account_id: impl Into<String>, idempotency_key: impl Into<String>) -> Self {
        Self {
            account_id: account_id.into(),
            idempotency_key: idempotency_key.into(),
            meter: String::new(),
        }
    }

    /// Only if it is of this meter. An API key that is limited to meters must say so.
    pub fn meter(mut self, meter: impl Into<String>) -> Self {
        self.meter = meter.into();
        self
    }

    pub(crate) fn into_wire(self) -> proto::FindIncrementRequest {
        proto::FindIncrementRequest {
            account_id: self.account_id,
            idempotency_key: self.idempotency_key,
            meter: self.meter,
        }
    }
}

/// An increment, its report, and what invoices charge of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundIncrement {
    /// The increment.
    pub increment: CountedIncrement,
    /// The report that it was added to; none if that is no longer stored by itself.
    pub report: Option<UsageReport>,
    /// The ids of other reports that may contain a part of it: its report reached Stripe's limit of 15 digits as it was
    /// counted, or was divided after a restore.
    pub divided_with: Vec<String>,
    /// The subscription items whose invoices charge the report's meter at its time, as far as known.
    pub lines: Vec<ExplainedLine>,
}

/// An increment whose key is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CountedIncrement {
    /// The key as it is stored, in the usual spelling of a UUID: the key itself if that is one, else the first 16 bytes of
    /// the SHA-256 of account, NUL and key. [`FindIncrement`] finds the increment by it.
    pub key: String,
    /// The meter.
    pub meter: String,
    /// The quantity.
    pub quantity: i64,
    /// The time that the caller gave; none means `counted_at`.
    pub timestamp: Option<DateTime<Utc>>,
    /// When it was counted.
    pub counted_at: DateTime<Utc>,
}

/// Selects what to explain: the lines of an account's billing periods, by default the current ones, or of an invoice.
///
/// ```
/// use usage_client::ExplainInvoice;
///
/// let current = ExplainInvoice::of_account("acct_42");
/// let of_one = ExplainInvoice::of_invoice("in_1Pgc6uB7").account("acct_42");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is explained until it is sent"]
pub struct ExplainInvoice {
    account_id: String,
    invoice: String,
    period: Option<Period>,
    report_id: String,
    without_increments: bool,
    page_size: u32,
    page_token: String,
}

impl ExplainInvoice {
    /// The current billing periods of an account.
    pub fn of_account(account_id: impl Into<String>) -> Self {
        Self {
            account_id: account_id.into(),
            ..Self::of_invoice("")
        }
    }

    /// The lines of an invoice, `in_...`.
    pub fn of_invoice(invoice: impl Into<String>) -> Self {
        Self {
            account_id: String::new(),
            invoice: invoice.into(),
            period: None,
            report_id: String::new(),
            without_increments: false,
            page_size: 0,
            page_token: String::new(),
        }
    }

    /// Only this account. An API key that is limited to accounts must name one.
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

    /// Only this report, by its id.
    pub fn report(mut self, report_id: impl Into<String>) -> Self {
        self.report_id = report_id.into();
        self
    }

    /// Only lines and reports: increments are not searched for.
    pub fn without_increments(mut self) -> Self {
        self.without_increments = true;
        self
    }

    /// The maximum number of increments on the page, up to 1,000.
    pub fn page_size(mut self, page_size: u32) -> Self {
        self.page_size = page_size;
        self
    }

    /// The page that follows the one with this [`InvoiceExplanation::next_page_token`], with the same selection.
    pub fn page_token(mut self, page_token: impl Into<String>) -> Self {
        self.page_token = page_token.into();
        self
    }

    pub(crate) fn into_wire(self) -> Result<proto::ExplainInvoiceRequest, Error> {
        let period = self
            .period
            .map(|period| wire::period_to_wire(period, "period.start", "period.end"));
        Ok(proto::ExplainInvoiceRequest {
            account_id: self.account_id,
            period: period.transpose()?,
            stripe_invoice: self.invoice,
            page_size: page_size_to_wire(self.page_size),
            page_token: self.page_token,
            report_id: self.report_id,
            without_increments: self.without_increments,
        })
    }
}

/// Lines of invoices with their reports and increments: a page of them, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvoiceExplanation {
    /// The lines. A page can be empty without being the last.
    pub lines: Vec<ExplainedLine>,
    /// The token of the next page; none on the last page.
    pub next_page_token: Option<String>,
}

/// The usage of one subscription item in one billing period, which a line of its invoice charges.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExplainedLine {
    /// The account.
    pub account_id: String,
    /// `sub_...`
    pub subscription: String,
    /// The subscription item, `si_...`.
    pub item: String,
    /// The price, `price_...`.
    pub price: String,
    /// The meter that it charges.
    pub meter: String,
    /// The Stripe customer, `cus_...`.
    pub stripe_customer: String,
    /// The billing period.
    pub period: Period,
    /// The quantity of its reports that Stripe accepted, of this account.
    pub reported: i64,
    /// The quantity on its final invoices; none until they were compared, or if it cannot be read.
    pub invoiced: Option<i64>,
    /// The quantity that Stripe accepted of other accounts that had the same Stripe customer: the invoice charges it too.
    /// None for an API key that is limited to accounts.
    pub reported_of_other_accounts: Option<i64>,
    /// `invoiced` minus both; none if one of them is.
    pub difference: Option<i64>,
    /// The invoice of the period as far as known, `in_...`, also while it is a draft.
    pub stripe_invoice: Option<String>,
    /// The lines of invoices that charge it; empty until they were compared.
    pub invoice_lines: Vec<InvoiceLine>,
    /// What the comparison with its invoices found.
    pub comparison: Option<InvoiceComparison>,
    /// Its reports, by their windows; empty in [`FoundIncrement`].
    pub reports: Vec<ExplainedReport>,
}

/// A line of an invoice, as it was last read from Stripe.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvoiceLine {
    /// The invoice, `in_...`.
    pub invoice: String,
    /// The line, `il_...`.
    pub line: String,
    /// Stripe's name of the invoice's status, such as `paid`.
    pub status: String,
    /// The price, `price_...`.
    pub price: String,
    /// The time that it charges, as Stripe says.
    pub period: Period,
    /// Its quantity; none if that is no whole number.
    pub quantity: Option<i64>,
    /// Its amount in the smallest unit of the currency, before discounts and added taxes; see
    /// [`decimal_amount`](Self::decimal_amount).
    pub amount: i64,
    /// The currency, three letters.
    pub currency: String,
}

/// A usage report of a line, and the increments behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExplainedReport {
    /// The report, without its decisions; if it was folded, the sum of `folded` reports of one window.
    pub report: UsageReport,
    /// How many reports were folded into it; 0 if it is a report by itself.
    pub folded: i64,
    /// The archive that has the folded reports one by one.
    pub archive: Option<ReportArchive>,
    /// Its increments whose keys are kept, in the order of their keys.
    pub increments: Vec<CountedIncrement>,
    /// The sum of its increments on this page and the pages before.
    pub with_key: i64,
    /// What was counted without a key, or with one that is no longer kept: with `with_key` it is the report's quantity.
    /// None while increments may follow on another page.
    pub without_key: Option<i64>,
}

impl FoundIncrement {
    pub(crate) fn from_wire(response: proto::FindIncrementResponse) -> Result<Self, Error> {
        let increment = response.increment;
        let increment = increment.ok_or_else(|| Error::malformed("`increment` is missing"))?;
        let lines = response.lines.into_iter().map(ExplainedLine::from_wire);
        Ok(Self {
            increment: CountedIncrement::from_wire(increment)?,
            report: response.report.map(UsageReport::from_wire).transpose()?,
            divided_with: response.divided_with,
            lines: lines.collect::<Result<_, _>>()?,
        })
    }
}

impl CountedIncrement {
    fn from_wire(from: proto::CountedIncrement) -> Result<Self, Error> {
        Ok(Self {
            key: from.key,
            meter: from.meter,
            quantity: from.quantity,
            timestamp: wire::optional_time(from.timestamp, "increment.timestamp")?,
            counted_at: wire::required_time(from.counted_at, "increment.counted_at")?,
        })
    }
}

impl InvoiceExplanation {
    pub(crate) fn from_wire(response: proto::ExplainInvoiceResponse) -> Result<Self, Error> {
        let lines = response.lines.into_iter().map(ExplainedLine::from_wire);
        Ok(Self {
            lines: lines.collect::<Result<_, _>>()?,
            next_page_token: non_empty(response.next_page_token),
        })
    }

    /// The number of reports and increments.
    pub(crate) fn size(&self) -> usize {
        let reports = self.lines.iter().flat_map(|line| &line.reports);
        let sizes = reports.map(|report| report.increments.len().saturating_add(1));
        sizes.fold(0, usize::saturating_add)
    }

    /// Adds the next page: its reports to the lines and its increments to the reports that are here already.
    pub(crate) fn append(&mut self, page: Self) {
        for line in page.lines {
            let known = self.lines.iter_mut().rev().find(|known| {
                (
                    &known.account_id,
                    &known.item,
                    &known.meter,
                    known.period.start,
                ) == (&line.account_id, &line.item, &line.meter, line.period.start)
            });
            match known {
                Some(known) => known.append(line.reports),
                None => self.lines.push(line),
            }
        }
        self.next_page_token = page.next_page_token;
    }
}

impl ExplainedLine {
    fn append(&mut self, reports: Vec<ExplainedReport>) {
        for report in reports {
            // Those of a page before are the last ones.
            let known = self.reports.iter_mut().rev();
            let mut known = known.filter(|known| known.report.id == report.report.id);
            match known.next() {
                Some(known) => {
                    let mut increments = std::mem::take(&mut known.increments);
                    increments.extend(report.increments);
                    *known = ExplainedReport {
                        increments,
                        ..report
                    };
                }
                None => self.reports.push(report),
            }
        }
    }

    fn from_wire(from: proto::ExplainedLine) -> Result<Self, Error> {
        let lines = from.invoice_lines.into_iter().map(InvoiceLine::from_wire);
        let reports = from.reports.into_iter().map(ExplainedReport::from_wire);
        let comparison = from.comparison.map(InvoiceComparison::from_wire);
        Ok(Self {
            period: wire::required_period(from.period, "lines.period")?,
            invoice_lines: lines.collect::<Result<_, _>>()?,
            comparison: comparison.transpose()?,
            reports: reports.collect::<Result<_, _>>()?,
            account_id: from.account_id,
            subscription: from.subscription,
            item: from.item,
            price: from.price,
            meter: from.meter,
            stripe_customer: from.stripe_customer,
            reported: from.reported,
            reported_of_other_accounts: from.reported_of_other_accounts,
            invoiced: from.invoiced,
            difference: from.difference,
            stripe_invoice: non_empty(from.stripe_invoice),
        })
    }
}

impl InvoiceLine {
    /// Its amount as a decimal number of the currency: `12.34` for 1,234 `usd`, `1234` for 1,234 `jpy`.
    #[must_use]
    pub fn decimal_amount(&self) -> String {
        decimal_amount(self.amount, &self.currency)
    }

    fn from_wire(from: proto::InvoiceLine) -> Result<Self, Error> {
        Ok(Self {
            period: wire::required_period(from.period, "invoice_lines.period")?,
            invoice: from.invoice,
            line: from.line,
            status: from.status,
            price: from.price,
            quantity: from.quantity,
            amount: from.amount,
            currency: from.currency,
        })
    }
}

impl ExplainedReport {
    fn from_wire(from: proto::ExplainedReport) -> Result<Self, Error> {
        let increments = from.increments.into_iter().map(CountedIncrement::from_wire);
        Ok(Self {
            report: UsageReport::required_from_wire(from.report)?,
            folded: from.folded,
            archive: from.archive.map(ReportArchive::from_wire).transpose()?,
            increments: increments.collect::<Result<_, _>>()?,
            with_key: from.with_key,
            without_key: from.without_key,
        })
    }
}
