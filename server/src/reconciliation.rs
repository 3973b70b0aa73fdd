//! Reconciliation: what was counted, what was reported, Stripe's total and what invoices charge, side by side, for each
//! account, customer, meter and period. It only reads.
//!
//! Stripe's totals cover whole minutes, but periods end at any millisecond. Usage in the minutes at a period's edges
//! that belongs to an adjacent period is subtracted from Stripe's total, so that matching figures are equal.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    clock::Clock,
    config::CommandConfig,
    domain::{
        MINUTE_MS, Millis,
        account::{Link, billing_target_at},
        account_id::AccountId,
        invoice_comparison::PeriodComparison,
        meter::{Meter, Meters},
        period::month_around,
        report::State,
        report_figure::{ReportFigure, total},
        start_of,
        stream::Stream,
        waiting_comparison::WaitingComparison,
        window::Interval,
    },
    error::{Error, Result},
    read_rate::ReadRate,
    store::{Store, reconciliation::KnownPeriod},
    stripe::Stripe,
};

/// Totals read from Stripe a second.
const MAX_READS_PER_SEC: u32 = 20;
/// Accounts that the command reads in one page.
const ACCOUNTS_PER_PAGE: u64 = 100;
/// The maximum number of rows that the command returns.
pub(crate) const MAX_ROWS: usize = 100_000;
/// Calendar months that one query may cover.
const MAX_MONTHS: usize = 240;

/// Which rows to read.
#[derive(Clone, Debug, Default)]
pub struct ReconciliationQuery {
    /// Only this account.
    pub account_id: Option<String>,
    /// Every period that overlaps this interval; `None` means the periods that contain now.
    pub period: Option<Interval>,
}

/// The figures of one account, customer, meter and period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The account.
    pub account_id: String,
    /// The Stripe customer it is billed to.
    pub customer: String,
    /// The meter.
    pub meter: String,
    /// The billing period, or a calendar month of UTC.
    pub period: Interval,
    /// Whether it is a billing period.
    pub is_billing_period: bool,
    /// Everything counted and corrected, without usage that is never billed.
    pub counted: i64,
    /// The part that Stripe accepted.
    pub reported: i64,
    /// Stripe's total, or why it could not be read.
    pub stripe_total: std::result::Result<i64, String>,
    /// The number of reports and their quantity, by state.
    pub states: BTreeMap<State, (i64, i64)>,
    /// The comparisons with invoices, by subscription item and price; empty until those are final.
    pub invoices: Vec<PeriodComparison>,
    /// The comparisons that are due and were not made.
    pub waiting: Vec<WaitingComparison>,
}

impl Row {
    /// Whether all three figures are equal, and invoices charge them as far as they are final. A difference that somebody
    /// has acknowledged remains one.
    pub fn is_equal(&self) -> bool {
        self.counted == self.reported
            && self.stripe_total.as_ref() == Ok(&self.reported)
            && !self.invoices.iter().any(PeriodComparison::is_difference)
            && self.waiting.is_empty()
    }
}

/// Reads the three figures.
#[derive(Debug)]
pub(crate) struct Reconciler {
    store: Store,
    /// `None` without a Stripe key.
    stripe: Option<Stripe>,
    meters: Arc<Meters>,
    rate: ReadRate,
}

/// Every row of a query, for the command line. Opens the database and Stripe itself; a server may be running.
///
/// # Errors
/// A setting is wrong, there is no Stripe key, the database does not respond, or there are too many rows.
pub async fn reconcile(
    config: &CommandConfig,
    clock: &Clock,
    query: &ReconciliationQuery,
) -> std::result::Result<Vec<Row>, String> {
    let url = config.database.url()?;
    let key = config
        .stripe
        .key()?
        .ok_or("reconcile reads totals from Stripe; set STRIPE_SECRET_KEY")?;
    let stripe = Stripe::new(&key, &config.stripe)?;
    let meters = Arc::new(config.meters.read()?);
    let store = Store::open_existing(&url, config.database.database_connections)
        .await
        .map_err(|error| format!("the database cannot be used: {error}"))?;
    let rows = match store.check_schema().await {
        Ok(()) => {
            let reconciler = Reconciler::new(store.clone(), Some(stripe), meters);
            reconciler.all(query, clock.now()).await
        }
        Err(error) => Err(error.to_string()),
    };
    store.close().await.map_err(|error| error.to_string())?;
    rows
}

impl Reconciler {
    pub(crate) fn new(store: Store, stripe: Option<Stripe>, meters: Arc<Meters>) -> Self {
        Self {
            store,
            stripe,
            meters,
            rate: ReadRate::per_sec(MAX_READS_PER_SEC),
        }
    }

    async fn all(
        &self,
        query: &ReconciliationQuery,
        now: Millis,
    ) -> std::result::Result<Vec<Row>, String> {
        let mut rows = Vec::new();
        let mut after = String::new();
        loop {
            let (page, next) = self
                .page(query, &after, ACCOUNTS_PER_PAGE, now)
                .await
                .map_err(|error| error.to_string())?;
            rows.extend(page);
            if rows.len() > MAX_ROWS {
                return Err(format!(
                    "there are more than {MAX_ROWS} rows; give an account or a shorter period"
                ));
            }
            match next {
                Some(next) => after = next,
                None => return Ok(rows),
            }
        }
    }

    /// The rows of the next accounts after `after`, and the last account of the page if more may follow.
    pub(crate) async fn page(
        &self,
        query: &ReconciliationQuery,
        after: &str,
        limit: u64,
        now: Millis,
    ) -> Result<(Vec<Row>, Option<String>)> {
        let stripe = self.stripe.as_ref().ok_or(Error::ReportingDisabled)?;
        let accounts = match &query.account_id {
            Some(account) => vec![AccountId::parse(account)?],
            None => self.store.billed_accounts(after, limit).await?,
        };
        let is_full = u64::try_from(accounts.len()).is_ok_and(|len| len >= limit);
        let next = accounts
            .last()
            .filter(|_| is_full && query.account_id.is_none())
            .map(AccountId::to_string);
        let mut rows = Vec::new();
        for account in accounts {
            rows.extend(self.account(stripe, &account, query, now).await?);
        }
        Ok((rows, next))
    }

    async fn account(
        &self,
        stripe: &Stripe,
        account: &AccountId,
        query: &ReconciliationQuery,
        now: Millis,
    ) -> Result<Vec<Row>> {
        let range = query.period.unwrap_or(Interval {
            start: now,
            end: now.saturating_add(1),
        });
        let (links, known) = self.store.links_and_periods(account, range).await?;
        let compared = self.store.comparisons_of(account, range).await?;
        let waiting = self
            .store
            .waiting_comparisons_of(account, range, now)
            .await?;
        let mut rows = Vec::new();
        for meter in self.meters.all() {
            let (periods, is_billing_period) = periods_of(&known, &meter.name, range);
            for period in periods {
                let figures = self.store.figures(account, period).await?;
                // Without any usage here, Stripe's total is read only for an account that the query names.
                let named = query
                    .account_id
                    .as_ref()
                    .and_then(|_| customer_at(&links, period.end.min(now)));
                let invoices: Vec<&PeriodComparison> = compared
                    .iter()
                    .filter(|one| *one.meter == *meter.name && one.period.start == period.start)
                    .collect();
                let mut customers = by_customer(figures, &links, &meter.name, period, named);
                // Stripe may charge usage that was not reported.
                for one in invoices.iter().filter(|one| one.is_difference()) {
                    customers.entry(one.customer.clone()).or_default();
                }
                let waits = |one: &&WaitingComparison| {
                    *one.meter == *meter.name && one.period.start == period.start
                };
                let waiting: Vec<&WaitingComparison> = waiting.iter().filter(waits).collect();
                for (customer, own) in customers {
                    let mut row = sum(own);
                    let of_customer = invoices.iter().filter(|one| one.customer == customer);
                    row.invoices = of_customer.copied().cloned().collect();
                    row.account_id = account.to_string();
                    row.meter = meter.name.to_string();
                    (row.period, row.is_billing_period) = (period, is_billing_period);
                    row.customer = customer;
                    row.waiting = waiting.iter().copied().cloned().collect();
                    row.stripe_total = self.stripe_total(stripe, account, &row, meter).await?;
                    let is_empty = row.states.is_empty() && row.stripe_total == Ok(0);
                    if !is_empty || !row.is_equal() {
                        rows.push(row);
                    }
                }
            }
        }
        for one in compared {
            let is_shown = rows.iter().any(|row| row.invoices.contains(&one));
            if one.is_difference() && !is_shown {
                rows.push(self.difference(stripe, one).await?);
            }
        }
        rows.sort_by(|one, other| order_of(one).cmp(&order_of(other)));
        Ok(rows)
    }

    /// The row of a difference by itself: of usage that is in no billing period, or of a meter that is not configured.
    async fn difference(&self, stripe: &Stripe, one: PeriodComparison) -> Result<Row> {
        let account = one.account_id.clone();
        let mut figures = self.store.figures(&account, one.period).await?;
        figures.retain(|figure| {
            figure.meter == one.meter
                && figure.customer.as_ref() == Some(&one.customer)
                && one.period.contains(figure.usage.billed_at_stripe())
        });
        let mut row = sum(figures);
        row.account_id = account.to_string();
        row.meter.clone_from(&one.meter);
        row.customer.clone_from(&one.customer);
        (row.period, row.is_billing_period) = (one.period, !one.item.is_empty());
        row.stripe_total = match self.meters.find(&one.meter) {
            Some(meter) => self.stripe_total(stripe, &account, &row, meter).await?,
            None => Err(format!("meter {} is not configured", one.meter)),
        };
        row.invoices = vec![one];
        Ok(row)
    }

    /// Stripe's total of a row: the whole minutes around the period, minus usage known to belong to other periods or
    /// accounts.
    async fn stripe_total(
        &self,
        stripe: &Stripe,
        account: &AccountId,
        row: &Row,
        meter: &Meter,
    ) -> Result<std::result::Result<i64, String>> {
        let period = row.period;
        let range = Interval {
            start: start_of(MINUTE_MS, period.start),
            end: start_of(
                MINUTE_MS,
                period.end.saturating_add(MINUTE_MS.saturating_sub(1)),
            ),
        };
        self.rate.turn().await;
        let stripe_total = match stripe.total(&meter.event_name, &row.customer, range).await {
            Ok(total) => total,
            Err(failure) => return Ok(Err(failure.message().to_owned())),
        };
        let stream = Stream {
            customer: row.customer.clone(),
            meter: row.meter.clone(),
        };
        let accepted = self.store.accepted_figures(&stream, range).await?;
        let others = accepted
            .iter()
            .filter(|figure| !is_of(figure, account, period));
        Ok(Ok(stripe_total.saturating_sub(total(others))))
    }
}

/// The known billing periods of a meter, else the calendar months of a range; and whether they are billing periods.
fn periods_of(known: &[KnownPeriod], meter: &str, range: Interval) -> (Vec<Interval>, bool) {
    let mut periods: Vec<Interval> = known
        .iter()
        .filter(|(_, of)| of.as_deref().is_none_or(|of| of == meter))
        .map(|(period, _)| *period)
        .collect();
    periods.sort_unstable();
    periods.dedup();
    if !periods.is_empty() {
        return (periods, true);
    }
    let mut months = Vec::new();
    let mut at = range.start;
    while let Some(month) = month_around(at, chrono_tz::Tz::UTC) {
        months.push(month);
        at = month.end;
        if at >= range.end || months.len() >= MAX_MONTHS {
            break;
        }
    }
    (months, false)
}

/// The order of rows of one account.
fn order_of(row: &Row) -> (&str, Millis, Millis, &str) {
    let period = row.period;
    (&row.meter, period.start, period.end, &row.customer)
}

fn customer_at(links: &[Link], at: Millis) -> Option<String> {
    billing_target_at(links, at).customer().map(str::to_owned)
}

/// The reports of a meter and period, by the customer that they bill to. Reports without a customer are left out.
fn by_customer(
    figures: Vec<ReportFigure>,
    links: &[Link],
    meter: &str,
    period: Interval,
    named: Option<String>,
) -> BTreeMap<String, Vec<ReportFigure>> {
    let mut customers: BTreeMap<String, Vec<ReportFigure>> = BTreeMap::new();
    if let Some(customer) = named {
        customers.entry(customer).or_default();
    }
    for figure in figures {
        if figure.meter != meter || !period.contains(figure.usage.billed_at_stripe()) {
            continue;
        }
        let customer = match &figure.customer {
            Some(customer) => Some(customer.clone()),
            None if figure.state == State::NotBillable => None,
            None => customer_at(links, figure.usage.first_at),
        };
        if let Some(customer) = customer {
            customers.entry(customer).or_default().push(figure);
        }
    }
    customers
}

/// Whether Stripe bills a report as an account's usage of a period.
fn is_of(figure: &ReportFigure, account: &AccountId, period: Interval) -> bool {
    figure.account_id == *account && period.contains(figure.usage.billed_at_stripe())
}

/// The sums of some reports. The caller sets the other fields.
fn sum(figures: Vec<ReportFigure>) -> Row {
    let mut row = Row {
        account_id: String::new(),
        customer: String::new(),
        meter: String::new(),
        period: Interval { start: 0, end: 0 },
        is_billing_period: false,
        counted: 0,
        reported: 0,
        stripe_total: Ok(0),
        states: BTreeMap::new(),
        invoices: Vec::new(),
        waiting: Vec::new(),
    };
    for figure in figures {
        let (state, added) = (figure.state, figure.usage.quantity);
        // Stripe's total has what another integration sent.
        let is_elsewhere = figure.is_billed_elsewhere();
        if !matches!(state, State::NotBillable | State::WrittenOff) || is_elsewhere {
            row.counted = row.counted.saturating_add(added);
        }
        if state.is_reported() || is_elsewhere {
            row.reported = row.reported.saturating_add(added);
        }
        let (reports, quantity) = row.states.entry(state).or_default();
        *reports = reports.saturating_add(figure.reports);
        *quantity = quantity.saturating_add(added);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_without_known_periods_is_shown_by_months() {
        let range = Interval {
            start: 1_798_000_000_000,
            end: 1_802_000_000_000,
        };
        let (months, is_known) = periods_of(&[], "calls", range);
        assert!(!is_known);
        assert!(months.len() >= 2);
        assert!(months.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(months[0].contains(range.start));
        let known = [
            (range, Some("tokens".to_owned())),
            (range, None),
            (range, None),
        ];
        assert_eq!(periods_of(&known, "calls", range), (vec![range], true));
        assert!(!periods_of(&known[..1], "calls", range).1);
    }
}
