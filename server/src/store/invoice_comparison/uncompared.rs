//! Queries of usage that lies in no billing period: the streams one by one, their periods, and what was found.

use std::collections::BTreeMap;

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, EntityTrait as _, FromQueryResult, QueryFilter as _, Statement,
    sea_query::{Expr, ExprTrait as _},
};

use super::results::{columns_of, upsert_row};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        invoice_comparison::{Compared, InvoiceFinding},
        stream::Stream,
        uncompared_usage::UncomparedUsage,
        window::Interval,
    },
    entity::{billing_period, invoice_comparison, subscription},
    error::Result,
    store::{Store, unindexed},
};

/// A stream with the time of its first event.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub(crate) struct FirstEvent {
    pub(crate) customer: String,
    pub(crate) meter: String,
    pub(crate) event_timestamp: Millis,
}

impl Store {
    /// The stream after another one, in the order of customers and meters.
    pub(crate) async fn next_stream(&self, after: Option<&Stream>) -> Result<Option<FirstEvent>> {
        let (customer, meter) = after.map_or(("", ""), |stream| (&stream.customer, &stream.meter));
        let sql = "SELECT customer, meter, event_timestamp FROM usage_reports \
                   WHERE (customer, meter) > ($1, $2) AND event_timestamp IS NOT NULL \
                   ORDER BY customer, meter, event_timestamp LIMIT 1";
        let values = [customer.into(), meter.into()];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        Ok(FirstEvent::find_by_statement(statement)
            .one(&self.reader)
            .await?)
    }

    /// The billing periods of a stream, of whatever account, that end after a time: those that are or will be compared.
    pub(crate) async fn periods_of_stream(
        &self,
        stream: &Stream,
        since: Millis,
    ) -> Result<Vec<Interval>> {
        use billing_period::Column as P;
        let subscriptions = subscription::Entity::find()
            .filter(subscription::Column::Customer.eq(&stream.customer))
            .all(&self.reader)
            .await?;
        let mut found = Vec::new();
        for row in subscriptions {
            let periods = billing_period::Entity::find()
                .filter(P::AccountId.eq(&row.account_id))
                .filter(P::Subscription.eq(&row.subscription))
                .filter(P::Meter.eq(&stream.meter))
                .filter(unindexed(P::PeriodEnd).gt(since))
                .all(&self.reader)
                .await?;
            found.extend(periods.into_iter().map(|row| Interval {
                start: row.period_start,
                end: row.period_end,
            }));
        }
        Ok(found)
    }

    /// Records the usage of a stream without a billing period since a time. What was found before and is in a period by
    /// now is forgotten. Returns what is new.
    pub(crate) async fn record_uncompared(
        &self,
        stream: &Stream,
        since: Millis,
        found: &[UncomparedUsage],
        now: Millis,
    ) -> Result<Vec<UncomparedUsage>> {
        use invoice_comparison::Column as C;
        let stored = invoice_comparison::Entity::find()
            // For the partial index.
            .filter(Expr::cust("finding = 'no_period'"))
            .filter(C::Customer.eq(&stream.customer))
            .filter(C::Meter.eq(&stream.meter))
            .filter(C::PeriodStart.gte(since))
            .all(&self.reader)
            .await?;
        let mut stored: BTreeMap<(AccountId, Millis), invoice_comparison::Model> = stored
            .into_iter()
            .map(|row| ((row.account_id.clone(), row.period_start), row))
            .collect();
        let mut new = Vec::new();
        let mut changed = Vec::new();
        for usage in found {
            let compared = Compared {
                finding: InvoiceFinding::NoPeriod,
                reported: usage.quantity,
                invoiced: None,
            };
            let before = stored.remove(&(usage.account_id.clone(), usage.time.start));
            let before = before.as_ref().map(Compared::from);
            if before != Some(compared) {
                changed.push((usage, compared));
            }
            if before.is_none() {
                new.push(usage.clone());
            }
        }
        if changed.is_empty() && stored.is_empty() {
            return Ok(new);
        }
        let tx = self.begin().await?;
        for (usage, compared) in changed {
            let row = invoice_comparison::ActiveModel {
                account_id: Set(usage.account_id.clone()),
                // No subscription item charges it.
                item: Set(stream.customer.clone()),
                period_start: Set(usage.time.start),
                period_end: Set(usage.time.end),
                subscription: Set(String::new()),
                customer: Set(stream.customer.clone()),
                meter: Set(stream.meter.clone()),
                price: Set(None),
                ..columns_of(compared, now)
            };
            upsert_row(&tx, row).await?;
        }
        for (account_id, period_start) in stored.into_keys() {
            let key = (
                account_id,
                stream.customer.clone(),
                period_start,
                stream.meter.clone(),
            );
            invoice_comparison::Entity::delete_by_id(key)
                .exec(&tx)
                .await?;
        }
        tx.commit().await?;
        Ok(new)
    }
}
