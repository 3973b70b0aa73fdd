//! Queries of the comparison with invoices: which billing periods to compare, their reports, and the results.

pub(crate) mod acknowledge;
mod differences;
mod overlapping;
mod results;
#[cfg(test)]
mod tests;
pub(crate) mod uncompared;
mod waiting;

use std::fmt;

use sea_orm::{
    ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
    sea_query::{Expr, ExprTrait as _},
};

use super::{Store, connection::Transaction, rows, unindexed};
use crate::{
    domain::{
        DAY_MS, Millis, SECOND_MS,
        account_id::AccountId,
        billing_period::BillingPeriod,
        invoice_comparison::{FIRST_READ_MS, LONGEST_WAIT_MS, PeriodComparison},
        invoice_line::InvoiceStatus,
        report_figure::ReportFigure,
        stream::Stream,
        window::Interval,
    },
    entity::{
        billing_period::{self, Column},
        invoice_comparison, invoice_line, subscription,
    },
    error::Result,
};

pub(crate) use differences::Differences;
pub(crate) use results::{ComparisonResult, Recorded};

/// How long after a period's end a webhook about an invoice leads to another comparison. Later ones are left to the job.
const AGAIN_AFTER_WEBHOOK_MS: Millis = 70 * DAY_MS;

/// A number of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowCount {
    /// The number; a lower bound if not all were read.
    pub(crate) number: usize,
    /// Whether not all were read.
    pub(crate) is_more: bool,
}

impl fmt::Display for RowCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_least = if self.is_more { "at least " } else { "" };
        write!(f, "{at_least}{}", self.number)
    }
}

/// A subscription whose periods are compared.
#[derive(Clone, Debug)]
pub(crate) struct ComparedSubscription {
    /// `cus_...`
    pub(crate) customer: String,
    /// When it ended.
    pub(crate) ended_at: Option<Millis>,
    /// When it was last read from Stripe.
    pub(crate) synced_at: Millis,
    /// Its periods, oldest first.
    pub(crate) periods: Vec<BillingPeriod>,
}

impl Store {
    /// Billing periods whose invoices are to be read now: those never read first, then those due again.
    pub(crate) async fn periods_to_compare(
        &self,
        now: Millis,
        limit: u64,
    ) -> Result<Vec<BillingPeriod>> {
        let again = Column::CompareAgainAt;
        // Another integration bills what is before it.
        let moment = self.billing_start().await?.moment();
        // A clock was ahead.
        let ahead = now.saturating_add(LONGEST_WAIT_MS).saturating_add(DAY_MS);
        let queries = [
            billing_period::Entity::find()
                .filter(Column::ComparedAt.is_null())
                .filter(Column::Subscription.is_not_null())
                .filter(Column::PeriodEnd.lte(now.saturating_sub(FIRST_READ_MS)))
                .filter(Column::PeriodEnd.gt(moment))
                .order_by_asc(Column::PeriodEnd),
            billing_period::Entity::find()
                .filter(again.lte(now))
                .order_by_asc(again),
            billing_period::Entity::find()
                .filter(again.gt(ahead))
                .order_by_asc(again),
        ];
        let mut found: Vec<billing_period::Model> = Vec::new();
        for query in queries {
            let left = limit.saturating_sub(u64::try_from(found.len()).unwrap_or(u64::MAX));
            if left > 0 {
                found.extend(query.limit(left).all(&self.reader).await?);
            }
        }
        Ok(rows::all(found))
    }

    /// An account's subscription with its periods that ended after a time.
    pub(crate) async fn find_compared_subscription(
        &self,
        account_id: &AccountId,
        subscription: &str,
        since: Millis,
    ) -> Result<Option<ComparedSubscription>> {
        let key = (account_id.clone(), subscription.to_owned());
        let row = subscription::Entity::find_by_id(key)
            .one(&self.reader)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let periods = billing_period::Entity::find()
            .filter(Column::AccountId.eq(account_id))
            .filter(Column::Subscription.eq(subscription))
            .filter(unindexed(Column::PeriodEnd).gt(since))
            .order_by_asc(Column::PeriodStart)
            .all(&self.reader)
            .await?;
        Ok(Some(ComparedSubscription {
            customer: row.customer,
            ended_at: row.ended_at,
            synced_at: row.synced_at,
            periods: rows::all(periods),
        }))
    }

    /// The reports of a stream that the present Stripe account may bill in an interval, of whatever account: Stripe sums
    /// by customer.
    pub(crate) async fn reports_to_compare(
        &self,
        stream: &Stream,
        time: Interval,
    ) -> Result<Vec<ReportFigure>> {
        self.figures_of_stream(stream, time_to_compare(time)).await
    }

    /// Makes the compared periods of an account due, because one of its invoices changed.
    pub(crate) async fn compare_again(&self, account_id: &AccountId, now: Millis) -> Result<()> {
        let since = now.saturating_sub(AGAIN_AFTER_WEBHOOK_MS);
        billing_period::Entity::update_many()
            .col_expr(Column::CompareAgainAt, Expr::value(now))
            .filter(Column::AccountId.eq(account_id))
            .filter(Column::ComparedAt.is_not_null())
            .filter(unindexed(Column::PeriodEnd).gt(since))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// The comparisons of an account's periods that overlap an interval, with their invoices.
    pub(crate) async fn comparisons_of(
        &self,
        account_id: &AccountId,
        time: Interval,
    ) -> Result<Vec<PeriodComparison>> {
        use invoice_comparison::Column as C;
        let found = invoice_comparison::Entity::find()
            .filter(C::AccountId.eq(account_id))
            .filter(C::PeriodStart.lt(time.end))
            .filter(C::PeriodEnd.gt(time.start))
            .order_by_asc(C::PeriodStart)
            .all(&self.reader)
            .await?;
        let mut comparisons = Vec::new();
        for row in found {
            comparisons.push(self.with_invoices(row).await?);
        }
        Ok(comparisons)
    }

    pub(super) async fn with_invoices(
        &self,
        row: invoice_comparison::Model,
    ) -> Result<PeriodComparison> {
        Ok(with_invoices(&self.reader, row).await?)
    }
}

/// The times of the meter events that Stripe may bill in an interval.
pub(super) fn time_to_compare(time: Interval) -> Interval {
    // If a window contains no whole second, the event's second begins before it.
    Interval {
        start: time.start.saturating_sub(SECOND_MS),
        ..time
    }
}

/// A comparison with its invoices.
pub(super) async fn with_invoices(
    db: &impl ConnectionTrait,
    row: invoice_comparison::Model,
) -> std::result::Result<PeriodComparison, DbErr> {
    use invoice_line::Column as L;
    let lines = invoice_line::Entity::find()
        .filter(L::AccountId.eq(&row.account_id))
        .filter(L::Item.eq(&row.item))
        .filter(L::PeriodStart.eq(row.period_start))
        .order_by_asc(L::InvoiceCreated)
        .order_by_asc(L::Invoice)
        .all(db)
        .await?;
    let mut invoices: Vec<(String, InvoiceStatus)> = lines
        .into_iter()
        .map(|line| (line.invoice, line.invoice_status.into()))
        .collect();
    invoices.dedup();
    Ok(PeriodComparison {
        invoices,
        ..row.into()
    })
}

/// Makes compared periods due again that contain a time of a stream, because usage was confirmed there late.
pub(super) async fn compare_again_around(
    tx: &Transaction,
    stream: &Stream,
    at: Millis,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    let subscriptions = subscription::Entity::find()
        .filter(subscription::Column::Customer.eq(&stream.customer))
        .all(tx)
        .await?;
    for row in subscriptions {
        billing_period::Entity::update_many()
            .col_expr(Column::CompareAgainAt, Expr::value(now))
            .filter(Column::AccountId.eq(&row.account_id))
            .filter(Column::Subscription.eq(&row.subscription))
            .filter(Column::Meter.eq(&stream.meter))
            .filter(Column::PeriodStart.lte(at))
            .filter(unindexed(Column::PeriodEnd).gt(at))
            .filter(Column::ComparedAt.is_not_null())
            .filter(Column::CompareAgainAt.is_null())
            .exec(tx)
            .await?;
    }
    Ok(())
}
