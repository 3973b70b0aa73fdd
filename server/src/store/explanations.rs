//! Queries that follow increments to invoice lines and back: an increment by its key, reports by their ids, and what is
//! stored of the invoices of billing periods.

use std::collections::{HashMap, HashSet};

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    sea_query::ExprTrait as _,
};
use uuid::Uuid;

use super::{
    deleted_accounts::is_deleted,
    invoice_comparison::{time_to_compare, with_invoices},
    report_figures::{passes_prefilter, read_any_figures},
    report_list::without_index_of_ids,
    rows,
    snapshot::Snapshot,
    stream_figures::read_stream,
    unindexed,
};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        billed_usage::{BilledUsage, UsagePrefilter},
        billing_period::BillingPeriod,
        invoice_comparison::PeriodComparison,
        invoice_line::StoredLine,
        kept_increment::KeptIncrement,
        period::rfc3339,
        report::Report,
        report_archive::{AccountArchive, ReportArchive},
        report_figure::ReportFigure,
        report_fold::FoldedReport,
        stream::Stream,
        violation::Violation,
        window::Interval,
    },
    entity::{
        billing_period, folded_report, idempotency_key, invoice_comparison, invoice_line,
        open_report, report_archive, subscription, usage_report,
    },
    error::Result,
};

/// Billing periods that are read at most.
pub(crate) const MAX_PERIODS: u64 = 1_000;
/// Reports of one window that are read at most.
const MAX_OF_WINDOW: u64 = 1_000;
/// Lines of one billing period that are read at most.
const MAX_INVOICE_LINES: u64 = 1_000;

/// A billing period: its account, item and start.
type PeriodKey = (AccountId, String, Millis);

/// A folded row, and the archive that has its reports.
#[derive(Clone, Debug)]
pub(crate) struct FoldedRow {
    pub(crate) row: FoldedReport,
    pub(crate) archive: Option<AccountArchive>,
}

impl Snapshot {
    /// The increment that an account's key counted, as long as the key is kept. Those of a deleted account are left out: they
    /// are deleted after its other rows.
    pub(crate) async fn find_increment(
        &self,
        account_id: &AccountId,
        key: Uuid,
    ) -> Result<Option<KeptIncrement>> {
        if is_deleted(&self.tx, account_id).await? {
            return Ok(None);
        }
        let found = idempotency_key::Entity::find_by_id((key, account_id.clone()));
        Ok(found.one(&self.tx).await?.map(KeptIncrement::from))
    }

    /// Those of some reports of an account that are stored by themselves, closed or open.
    pub(crate) async fn find_reports(
        &self,
        account_id: &AccountId,
        ids: &[Uuid],
    ) -> Result<HashMap<Uuid, Report>> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let open = open_report::Entity::find()
            .filter(open_report::Column::AccountId.eq(account_id))
            .filter(without_index_of_ids().is_in(ids.iter().copied()))
            .all(&self.tx)
            .await?;
        let closed = usage_report::Entity::find()
            .filter(usage_report::Column::AccountId.eq(account_id))
            .filter(usage_report::Column::Id.is_in(ids.iter().copied()))
            .all(&self.tx)
            .await?;
        let open = open.into_iter().map(Report::from);
        let reports = open.chain(closed.into_iter().map(Report::from));
        Ok(reports.map(|report| (report.id, report)).collect())
    }

    /// The meter of a report of an account, open, closed or a row of folded ones, and the time at which Stripe bills it.
    pub(crate) async fn find_billed(
        &self,
        account_id: &AccountId,
        id: Uuid,
    ) -> Result<Option<(String, Millis)>> {
        let reports = self.find_reports(account_id, &[id]).await?;
        if let Some(report) = reports.into_values().next() {
            let at = BilledUsage::of(&report).billed_at_stripe();
            return Ok(Some((report.meter, at)));
        }
        let folded = folded_report::Entity::find()
            .filter(folded_report::Column::AccountId.eq(account_id))
            .filter(folded_report::Column::Id.eq(id))
            .one(&self.tx)
            .await?;
        Ok(folded.map(|row| {
            let usage = BilledUsage {
                window_start: row.window_start,
                first_at: row.first_at,
                last_at: row.last_at,
                bill_at: row.bill_at,
                event_timestamp: row.event_timestamp,
                quantity: row.quantity,
            };
            (row.meter, usage.billed_at_stripe())
        }))
    }

    /// The closed reports of an account and meter whose window begins at a time.
    pub(crate) async fn reports_of_window(
        &self,
        account_id: &AccountId,
        meter: &str,
        window_start: Millis,
    ) -> Result<Vec<Report>> {
        use usage_report::Column as C;
        let found = usage_report::Entity::find()
            .filter(C::AccountId.eq(account_id))
            .filter(C::WindowStart.eq(window_start))
            .filter(C::Meter.eq(meter))
            .order_by_asc(C::Id)
            .limit(MAX_OF_WINDOW.saturating_add(1))
            .all(&self.tx)
            .await?;
        check_number(found.len(), MAX_OF_WINDOW, || {
            format!(
                "account {account_id} has more than {MAX_OF_WINDOW} reports of meter {meter} in the window of this one"
            )
        })?;
        Ok(rows::all(found))
    }

    /// Those of some rows of folded reports that are stored. Each is a window's start and an id.
    pub(crate) async fn find_folded(
        &self,
        account_id: &AccountId,
        keys: &[(Millis, Uuid)],
    ) -> Result<HashMap<Uuid, FoldedRow>> {
        use folded_report::Column as F;
        let starts = || keys.iter().map(|(start, _)| *start);
        let (Some(first), Some(last)) = (starts().min(), starts().max()) else {
            return Ok(HashMap::new());
        };
        let found = folded_report::Entity::find()
            .filter(F::AccountId.eq(account_id))
            .filter(F::WindowStart.between(first, last))
            .filter(F::Id.is_in(keys.iter().map(|(_, id)| *id)))
            .all(&self.tx)
            .await?;
        let mut numbers: Vec<i64> = found.iter().map(|row| row.archive).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let archives: Vec<ReportArchive> = rows::all(
            report_archive::Entity::find()
                .filter(report_archive::Column::Number.is_in(numbers))
                .all(&self.tx)
                .await?,
        );
        let archives: HashMap<i64, ReportArchive> = archives
            .into_iter()
            .map(|archive| (archive.number, archive))
            .collect();
        let folded = found.into_iter().map(|row| {
            let archive = archives.get(&row.archive).cloned();
            let row = FoldedReport::from(row);
            let archive = archive.map(|archive| AccountArchive {
                archive,
                reports: row.reports,
                quantity: row.quantity,
                windows: row.window,
            });
            (row.id, FoldedRow { row, archive })
        });
        Ok(folded.collect())
    }

    /// An account's billing periods that overlap an interval, of subscription items whose meter is known; one more than
    /// [`MAX_PERIODS`] if there are more.
    pub(crate) async fn metered_periods(
        &self,
        account_id: &AccountId,
        time: Interval,
    ) -> Result<Vec<BillingPeriod>> {
        use billing_period::Column as P;
        let found = billing_period::Entity::find()
            .filter(P::AccountId.eq(account_id))
            .filter(P::Meter.is_not_null())
            .filter(P::PeriodStart.lt(time.end))
            .filter(unindexed(P::PeriodEnd).gt(time.start))
            .order_by_asc(P::PeriodStart)
            .limit(MAX_PERIODS.saturating_add(1))
            .all(&self.tx)
            .await?;
        Ok(rows::all(found))
    }

    /// The billing periods that an invoice charges, of any account if none is given: those with a line on it, and those
    /// whose invoice it is as far as it is known. More than [`MAX_PERIODS`] if there are more.
    pub(crate) async fn periods_of_invoice(
        &self,
        account_id: Option<&AccountId>,
        invoice: &str,
    ) -> Result<Vec<BillingPeriod>> {
        use billing_period::Column as P;
        let mut periods = billing_period::Entity::find()
            .filter(P::Invoice.eq(invoice))
            .filter(P::Meter.is_not_null())
            .order_by_asc(P::AccountId)
            .order_by_asc(P::Item)
            .order_by_asc(P::PeriodStart)
            .limit(MAX_PERIODS.saturating_add(1));
        if let Some(account) = account_id {
            periods = periods.filter(P::AccountId.eq(account));
        }
        let mut found = periods.all(&self.tx).await?;
        let known: HashSet<PeriodKey> = found
            .iter()
            .map(|period| {
                (
                    period.account_id.clone(),
                    period.item.clone(),
                    period.period_start,
                )
            })
            .collect();
        for key in self.periods_of_lines(account_id, invoice).await? {
            if u64::try_from(found.len()).is_ok_and(|len| len > MAX_PERIODS) {
                break;
            }
            if !known.contains(&key) {
                let period = billing_period::Entity::find_by_id(key);
                let period = period.one(&self.tx).await?;
                found.extend(period.filter(|period| period.meter.is_some()));
            }
        }
        Ok(rows::all(found))
    }

    /// The keys of billing periods that lines of an invoice charge.
    async fn periods_of_lines(
        &self,
        account_id: Option<&AccountId>,
        invoice: &str,
    ) -> Result<Vec<PeriodKey>> {
        use invoice_line::Column as L;
        let mut lines = invoice_line::Entity::find()
            .select_only()
            .columns([L::AccountId, L::Item, L::PeriodStart])
            .distinct()
            .filter(L::Invoice.eq(invoice))
            .order_by_asc(L::AccountId)
            .order_by_asc(L::Item)
            .order_by_asc(L::PeriodStart)
            .limit(MAX_PERIODS.saturating_add(1));
        if let Some(account) = account_id {
            lines = lines.filter(L::AccountId.eq(account));
        }
        Ok(lines.into_tuple().all(&self.tx).await?)
    }

    /// An account's reports that may be billed in an interval.
    pub(crate) async fn figures(
        &self,
        account_id: &AccountId,
        time: Interval,
    ) -> Result<Vec<ReportFigure>> {
        let condition = passes_prefilter(account_id, UsagePrefilter::of(time));
        Ok(read_any_figures(&self.tx, condition).await?)
    }

    /// The reports of a stream that the present Stripe account may bill in an interval, of whatever account.
    pub(crate) async fn reports_to_compare(
        &self,
        stream: &Stream,
        time: Interval,
    ) -> Result<Vec<ReportFigure>> {
        Ok(read_stream(&self.tx, stream, time_to_compare(time)).await?)
    }

    /// The Stripe customer of an account's subscription.
    pub(crate) async fn customer_of_subscription(
        &self,
        account_id: &AccountId,
        subscription: &str,
    ) -> Result<Option<String>> {
        let key = (account_id.clone(), subscription.to_owned());
        let found = subscription::Entity::find_by_id(key);
        Ok(found.one(&self.tx).await?.map(|row| row.customer))
    }

    /// What the comparison of a billing period with its invoices found.
    pub(crate) async fn comparison_of(
        &self,
        period: &BillingPeriod,
    ) -> Result<Option<PeriodComparison>> {
        let key = (
            period.account_id.clone(),
            period.item.clone(),
            period.period_start,
            period.meter.clone().unwrap_or_default(),
        );
        let found = invoice_comparison::Entity::find_by_id(key);
        match found.one(&self.tx).await? {
            Some(row) => Ok(Some(with_invoices(&self.tx, row).await?)),
            None => Ok(None),
        }
    }

    /// The lines of invoices that charge a billing period, as they were last read.
    pub(crate) async fn invoice_lines_of(&self, period: &BillingPeriod) -> Result<Vec<StoredLine>> {
        use invoice_line::Column as L;
        let found = invoice_line::Entity::find()
            .filter(L::AccountId.eq(&period.account_id))
            .filter(L::Item.eq(&period.item))
            .filter(L::PeriodStart.eq(period.period_start))
            .order_by_asc(L::InvoiceCreated)
            .order_by_asc(L::Invoice)
            .order_by_asc(L::Line)
            .limit(MAX_INVOICE_LINES.saturating_add(1))
            .all(&self.tx)
            .await?;
        check_number(found.len(), MAX_INVOICE_LINES, || {
            format!(
                "more than {MAX_INVOICE_LINES} invoice lines charge the billing period of {} from {}; see the invoices at Stripe",
                period.item,
                rfc3339(period.period_start)
            )
        })?;
        Ok(rows::all(found))
    }
}

/// Refuses rows that were cut off, of which one more than a limit was read.
fn check_number(
    found: usize,
    limit: u64,
    why: impl FnOnce() -> String,
) -> std::result::Result<(), Violation> {
    if u64::try_from(found).is_ok_and(|found| found > limit) {
        return Err(Violation::invalid("account_id", why()));
    }
    Ok(())
}

impl From<idempotency_key::Model> for KeptIncrement {
    fn from(row: idempotency_key::Model) -> Self {
        Self {
            key: row.key,
            meter: row.meter,
            quantity: row.quantity,
            stated_at: row.stated_at,
            counted_at: row.created_at,
            report_id: row.report_id,
        }
    }
}

impl From<invoice_line::Model> for StoredLine {
    fn from(row: invoice_line::Model) -> Self {
        Self {
            invoice: row.invoice,
            line: row.line,
            status: row.invoice_status.into(),
            price: row.price,
            period: Interval {
                start: row.line_start,
                end: row.line_end,
            },
            quantity: row.quantity,
            amount: row.amount,
            currency: row.currency,
        }
    }
}
