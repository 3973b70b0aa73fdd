//! The billing periods of other items that may charge the same usage as the one that is compared.

use std::collections::BTreeSet;

use sea_orm::{
    ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _},
};

use crate::{
    domain::{
        Millis, account_id::AccountId, billing_period::BillingPeriod, invoice_comparison::Compared,
    },
    entity::{
        billing_period::{self, Column as P},
        invoice_comparison, subscription,
    },
    error::Result,
    store::{Store, connection::Transaction, rows, unindexed},
};

/// The number of other periods that are read.
const MAX_PERIODS: u64 = 1_000;

impl Store {
    /// The periods of other items of a customer and meter that share time with a period, and what their comparisons found.
    pub(crate) async fn overlapping_periods(
        &self,
        period: &BillingPeriod,
        customer: &str,
    ) -> Result<Vec<(BillingPeriod, Option<Compared>)>> {
        let found = self.overlapping(period, customer).await?;
        let mut periods = Vec::new();
        for other in found {
            let key = (
                other.account_id.clone(),
                other.item.clone(),
                other.period_start,
                other.meter.clone().unwrap_or_default(),
            );
            let row = invoice_comparison::Entity::find_by_id(key)
                .one(&self.reader)
                .await?;
            periods.push((other, row.as_ref().map(Compared::from)));
        }
        Ok(periods)
    }
    async fn overlapping(
        &self,
        period: &BillingPeriod,
        customer: &str,
    ) -> Result<Vec<BillingPeriod>> {
        let subscriptions = subscription::Entity::find()
            .filter(subscription::Column::Customer.eq(customer))
            .limit(MAX_PERIODS)
            .all(&self.reader)
            .await?;
        let accounts: BTreeSet<&AccountId> =
            subscriptions.iter().map(|row| &row.account_id).collect();
        let own = subscriptions.iter().map(|row| row.subscription.as_str());
        let found = billing_period::Entity::find()
            .filter(P::AccountId.is_in(accounts))
            .filter(P::Item.ne(&period.item))
            .filter(P::Meter.eq(period.meter.as_deref()))
            .filter(P::PeriodStart.lt(period.period_end))
            .filter(unindexed(P::PeriodEnd).gt(period.period_start))
            .filter(P::Subscription.is_in(own))
            .order_by_asc(P::PeriodStart)
            .limit(MAX_PERIODS)
            .all(&self.reader)
            .await?;
        Ok(rows::all(found))
    }
}

/// Makes those of some periods due that were compared.
pub(super) async fn compare_again(
    tx: &Transaction,
    periods: &[BillingPeriod],
    now: Millis,
) -> std::result::Result<(), DbErr> {
    for period in periods {
        billing_period::Entity::update_many()
            .col_expr(P::CompareAgainAt, Expr::value(now))
            .filter(P::AccountId.eq(&period.account_id))
            .filter(P::Item.eq(&period.item))
            .filter(P::PeriodStart.eq(period.period_start))
            .filter(P::ComparedAt.is_not_null())
            .exec(tx)
            .await?;
    }
    Ok(())
}
