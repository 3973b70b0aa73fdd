//! Queries of subscriptions: their last synced state, and which of them to sync next.

mod periods;
mod snapshot;

use std::collections::{HashMap, HashSet};

use sea_orm::{
    ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _},
};

use super::{Store, database_clock::is_due_at, links::read_links, rows};
use crate::store::connection::Transaction;
use crate::{
    domain::{
        DAY_MS, Millis,
        account::Link,
        account_id::AccountId,
        billing_period::BillingPeriod,
        subscription::{SubscriptionSnapshot, SyncedSubscription},
    },
    entity::{billing_period, customer, subscription},
    error::Result,
};

pub(crate) use periods::InvoicedPeriod;
pub(super) use snapshot::{record_change, record_snapshot};

/// Periods that ended longer ago are not updated.
const RELEVANT_MS: Millis = 40 * DAY_MS;

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
            .filter(billing_period::Column::PeriodEnd.gt(now.saturating_sub(RELEVANT_MS)))
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

    /// Subscriptions that have not ended and were last synced before a time, ordered by account and subscription, after
    /// the given ones.
    pub(crate) async fn unseen_subscriptions(
        &self,
        since: Millis,
        after: Option<&(AccountId, String)>,
        limit: u64,
    ) -> Result<Vec<SyncedSubscription>> {
        use subscription::Column;
        let mut query = subscription::Entity::find()
            .filter(Column::EndedAt.is_null())
            .filter(
                Column::SyncedAt
                    .lt(since)
                    // A clock was ahead.
                    .or(Column::SyncedAt.gt(since.saturating_add(DAY_MS))),
            );
        if let Some((account, subscription)) = after {
            let place = [
                Expr::col(Column::AccountId),
                Expr::col(Column::Subscription),
            ];
            let last = [account.as_str(), subscription].map(Expr::value);
            query = query.filter(Expr::tuple(place).gt(Expr::tuple(last)));
        }
        let unseen = query
            .order_by_asc(Column::AccountId)
            .order_by_asc(Column::Subscription)
            .limit(limit)
            .all(&self.reader)
            .await?;
        Ok(rows::all(unseen))
    }

    /// Subscriptions whose requested sync is due.
    pub(crate) async fn requested_syncs(
        &self,
        now: Millis,
        limit: u64,
    ) -> Result<Vec<SyncedSubscription>> {
        let requested = subscription::Entity::find()
            .filter(is_due_at(subscription::Column::SyncRequestedAt, now))
            .order_by_asc(subscription::Column::SyncRequestedAt)
            .limit(limit)
            .all(&self.reader)
            .await?;
        Ok(rows::all(requested))
    }

    /// Records that subscriptions were read from Stripe and had not changed.
    pub(crate) async fn touch_subscriptions(&self, seen: &[String], now: Millis) -> Result<()> {
        if seen.is_empty() {
            return Ok(());
        }
        subscription::Entity::update_many()
            .col_expr(subscription::Column::SyncedAt, Expr::value(now))
            .filter(subscription::Column::Subscription.is_in(seen))
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

/// Whether the stored subscription equals the one from Stripe, so that no lock is needed.
pub(crate) fn is_up_to_date(
    stored: &SyncedSubscription,
    periods: &[BillingPeriod],
    link_ended: bool,
    snapshot: &SubscriptionSnapshot,
) -> bool {
    let is_same = stored.status == snapshot.status
        && stored.billing_mode == snapshot.billing_mode
        && (stored.cancel_at == snapshot.cancel_at || snapshot.ended_at.is_some())
        && stored.ended_at == snapshot.ended_at
        && stored.customer == snapshot.customer;
    let has_all = snapshot.items.iter().all(|item| {
        snapshot.ended_at.is_some()
            || periods
                .iter()
                .any(|period| period.item == item.item && period.period_end == item.period.end)
    });
    let items: HashSet<&str> = snapshot
        .items
        .iter()
        .map(|item| item.item.as_str())
        .collect();
    let last = snapshot.items.iter().map(|item| item.period.end).min();
    let has_more = periods.iter().any(|period| {
        !items.contains(period.item.as_str()) && last.is_some_and(|last| period.period_end >= last)
    });
    is_same && has_all && !has_more && (link_ended != snapshot.is_live || snapshot.items.is_empty())
}

/// Requests a sync before the next poll. An earlier request that is still pending is kept.
pub(super) async fn request_sync(
    tx: &Transaction,
    account_id: &AccountId,
    subscription: &str,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    subscription::Entity::update_many()
        .col_expr(subscription::Column::SyncRequestedAt, Expr::value(now))
        .filter(subscription::Column::AccountId.eq(account_id))
        .filter(subscription::Column::Subscription.eq(subscription))
        .filter(subscription::Column::SyncRequestedAt.is_null())
        .exec(tx)
        .await
        .map(|_| ())
}
