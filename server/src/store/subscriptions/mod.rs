//! Queries of subscriptions: their last synced state, and which of them to sync next.

mod link_end;
mod periods;
mod snapshot;
mod sync_request;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    Select,
    sea_query::{Expr, ExprTrait as _},
};

use super::{
    Store,
    database_clock::{MAX_WAIT_MS, due_ranges},
    links::read_links,
    of_shard::lock_rows,
    rows, unindexed,
};
use crate::{
    domain::{
        Millis,
        account::Link,
        account_id::AccountId,
        billing_period::{BillingPeriod, RELEVANT_MS},
        subscription::{SubscriptionSnapshot, SyncedSubscription},
    },
    entity::{billing_period, customer, subscription},
    error::Result,
};

pub(crate) use periods::InvoicedPeriod;
use periods::is_price_replaced;
pub(super) use periods::{finalize_period, read_periods_around};
use snapshot::is_end_taken_back;
pub(super) use snapshot::{record_change, record_followed, record_requested_end};
pub(super) use sync_request::request_sync;

impl Store {
    /// The accounts of some customers, by customer.
    pub(crate) async fn accounts_of_customers(
        &self,
        customers: &[&str],
    ) -> Result<HashMap<String, AccountId>> {
        let rows = customer::Entity::find()
            .filter(customer::Column::Customer.is_in(customers.iter().copied()))
            .all(&self.reader)
            .await?;
        Ok(rows
            .into_iter()
            .map(|row| (row.customer, row.account_id))
            .collect())
    }

    /// The latest link of each of some accounts.
    pub(crate) async fn links_of_accounts(
        &self,
        accounts: &[&AccountId],
    ) -> Result<HashMap<AccountId, Link>> {
        let links = read_links(&self.reader, accounts.iter().copied()).await?;
        Ok(links
            .into_iter()
            .filter_map(|(account_id, mut own)| Some((account_id, own.pop()?)))
            .collect())
    }

    /// The stored subscriptions of some accounts, each with its latest periods.
    pub(crate) async fn stored_subscriptions(
        &self,
        accounts: &[&AccountId],
        now: Millis,
    ) -> Result<Vec<(SyncedSubscription, Vec<BillingPeriod>)>> {
        let subscriptions = subscription::Entity::find()
            .filter(subscription::Column::AccountId.is_in(accounts.iter().copied()))
            .all(&self.reader)
            .await?;
        let periods = billing_period::Entity::find()
            .filter(billing_period::Column::AccountId.is_in(accounts.iter().copied()))
            .filter(
                unindexed(billing_period::Column::PeriodEnd).gt(now.saturating_sub(RELEVANT_MS)),
            )
            .all(&self.reader)
            .await?;
        let periods: Vec<BillingPeriod> = rows::all(periods);
        Ok(subscriptions
            .into_iter()
            .map(SyncedSubscription::from)
            .map(|row| {
                let own = periods.iter().filter(|period| {
                    period.account_id == row.account_id
                        && period.subscription.as_deref() == Some(&row.subscription)
                });
                let own = own.cloned().collect();
                (row, own)
            })
            .collect())
    }

    /// Subscriptions that have not ended and were last synced before a time, after the given one. The latest sync comes
    /// first, so those that cannot be synced do not delay others.
    pub(crate) async fn unseen_subscriptions(
        &self,
        since: Millis,
        after: Option<&SyncedSubscription>,
        limit: u64,
    ) -> Result<Vec<SyncedSubscription>> {
        use subscription::Column;
        let place = [Column::SyncedAt, Column::AccountId, Column::Subscription];
        let query = |range: Expr, after: Option<&SyncedSubscription>| {
            let mut query = subscription::Entity::find()
                .filter(Column::EndedAt.is_null())
                .filter(range);
            if let Some(last) = after {
                let values = [
                    Expr::value(last.synced_at),
                    Expr::value(&last.account_id),
                    Expr::value(last.subscription.as_str()),
                ];
                query = query.filter(Expr::tuple(place.map(Expr::col)).lt(Expr::tuple(values)));
            }
            place.into_iter().fold(query, Select::order_by_desc)
        };
        // A clock was ahead.
        let now = Ord::max(self.shared_now().await?, since);
        let ahead = Column::SyncedAt.gt(now.saturating_add(MAX_WAIT_MS));
        let queries = match after {
            Some(last) if last.synced_at >= since => vec![query(ahead, after)],
            _ => vec![query(Column::SyncedAt.lt(since), after), query(ahead, None)],
        };
        self.one_after_the_other(queries, limit).await
    }

    /// Subscriptions whose requested sync is due.
    pub(crate) async fn requested_syncs(
        &self,
        now: Millis,
        limit: u64,
    ) -> Result<Vec<SyncedSubscription>> {
        let requested_at = subscription::Column::SyncRequestedAt;
        let query = |range| {
            subscription::Entity::find()
                .filter(range)
                .order_by_asc(requested_at)
        };
        let queries = due_ranges(requested_at, now).map(query);
        self.one_after_the_other(queries.into(), limit).await
    }

    /// The first subscriptions that some queries find, each of one range of an index. One query of two ranges would read
    /// and sort every row of both.
    async fn one_after_the_other(
        &self,
        queries: Vec<Select<subscription::Entity>>,
        limit: u64,
    ) -> Result<Vec<SyncedSubscription>> {
        let mut found: Vec<subscription::Model> = Vec::new();
        for query in queries {
            let left = limit.saturating_sub(u64::try_from(found.len()).unwrap_or(u64::MAX));
            if left > 0 {
                found.extend(query.limit(left).all(&self.reader).await?);
            }
        }
        Ok(rows::all(found))
    }

    /// Records that subscriptions were read from Stripe and had not changed. Those that were read later stay as they are,
    /// unless a clock was ahead.
    pub(crate) async fn touch_subscriptions(&self, seen: &[String], now: Millis) -> Result<()> {
        if seen.is_empty() {
            return Ok(());
        }
        let synced_at = || unindexed(subscription::Column::SyncedAt);
        let ahead = synced_at().gt(now.saturating_add(MAX_WAIT_MS));
        let tx = self.begin().await?;
        // In the order in which others lock them.
        let in_order = subscription::Entity::find()
            .filter(subscription::Column::Subscription.is_in(seen))
            .order_by_asc(subscription::Column::AccountId)
            .order_by_asc(subscription::Column::Subscription);
        lock_rows(&tx, in_order, subscription::Column::AccountId).await?;
        subscription::Entity::update_many()
            .col_expr(subscription::Column::SyncedAt, Expr::value(now))
            .filter(subscription::Column::Subscription.is_in(seen))
            .filter(synced_at().lt(now).or(ahead))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Records before an end is requested at Stripe that it was requested here, or that Stripe refused.
    pub(crate) async fn note_requested_end(
        &self,
        account_id: &AccountId,
        subscription: &str,
        is_requested: bool,
    ) -> Result<()> {
        subscription::Entity::update_many()
            .col_expr(
                subscription::Column::EndRequested,
                Expr::value(is_requested),
            )
            .filter(subscription::Column::AccountId.eq(account_id))
            .filter(subscription::Column::Subscription.eq(subscription))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Delays a requested sync, because Stripe did not respond.
    pub(crate) async fn delay_sync(
        &self,
        requested: &SyncedSubscription,
        until: Millis,
    ) -> Result<()> {
        subscription::Entity::update_many()
            .col_expr(subscription::Column::SyncRequestedAt, Expr::value(until))
            .filter(subscription::Column::AccountId.eq(&requested.account_id))
            .filter(subscription::Column::Subscription.eq(&requested.subscription))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Clears a sync request, unless a newer one was made since it was read.
    pub(crate) async fn clear_sync_request(&self, requested: &SyncedSubscription) -> Result<()> {
        subscription::Entity::update_many()
            .col_expr(
                subscription::Column::SyncRequestedAt,
                Expr::value(None::<i64>),
            )
            .filter(subscription::Column::AccountId.eq(&requested.account_id))
            .filter(subscription::Column::Subscription.eq(&requested.subscription))
            .filter(subscription::Column::SyncRequestedAt.eq(requested.sync_requested_at))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Records that a customer was deleted at Stripe. Its usage then becomes `customer_deleted`, not `too_late`.
    pub(crate) async fn mark_customer_deleted(
        &self,
        account_id: &AccountId,
        customer: &str,
        now: Millis,
    ) -> Result<()> {
        use subscription::Column;
        subscription::Entity::update_many()
            .col_expr(Column::CustomerDeletedAt, Expr::value(now))
            .filter(Column::AccountId.eq(account_id))
            .filter(Column::Customer.eq(customer))
            .filter(Column::CustomerDeletedAt.is_null())
            .exec(&self.writer)
            .await?;
        Ok(())
    }
}

/// Whether the stored subscription equals the one from Stripe, so that no lock is needed. `link_ended` is whether the
/// account's link has ended, for the one that it follows.
pub(crate) fn is_up_to_date(
    stored: &SyncedSubscription,
    periods: &[BillingPeriod],
    link_ended: Option<bool>,
    snapshot: &SubscriptionSnapshot,
) -> bool {
    let is_taken_back = stored.is_end_requested && is_end_taken_back(snapshot);
    let is_same = stored.status == snapshot.status
        && stored.billing_mode == snapshot.billing_mode
        && (stored.cancel_at == snapshot.cancel_at || snapshot.ended_at.is_some())
        && stored.ended_at == snapshot.ended_at
        && stored.customer == snapshot.customer
        && stored.is_companion == link_ended.is_none()
        && !is_taken_back;
    let has_all = snapshot.items.iter().all(|item| {
        snapshot.ended_at.is_some()
            || periods.iter().any(|period| {
                period.item == item.item
                    && period.period_end == item.period.end
                    && !is_price_replaced(period, item)
            })
    });
    // The period of an item that was removed, or of a price that was replaced, goes on.
    let has_more = periods.iter().any(|period| {
        !snapshot.has_item(&period.item, period.price.as_deref())
            && period.period_end > snapshot.read_at
    });
    is_same
        && has_all
        && !has_more
        && link_ended
            .is_none_or(|link_ended| link_ended != snapshot.is_live() || snapshot.items.is_empty())
}
