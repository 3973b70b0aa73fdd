//! The lines that are explained: billing periods of subscription items, with what invoices charge and what was reported.

use uuid::Uuid;

use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        billing_period::BillingPeriod,
        invoice_comparison::PeriodComparison,
        invoice_line::StoredLine,
        report_figure::{ReportFigure, total},
        stream::Stream,
        violation::Violation,
        window::Interval,
    },
    error::{Error, Result},
    store::{explanations::MAX_PERIODS, snapshot::Snapshot},
};

use super::{ExplainQuery, ExplainedReport, place::LineKey};

/// A billing period of a subscription item, and what is known of its invoices.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) period: BillingPeriod,
    pub(crate) customer: Option<String>,
    /// The quantity of its reports that Stripe accepted.
    pub(crate) reported: i64,
    /// That of other accounts with the same Stripe customer; absent for a caller that may not know of them.
    pub(crate) reported_of_others: Option<i64>,
    pub(crate) invoice_lines: Vec<StoredLine>,
    pub(crate) comparison: Option<PeriodComparison>,
    /// Those on a page.
    pub(crate) reports: Vec<ExplainedReport>,
}

/// The billing periods of a query, in the order of their lines.
pub(super) async fn periods_of(
    snapshot: &Snapshot,
    query: &ExplainQuery,
    time: Interval,
) -> Result<Vec<BillingPeriod>> {
    let mut periods = match (&query.invoice, &query.account_id) {
        (Some(invoice), account) => {
            snapshot
                .periods_of_invoice(account.as_ref(), invoice)
                .await?
        }
        (None, Some(account)) => snapshot.metered_periods(account, time).await?,
        (None, None) => Vec::new(),
    };
    if u64::try_from(periods.len()).is_ok_and(|len| len > MAX_PERIODS) {
        return Err(too_many_periods(query).into());
    }
    periods.sort_by_cached_key(LineKey::of);
    Ok(periods)
}

fn too_many_periods(query: &ExplainQuery) -> Violation {
    let many = format!("more than {MAX_PERIODS} billing periods of subscription items");
    match (&query.invoice, &query.account_id) {
        (None, _) => {
            let why = format!("period overlaps {many}; give a shorter one");
            Violation::invalid("period", why)
        }
        (Some(_), None) => {
            let why = format!("stripe_invoice charges {many}; give account_id too");
            Violation::invalid("stripe_invoice", why)
        }
        (Some(_), Some(_)) => {
            let why = format!("stripe_invoice charges {many}; give a period in its place");
            Violation::invalid("stripe_invoice", why)
        }
    }
}

/// Why nothing is found.
pub(super) fn not_found(query: &ExplainQuery) -> Error {
    let account = query.account_id.as_ref().map(AccountId::to_string);
    match &query.invoice {
        Some(invoice) => Error::InvoiceNotFound {
            invoice: invoice.clone(),
            account,
        },
        None => Error::NoBillingPeriod(account.unwrap_or_default()),
    }
}

/// Reads lines, one after the other. Those of one billing period are often side by side, so its reports are kept.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    snapshot: &'a Snapshot,
    /// Whether usage of other accounts is read.
    with_others: bool,
    last: Option<((AccountId, Interval), Vec<ReportFigure>)>,
}

impl<'a> Lines<'a> {
    pub(super) fn of(snapshot: &'a Snapshot, with_others: bool) -> Self {
        Self {
            snapshot,
            with_others,
            last: None,
        }
    }

    /// The line of a billing period, and its reports by their windows.
    pub(super) async fn read(
        &mut self,
        period: BillingPeriod,
    ) -> Result<(Line, Vec<ReportFigure>)> {
        let customer = match &period.subscription {
            Some(subscription) => {
                self.snapshot
                    .customer_of_subscription(&period.account_id, subscription)
                    .await?
            }
            None => None,
        };
        let mut own = self.figures(&period.account_id, period.interval()).await?;
        own.retain(|figure| {
            let of_customer = figure.customer.is_none() || figure.customer == customer;
            let is_of_meter = Some(&figure.meter) == period.meter.as_ref();
            let at = figure.usage.billed_at_stripe();
            is_of_meter && of_customer && period.interval().contains(at)
        });
        own.sort_by_key(order_of);
        let reported_of_others = if self.with_others {
            let others = self.reported_of_others(&period, customer.as_deref());
            Some(others.await?)
        } else {
            None
        };
        let line = Line {
            customer,
            reported_of_others,
            reported: total(own.iter().filter(|figure| figure.state.is_reported())),
            invoice_lines: self.snapshot.invoice_lines_of(&period).await?,
            comparison: self.snapshot.comparison_of(&period).await?,
            reports: Vec::new(),
            period,
        };
        Ok((line, own))
    }

    /// Stripe sums by customer, and a customer can have changed accounts.
    async fn reported_of_others(
        &self,
        period: &BillingPeriod,
        customer: Option<&str>,
    ) -> Result<i64> {
        let (Some(customer), Some(meter)) = (customer, &period.meter) else {
            return Ok(0);
        };
        let stream = Stream {
            customer: customer.to_owned(),
            meter: meter.clone(),
        };
        let time = period.interval();
        let figures = self.snapshot.reports_to_compare(&stream, time).await?;
        let others = figures.iter().filter(|figure| {
            figure.account_id != period.account_id
                && figure.state.is_reported()
                && time.contains(figure.usage.billed_at_stripe())
        });
        Ok(total(others))
    }

    async fn figures(
        &mut self,
        account_id: &AccountId,
        time: Interval,
    ) -> Result<Vec<ReportFigure>> {
        let key = (account_id.clone(), time);
        if let Some((last, figures)) = &self.last
            && *last == key
        {
            return Ok(figures.clone());
        }
        let figures = self.snapshot.figures(account_id, time).await?;
        self.last = Some((key, figures.clone()));
        Ok(figures)
    }
}

/// The order of the reports of a line.
pub(super) fn order_of(figure: &ReportFigure) -> (Millis, Uuid) {
    (figure.usage.window_start, figure.id)
}
