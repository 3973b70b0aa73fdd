//! Queries of linked customers that are read from Stripe by themselves at each poll, and why.

use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, sea_query::Expr,
};

use super::{
    Store,
    boundaries::record_boundary_change,
    deleted_accounts::is_deleted,
    links::{find_account, insert_link, read_links_of, taken_until},
    reassign::{reassign_open_reports, relink_reports},
};
use crate::{
    domain::{
        Millis,
        account::{Billing, link_start},
        account_id::AccountId,
        customer_watch::Watch,
        window::Slots,
    },
    entity::customer::{self, Column},
    error::{Error, Result},
};

const UNVERIFIED: &str = "unverified";
const TEST_CLOCK: &str = "test_clock";
const PROBLEM: &str = "problem";

/// A linked customer that is read by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchedCustomer {
    /// The Stripe customer.
    pub(crate) customer: String,
    /// The account.
    pub(crate) account_id: AccountId,
    /// Why.
    pub(crate) watch: Watch,
    /// Whether the start of its link is not decided yet.
    pub(crate) is_start_open: bool,
}

/// The columns of a reason.
fn columns(watch: Option<&Watch>) -> (Option<String>, Option<String>) {
    match watch {
        None => (None, None),
        Some(Watch::Unverified) => (Some(UNVERIFIED.to_owned()), None),
        Some(Watch::TestClock) => (Some(TEST_CLOCK.to_owned()), None),
        Some(Watch::Problem(problem)) => (Some(PROBLEM.to_owned()), Some(problem.clone())),
    }
}

/// The reason in a row.
fn watch_of(row: &customer::Model) -> std::result::Result<Option<Watch>, DbErr> {
    match row.watch.as_deref() {
        None => Ok(None),
        Some(UNVERIFIED) => Ok(Some(Watch::Unverified)),
        Some(TEST_CLOCK) => Ok(Some(Watch::TestClock)),
        Some(PROBLEM) => Ok(Some(Watch::Problem(
            row.problem.clone().unwrap_or_default(),
        ))),
        Some(other) => Err(DbErr::Type(format!(
            "invalid watch in table customers: {other}"
        ))),
    }
}

/// A row of a customer that an account is linked to now.
pub(super) fn new_row(
    account_id: &AccountId,
    customer: &str,
    watch: Option<&Watch>,
    is_start_open: bool,
) -> customer::ActiveModel {
    let (watch, problem) = columns(watch);
    customer::ActiveModel {
        customer: Set(customer.to_owned()),
        account_id: Set(account_id.clone()),
        watch: Set(watch),
        problem: Set(problem),
        is_start_open: Set(is_start_open),
    }
}

/// Why a customer is read by itself, if it is.
pub(super) async fn find_watch(
    db: &impl ConnectionTrait,
    customer: &str,
) -> std::result::Result<Option<Watch>, DbErr> {
    let row = customer::Entity::find_by_id(customer).one(db).await?;
    row.as_ref().map_or(Ok(None), watch_of)
}

impl Store {
    /// Linked customers that are read by themselves, in the order of their accounts, after the given one.
    pub(crate) async fn watched_customers(
        &self,
        after: Option<&AccountId>,
        limit: u64,
    ) -> Result<Vec<WatchedCustomer>> {
        let mut query = customer::Entity::find().filter(Column::Watch.is_not_null());
        if let Some(after) = after {
            query = query.filter(Column::AccountId.gt(after));
        }
        let rows = query
            .order_by_asc(Column::AccountId)
            .limit(limit)
            .all(&self.reader)
            .await?;
        let mut watched = Vec::new();
        for row in rows {
            if let Some(watch) = watch_of(&row)? {
                watched.push(WatchedCustomer {
                    customer: row.customer,
                    account_id: row.account_id,
                    watch,
                    is_start_open: row.is_start_open,
                });
            }
        }
        Ok(watched)
    }

    /// Why a customer is read by itself, if it is.
    pub(crate) async fn customer_watch(&self, customer: &str) -> Result<Option<Watch>> {
        Ok(find_watch(&self.reader, customer).await?)
    }

    /// Records why a customer of an account is read by itself, or that it no longer is.
    pub(crate) async fn watch_customer(
        &self,
        account_id: &AccountId,
        customer: &str,
        watch: Option<&Watch>,
    ) -> Result<()> {
        let (watch, problem) = columns(watch);
        customer::Entity::update_many()
            .col_expr(Column::Watch, Expr::value(watch))
            .col_expr(Column::Problem, Expr::value(problem))
            .filter(Column::Customer.eq(customer))
            .filter(Column::AccountId.eq(account_id))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Decides the start of a link that was stored without a time and without Stripe's answer: usage is billed from the
    /// start of the current period, as if Stripe had answered. `None` is a customer without a subscription.
    pub(crate) async fn decide_link_start(
        &self,
        account_id: &AccountId,
        customer: &str,
        charges_since: Option<Millis>,
        slots: Slots,
        now: Millis,
    ) -> Result<()> {
        let tx = self.begin_moving_boundaries().await?;
        let row = customer::Entity::find_by_id(customer).one(&tx).await?;
        let is_open = row.is_some_and(|row| row.is_start_open && row.account_id == *account_id)
            && !is_deleted(&tx, account_id).await?;
        let account = find_account(&tx, account_id).await?;
        let Some(account) = account.filter(|_| is_open) else {
            tx.rollback().await?;
            return Ok(());
        };
        customer::Entity::update_many()
            .col_expr(Column::IsStartOpen, Expr::value(false))
            .filter(Column::Customer.eq(customer))
            .exec(&tx)
            .await?;
        let billing = &account.link.billing;
        if let (Billing::Stripe { customer: own, .. }, Some(since)) = (billing, charges_since)
            && own == customer
        {
            let links = read_links_of(&tx, account_id).await?;
            let taken = taken_until(&tx, customer, account_id, now).await?;
            let linked_at = account.link.valid_from;
            let from = link_start(&links, customer, taken, None, Some(since), linked_at)
                .map_err(|violation| Error::Internal(violation.message.into()))?;
            if from < linked_at {
                let version = account.link.version.saturating_add(1);
                insert_link(&tx, account_id, billing, (version, from), now).await?;
                reassign_open_reports(&tx, account_id, slots, now).await?;
                relink_reports(&tx, account_id).await?;
                record_boundary_change(&tx, account_id, now).await?;
            }
        }
        tx.commit().await?;
        Ok(())
    }
}
