//! Queries of comparisons that are due and were not made: their invoices cannot be read, or they were not tried.

use std::collections::BTreeMap;

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    sea_query::ExprTrait as _,
};

use super::RowCount;
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        invoice_comparison::FIRST_READ_MS,
        waiting_comparison::{ComparisonTimes, OVERDUE_MS, WaitingComparison},
        window::Interval,
    },
    entity::billing_period::{self, Column},
    error::Result,
    store::{Store, unindexed},
};

/// Periods of each kind that are read. With more, their number is a lower bound.
const MAX_READ: u64 = 10_000;

/// How a period's comparison waits, if it does.
fn waiting(row: billing_period::Model, now: Millis) -> Option<WaitingComparison> {
    let times = ComparisonTimes {
        period_end: row.period_end,
        compared_at: row.compared_at,
        again_at: row.compare_again_at,
        failing_since: row.compare_failing_since,
    };
    row.subscription.as_ref()?;
    Some(WaitingComparison {
        since: times.waits_since(now)?,
        account_id: row.account_id,
        item: row.item,
        meter: row.meter.unwrap_or_default(),
        period: Interval {
            start: row.period_start,
            end: row.period_end,
        },
        why: row.compare_error,
    })
}

impl Store {
    /// Comparisons that wait, the oldest first: their number, and the first of them.
    pub(crate) async fn waiting_comparisons(
        &self,
        now: Millis,
        limit: usize,
    ) -> Result<(RowCount, Vec<WaitingComparison>)> {
        let overdue = now.saturating_sub(OVERDUE_MS);
        // Periods of another integration are not compared.
        let moment = self.billing_start().await?.moment();
        let queries = [
            billing_period::Entity::find()
                .filter(Column::CompareFailingSince.is_not_null())
                .order_by_asc(Column::CompareFailingSince),
            billing_period::Entity::find()
                .filter(Column::ComparedAt.is_null())
                .filter(Column::Subscription.is_not_null())
                .filter(Column::PeriodEnd.lte(overdue.saturating_sub(FIRST_READ_MS)))
                .filter(Column::PeriodEnd.gt(moment))
                .order_by_asc(Column::PeriodEnd),
            billing_period::Entity::find()
                .filter(Column::CompareAgainAt.lte(overdue))
                .order_by_asc(Column::CompareAgainAt),
        ];
        let (mut found, mut is_more) = (BTreeMap::new(), false);
        for query in queries {
            let rows = query.limit(MAX_READ).all(&self.reader).await?;
            is_more |= u64::try_from(rows.len()).is_ok_and(|len| len >= MAX_READ);
            for row in rows {
                let Some(one) = waiting(row, now) else {
                    continue;
                };
                let key = (
                    one.since,
                    one.account_id.clone(),
                    one.item.clone(),
                    one.period.start,
                );
                found.insert(key, one);
            }
        }
        let number = found.len();
        let count = RowCount { number, is_more };
        Ok((count, found.into_values().take(limit).collect()))
    }

    /// The comparisons of an account that wait, of periods that overlap an interval.
    pub(crate) async fn waiting_comparisons_of(
        &self,
        account_id: &AccountId,
        time: Interval,
        now: Millis,
    ) -> Result<Vec<WaitingComparison>> {
        let moment = self.billing_start().await?.moment();
        let found = billing_period::Entity::find()
            .filter(Column::AccountId.eq(account_id))
            .filter(Column::PeriodStart.lt(time.end))
            .filter(Column::PeriodEnd.gt(time.start))
            .order_by_asc(Column::PeriodStart)
            .filter(unindexed(Column::PeriodEnd).gt(moment))
            .limit(MAX_READ)
            .all(&self.reader)
            .await?;
        let waiting = found.into_iter().filter_map(|row| waiting(row, now));
        Ok(waiting.collect())
    }
}
