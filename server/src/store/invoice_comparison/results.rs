//! Records the results of comparisons with invoices: the lines, the finding, and the states of the reports.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _, QuerySelect as _,
    sea_query::{Expr, OnConflict},
};

use crate::{
    domain::{
        HOUR_MS, Millis,
        billing_period::BillingPeriod,
        invoice_comparison::{Compared, InvoiceFinding, Judgement},
        invoice_line::{Invoice, InvoiceLine},
        read_order::is_outdated,
        report::{State, Transition},
        report_figure::ReportFigure,
    },
    entity::{
        billing_period::{self, Column as P},
        folded_report, invoice_comparison, invoice_line,
        usage_report::{self, UsageReportState},
    },
    error::Result,
    store::{
        Store, connection::Transaction, deleted_accounts::is_deleted,
        invoice_comparison::overlapping::compare_again,
    },
};

/// The number of reports that one statement changes.
const REPORTS_PER_STATEMENT: usize = 500;

/// The comparison of one billing period.
#[derive(Debug)]
pub(crate) struct ComparisonResult<'a> {
    /// The billing period.
    pub(crate) period: &'a BillingPeriod,
    /// `cus_...`
    pub(crate) customer: &'a str,
    /// Its reports that Stripe's totals contain.
    pub(crate) reports: &'a [ReportFigure],
    /// The lines that bill its usage, with their invoices.
    pub(crate) lines: &'a [(&'a Invoice, &'a InvoiceLine)],
    /// What was found, and when it is compared again.
    pub(crate) judgement: Judgement,
    /// The periods of other items that may charge its usage. They are compared again if the result is new.
    pub(crate) others: &'a [BillingPeriod],
}

/// What became of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// A report changed since it was read: nothing was recorded.
    Stale,
    /// Nothing was found yet, or the same as before.
    Same,
    /// The finding or a figure is new. With the transition that it led to, and the number of reports.
    New(Option<(Transition, usize)>),
}

impl Store {
    /// Records a comparison that began at a time, if its reports are still as they were read and nothing that was read
    /// later is recorded.
    pub(crate) async fn record_comparison(
        &self,
        result: &ComparisonResult<'_>,
        now: Millis,
    ) -> Result<Recorded> {
        let period = result.period;
        let recorded_at = self.now().await?;
        let tx = self.begin_within_boundaries().await?;
        if is_deleted(&tx, &period.account_id).await? {
            // Its rows are moving to another id.
            tx.rollback().await?;
            return Ok(Recorded::Stale);
        }
        let mut recorded = Recorded::Same;
        if let Some(compared) = result.judgement.compared {
            let key = (
                period.account_id.clone(),
                period.item.clone(),
                period.period_start,
                period.meter.clone().unwrap_or_default(),
            );
            let before = invoice_comparison::Entity::find_by_id(key).one(&tx).await?;
            let before = before.as_ref().map(Compared::from);
            let Some(moved) = move_reports(&tx, result, compared).await? else {
                tx.rollback().await?;
                return Ok(Recorded::Stale);
            };
            replace_lines(&tx, result, now).await?;
            if before != Some(compared) {
                upsert(&tx, result, compared, now).await?;
                recorded = Recorded::New(moved);
            }
        }
        // Locked after the reports, as in every transaction.
        let stored = lock_period(&tx, period).await?;
        if is_outdated(now, stored.compared_at, recorded_at) {
            // A replica that took over meanwhile has read them later.
            tx.rollback().await?;
            return Ok(Recorded::Same);
        }
        if recorded != Recorded::Same {
            // What this one charges is not charged by others.
            compare_again(&tx, result.others, now).await?;
        }
        let again_at = next_comparison(stored.compare_again_at, result.judgement.again_at, now);
        set_times(period, now, again_at)
            .col_expr(P::CompareFailingSince, Expr::value(None::<i64>))
            .col_expr(P::CompareError, Expr::value(None::<String>))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(recorded)
    }

    /// Records why periods could not be compared by a comparison that began at a time, and when they are compared again,
    /// unless a later one is recorded.
    pub(crate) async fn delay_comparison(
        &self,
        periods: &[BillingPeriod],
        (until, why): (Millis, &str),
        now: Millis,
    ) -> Result<()> {
        for period in periods {
            let recorded_at = self.now().await?;
            let tx = self.begin().await?;
            // Its account may have been deleted: the period has another one then.
            let stored = find_locked_period(&tx, period).await?;
            let stored = stored.filter(|row| !is_outdated(now, row.compared_at, recorded_at));
            let Some(stored) = stored else {
                tx.rollback().await?;
                continue;
            };
            let since = stored.compare_failing_since.unwrap_or(now);
            set_times(period, now, Some(until))
                .col_expr(P::CompareFailingSince, Expr::value(since))
                .col_expr(P::CompareError, Expr::value(why))
                .exec(&tx)
                .await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

async fn lock_period(
    tx: &Transaction,
    period: &BillingPeriod,
) -> std::result::Result<billing_period::Model, DbErr> {
    let row = find_locked_period(tx, period).await?;
    row.ok_or_else(|| DbErr::RecordNotFound(format!("a billing period of item {}", period.item)))
}

async fn find_locked_period(
    tx: &Transaction,
    period: &BillingPeriod,
) -> std::result::Result<Option<billing_period::Model>, DbErr> {
    let key = (
        period.account_id.clone(),
        period.item.clone(),
        period.period_start,
    );
    billing_period::Entity::find_by_id(key)
        .lock_exclusive()
        .one(tx)
        .await
}

/// When a period is compared again: what a webhook has asked for while its invoices were read comes first. Times far
/// ahead were stored by a wrong clock.
fn next_comparison(
    stored: Option<Millis>,
    judged: Option<Millis>,
    begun_at: Millis,
) -> Option<Millis> {
    let asked = stored.filter(|at| *at > begun_at && *at < begun_at.saturating_add(HOUR_MS));
    [asked, judged].into_iter().flatten().min()
}

/// Changes the states of the reports as a finding says. `None` if a report changed meanwhile.
async fn move_reports(
    tx: &Transaction,
    result: &ComparisonResult<'_>,
    compared: Compared,
) -> std::result::Result<Option<Option<(Transition, usize)>>, DbErr> {
    let found = result
        .reports
        .iter()
        .filter(|report| report.state == State::Invoiced);
    let quantities = found.map(|report| report.usage.quantity);
    let invoiced = quantities.fold(0, i64::saturating_add);
    let transition = if compared.finding == InvoiceFinding::Equal {
        Transition::Invoice
    } else if compared.invoiced == Some(invoiced) {
        // Others came late. These are still on its invoices.
        return Ok(Some(None));
    } else {
        Transition::TakeOffInvoice
    };
    let step = |state: State| state.after(&transition).map(|next| (state, next));
    let Some((from, next)) = State::IN_TOTALS.into_iter().find_map(step) else {
        return Ok(Some(None));
    };
    let of_state = result.reports.iter().filter(|report| report.state == from);
    let (folded, mut reports): (Vec<&ReportFigure>, Vec<&ReportFigure>) =
        of_state.partition(|report| report.is_folded);
    // In the order in which all transactions lock reports.
    reports.sort_unstable_by_key(|report| report.id);
    for own in reports.chunk_by(|one, other| one.account_id == other.account_id) {
        for chunk in own.chunks(REPORTS_PER_STATEMENT) {
            let changed = set_state(tx, chunk, (from, next)).await?;
            if usize::try_from(changed) != Ok(chunk.len()) {
                return Ok(None);
            }
        }
    }
    for row in &folded {
        if !set_folded_state(tx, row, (from, next)).await? {
            return Ok(None);
        }
    }
    let of_folded = folded.iter().map(|row| usize::try_from(row.reports));
    let of_folded = of_folded.map(|number| number.unwrap_or(usize::MAX));
    let moved = of_folded.fold(reports.len(), usize::saturating_add);
    Ok(Some((moved > 0).then_some((transition, moved))))
}

/// Changes the state of reports of one account. Returns how many were in the former one.
async fn set_state(
    tx: &Transaction,
    reports: &[&ReportFigure],
    (from, next): (State, State),
) -> std::result::Result<u64, DbErr> {
    use usage_report::Column;
    let Some(first) = reports.first() else {
        return Ok(0);
    };
    let ids = reports.iter().map(|report| report.id);
    let changed = usage_report::Entity::update_many()
        .col_expr(Column::State, Expr::value(UsageReportState::from(next)))
        .filter(Column::AccountId.eq(&first.account_id))
        .filter(Column::State.eq(UsageReportState::from(from)))
        .filter(Column::Id.is_in(ids))
        .exec(tx)
        .await?;
    Ok(changed.rows_affected)
}

/// Changes the state of a folded row. Returns whether it was in the former one.
async fn set_folded_state(
    tx: &Transaction,
    row: &ReportFigure,
    (from, next): (State, State),
) -> std::result::Result<bool, DbErr> {
    use folded_report::Column;
    let changed = folded_report::Entity::update_many()
        .col_expr(Column::State, Expr::value(UsageReportState::from(next)))
        .filter(Column::AccountId.eq(&row.account_id))
        .filter(Column::WindowStart.eq(row.usage.window_start))
        .filter(Column::Id.eq(row.id))
        .filter(Column::State.eq(UsageReportState::from(from)))
        .exec(tx)
        .await?;
    Ok(changed.rows_affected == 1)
}

async fn replace_lines(
    tx: &Transaction,
    result: &ComparisonResult<'_>,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    use invoice_line::Column as L;
    let period = result.period;
    invoice_line::Entity::delete_many()
        .filter(L::AccountId.eq(&period.account_id))
        .filter(L::Item.eq(&period.item))
        .filter(L::PeriodStart.eq(period.period_start))
        .exec(tx)
        .await?;
    for (invoice, line) in result.lines {
        let row = invoice_line::ActiveModel {
            account_id: Set(period.account_id.clone()),
            invoice: Set(invoice.id.clone()),
            line: Set(line.id.clone()),
            invoice_status: Set(invoice.status.into()),
            invoice_created: Set(invoice.created),
            item: Set(period.item.clone()),
            period_start: Set(period.period_start),
            price: Set(line.price.clone()),
            line_start: Set(line.period.start),
            line_end: Set(line.period.end),
            quantity: Set(line.quantity),
            amount: Set(line.amount),
            currency: Set(line.currency.clone()),
            read_at: Set(now),
        };
        // Of another period before, whose edge moved.
        let replace = OnConflict::columns([L::AccountId, L::Invoice, L::Line])
            .update_columns([
                L::InvoiceStatus,
                L::Item,
                L::PeriodStart,
                L::Price,
                L::LineStart,
                L::LineEnd,
                L::Quantity,
                L::Amount,
                L::ReadAt,
            ])
            .to_owned();
        invoice_line::Entity::insert(row)
            .on_conflict(replace)
            .exec_without_returning(tx)
            .await?;
    }
    Ok(())
}

async fn upsert(
    tx: &Transaction,
    result: &ComparisonResult<'_>,
    compared: Compared,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    let period = result.period;
    let row = invoice_comparison::ActiveModel {
        account_id: Set(period.account_id.clone()),
        item: Set(period.item.clone()),
        period_start: Set(period.period_start),
        period_end: Set(period.period_end),
        subscription: Set(period.subscription.clone().unwrap_or_default()),
        customer: Set(result.customer.to_owned()),
        meter: Set(period.meter.clone().unwrap_or_default()),
        price: Set(period.price.clone()),
        ..columns_of(compared, now)
    };
    upsert_row(tx, row).await
}

/// The columns of a new result. It is not acknowledged.
pub(super) fn columns_of(compared: Compared, now: Millis) -> invoice_comparison::ActiveModel {
    invoice_comparison::ActiveModel {
        finding: Set(compared.finding.into()),
        reported: Set(compared.reported),
        invoiced: Set(compared.invoiced),
        changed_at: Set(now),
        acknowledged_at: Set(None),
        acknowledged_by: Set(None),
        acknowledged_reason: Set(None),
        ..Default::default()
    }
}

/// Inserts a result, or replaces the one before it.
pub(super) async fn upsert_row(
    tx: &Transaction,
    row: invoice_comparison::ActiveModel,
) -> std::result::Result<(), DbErr> {
    use invoice_comparison::Column as C;
    let replace = OnConflict::columns([C::AccountId, C::Item, C::PeriodStart, C::Meter])
        .update_columns([
            C::PeriodEnd,
            C::Customer,
            C::Price,
            C::Finding,
            C::Reported,
            C::Invoiced,
            C::ChangedAt,
            C::AcknowledgedAt,
            C::AcknowledgedBy,
            C::AcknowledgedReason,
        ])
        .to_owned();
    invoice_comparison::Entity::insert(row)
        .on_conflict(replace)
        .exec_without_returning(tx)
        .await
        .map(|_| ())
}

fn set_times(
    period: &BillingPeriod,
    now: Millis,
    again_at: Option<Millis>,
) -> sea_orm::UpdateMany<billing_period::Entity> {
    billing_period::Entity::update_many()
        .col_expr(P::ComparedAt, Expr::value(now))
        .col_expr(P::CompareAgainAt, Expr::value(again_at))
        .filter(P::AccountId.eq(&period.account_id))
        .filter(P::Item.eq(&period.item))
        .filter(P::PeriodStart.eq(period.period_start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_during_a_comparison_leads_to_another_one() {
        let (begun, judged) = (1_000 * HOUR_MS, Some(1_024 * HOUR_MS));
        for (stored, expected) in [
            (Some(begun - 1), judged),
            (Some(begun + 5), Some(begun + 5)),
            (Some(2_000 * HOUR_MS), judged),
            (None, judged),
        ] {
            assert_eq!(next_comparison(stored, judged, begun), expected);
        }
        assert_eq!(
            next_comparison(Some(begun + 5), None, begun),
            Some(begun + 5)
        );
        assert_eq!(next_comparison(Some(begun - 5), None, begun), None);
    }
}
