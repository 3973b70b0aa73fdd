//! Which subscriptions accounts follow, as Stripe last said, and which of them are to be looked at.

mod facts;
mod periods;

use std::collections::{HashMap, HashSet};

use sea_orm::{
    ColumnTrait as _, DatabaseTransaction, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _},
};

use super::{Store, boundaries::read_links};
use crate::{
    entity::{billing_period, customer, subscription},
    error::Result,
    usage::{DAY_MS, Millis, account::Link, subscription::Facts},
};

pub(super) use facts::{end_link, record_change, record_facts};
pub(crate) use periods::InvoicedPeriod;

/// Periods that ended longer ago than this are left as they are.
const RELEVANT_MS: Millis = 40 * DAY_MS;

/// A subscription as it stands in the database.
pub(crate) type Followed = subscription::Model;

/// A billing period as it stands in the database.
pub(crate) type Period = billing_period::Model;

impl Store {
    /// The accounts that some customers belong to, by customer.
    pub(crate) async fn accounts_of_customers(
        &self,
        customers: &[&str],
    ) -> Result<HashMap<String, String>> {
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
        accounts: &[&str],
    ) -> Result<HashMap<String, Link>> {
        let links = read_links(&self.reader, accounts.iter().copied()).await?;
        Ok(links
            .into_iter()
            .filter_map(|(account_id, mut own)| Some((account_id, own.pop()?)))
            .collect())
    }

    /// What is stored of some accounts' subscriptions, each with its latest periods.
    pub(crate) async fn followed(
        &self,
        accounts: &[&str],
        now: Millis,
    ) -> Result<Vec<(Followed, Vec<Period>)>> {
        let rows = subscription::Entity::find()
            .filter(subscription::Column::AccountId.is_in(accounts.iter().copied()))
            .all(&self.reader)
            .await?;
        let periods = billing_period::Entity::find()
            .filter(billing_period::Column::AccountId.is_in(accounts.iter().copied()))
            .filter(billing_period::Column::PeriodEnd.gt(now.saturating_sub(RELEVANT_MS)))
            .all(&self.reader)
            .await?;
        Ok(rows
            .into_iter()
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

    /// Subscriptions that are not known to have ended and were not looked at since a moment, after the account
    /// and subscription given.
    pub(crate) async fn unseen_subscriptions(
        &self,
        since: Millis,
        after: Option<&(String, String)>,
        limit: u64,
    ) -> Result<Vec<Followed>> {
        use subscription::Column;
        let mut query = subscription::Entity::find()
            .filter(Column::EndedAt.is_null())
            .filter(Column::SyncedAt.lt(since));
        if let Some((account, subscription)) = after {
            let place = [
                Expr::col(Column::AccountId),
                Expr::col(Column::Subscription),
            ];
            let last = [account, subscription].map(|name| Expr::value(name.as_str()));
            query = query.filter(Expr::tuple(place).gt(Expr::tuple(last)));
        }
        Ok(query
            .order_by_asc(Column::AccountId)
            .order_by_asc(Column::Subscription)
            .limit(limit)
            .all(&self.reader)
            .await?)
    }

    /// Subscriptions that somebody needs the truth of by now.
    pub(crate) async fn wanted_subscriptions(
        &self,
        now: Millis,
        limit: u64,
    ) -> Result<Vec<Followed>> {
        Ok(subscription::Entity::find()
            .filter(subscription::Column::WantedAt.lte(now))
            .order_by_asc(subscription::Column::WantedAt)
            .limit(limit)
            .all(&self.reader)
            .await?)
    }

    /// Notes that subscriptions were looked at and stand as they were.
    pub(crate) async fn touch_subscriptions(&self, seen: &[String], now: Millis) -> Result<()> {
        subscription::Entity::update_many()
            .col_expr(subscription::Column::SyncedAt, Expr::value(now))
            .filter(subscription::Column::Subscription.is_in(seen))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Has a subscription that Stripe did not answer for wait.
    pub(crate) async fn postpone_wanted(&self, wanted: &Followed, until: Millis) -> Result<()> {
        subscription::Entity::update_many()
            .col_expr(subscription::Column::WantedAt, Expr::value(until))
            .filter(subscription::Column::AccountId.eq(&wanted.account_id))
            .filter(subscription::Column::Subscription.eq(&wanted.subscription))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Notes that nobody needs the truth of a subscription more than was wanted at a moment.
    pub(crate) async fn satisfy(&self, wanted: &Followed) -> Result<()> {
        subscription::Entity::update_many()
            .col_expr(subscription::Column::WantedAt, Expr::value(None::<i64>))
            .filter(subscription::Column::AccountId.eq(&wanted.account_id))
            .filter(subscription::Column::Subscription.eq(&wanted.subscription))
            .filter(subscription::Column::WantedAt.eq(wanted.wanted_at))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Notes that Stripe has a customer no more: what an invoice would have charged is parked, not missed.
    pub(crate) async fn note_customer_gone(
        &self,
        account_id: &str,
        customer: &str,
        now: Millis,
    ) -> Result<()> {
        use subscription::Column;
        subscription::Entity::update_many()
            .col_expr(Column::CustomerGoneAt, Expr::value(now))
            .filter(Column::AccountId.eq(account_id))
            .filter(Column::Customer.eq(customer))
            .filter(Column::CustomerGoneAt.is_null())
            .exec(&self.writer)
            .await?;
        Ok(())
    }
}

/// Whether what is stored says the same as Stripe does, so that nothing needs a lock.
pub(crate) fn stands(
    stored: &Followed,
    periods: &[Period],
    link_ended: bool,
    facts: &Facts,
) -> bool {
    let is_same = stored.status == facts.status
        && stored.billing_mode == facts.billing_mode
        && (stored.cancel_at == facts.cancel_at || facts.ended_at.is_some())
        && stored.ended_at == facts.ended_at
        && stored.customer == facts.customer;
    let has_all = facts.items.iter().all(|item| {
        facts.ended_at.is_some()
            || periods
                .iter()
                .any(|period| period.item == item.item && period.period_end == item.period.end)
    });
    let items: HashSet<&str> = facts.items.iter().map(|item| item.item.as_str()).collect();
    let last = facts.items.iter().map(|item| item.period.end).min();
    let has_more = periods.iter().any(|period| {
        !items.contains(period.item.as_str()) && last.is_some_and(|last| period.period_end >= last)
    });
    is_same && has_all && !has_more && (link_ended != facts.is_live || facts.items.is_empty())
}

/// Asks the sync for a subscription's truth before the next poll; one that waits goes on waiting.
pub(super) async fn want(
    tx: &DatabaseTransaction,
    account_id: &str,
    subscription: &str,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    subscription::Entity::update_many()
        .col_expr(subscription::Column::WantedAt, Expr::value(now))
        .filter(subscription::Column::AccountId.eq(account_id))
        .filter(subscription::Column::Subscription.eq(subscription))
        .filter(
            subscription::Column::WantedAt
                .is_null()
                .or(subscription::Column::WantedAt.lt(now)),
        )
        .filter(subscription::Column::WantedAt.is_null())
        .exec(tx)
        .await
        .map(|_| ())
}
