//! Pages of accounts: those that are linked, and those that were only counted.

use std::collections::{BTreeSet, HashSet};

use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, Statement,
    sea_query::{Alias, Expr, ExprTrait as _, Query},
};

use super::{Store, connection::Transaction, links::account_of, usage_sums::TABLES};
use crate::{
    domain::{account::Account, account_id::AccountId},
    entity::{account_link, billing_period, subscription},
    error::Result,
};

/// A page of accounts.
#[derive(Debug, Default)]
pub(crate) struct ListedAccounts {
    /// Those that are linked, by id.
    pub(crate) linked: Vec<Account>,
    /// The ids of those that were only counted.
    pub(crate) counted: Vec<String>,
    /// After which account the next page begins, if there is one.
    pub(crate) next: Option<String>,
}

impl Store {
    /// Accounts that were linked, after one.
    pub(crate) async fn list_linked_accounts(
        &self,
        after: &str,
        limit: u64,
    ) -> Result<ListedAccounts> {
        let tx = self.begin_reading().await?;
        let mut linked = linked_after(&tx, after, limit.saturating_add(1)).await?;
        tx.rollback().await?;
        let has_more = u64::try_from(linked.len()).is_ok_and(|len| len > limit);
        if has_more {
            linked.pop();
        }
        let next = linked.last().filter(|_| has_more);
        let next = next.map(|last| last.id.to_string());
        Ok(ListedAccounts {
            linked,
            counted: Vec::new(),
            next,
        })
    }

    /// Accounts that were linked or counted, after one.
    pub(crate) async fn list_all_accounts(
        &self,
        after: &str,
        limit: u64,
    ) -> Result<ListedAccounts> {
        let read = limit.saturating_add(1);
        // An account that is linked meanwhile is found once.
        let tx = self.begin_reading().await?;
        let linked = linked_after(&tx, after, read).await?;
        let counted = counted_after(&tx, self.is_distributed(), after, read).await?;
        tx.rollback().await?;
        let ids = linked.iter().map(|account| account.id.as_str());
        let mut ids: BTreeSet<&str> = ids.chain(counted.iter().map(String::as_str)).collect();
        let has_more = u64::try_from(ids.len()).is_ok_and(|len| len > limit);
        while u64::try_from(ids.len()).is_ok_and(|len| len > limit) {
            ids.pop_last();
        }
        let last = ids.pop_last().unwrap_or_default().to_owned();
        let known: HashSet<&str> = linked.iter().map(|account| account.id.as_str()).collect();
        let counted = counted
            .iter()
            .filter(|id| **id <= last && !known.contains(id.as_str()))
            .cloned()
            .collect();
        drop(known);
        let linked = linked.into_iter().filter(|account| *account.id <= *last);
        Ok(ListedAccounts {
            linked: linked.collect(),
            counted,
            next: has_more.then_some(last),
        })
    }
}

/// The ids of accounts with reports after one, in their order.
///
/// Each step finds the next account of a table by its index, so an account with many reports takes no longer than one with
/// few. Citus cannot repeat steps over shards: there, the reports of these accounts are read.
async fn counted_after(
    tx: &Transaction,
    is_distributed: bool,
    after: &str,
    limit: u64,
) -> std::result::Result<Vec<String>, DbErr> {
    let mut found = BTreeSet::new();
    for (table, _) in TABLES {
        let sql = if is_distributed {
            format!(
                "SELECT DISTINCT account_id FROM {table} WHERE account_id > $1 ORDER BY account_id LIMIT $2"
            )
        } else {
            let next = |after: &str| {
                format!(
                    "SELECT account_id FROM {table} WHERE account_id > {after} ORDER BY account_id LIMIT 1"
                )
            };
            let (first, next) = (next("$1"), next("found.account_id"));
            format!(
                "WITH RECURSIVE found(account_id, place) AS (SELECT ({first}), 1 UNION ALL SELECT ({next}), place + 1 \
                 FROM found WHERE found.account_id IS NOT NULL AND place < $2) \
                 SELECT account_id FROM found WHERE account_id IS NOT NULL"
            )
        };
        let values = [after.into(), limit.into()];
        let statement = Statement::from_sql_and_values(tx.get_database_backend(), sql, values);
        for row in tx.query_all_raw(statement).await? {
            found.insert(row.try_get("", "account_id")?);
        }
    }
    Ok(found.into_iter().collect())
}

/// Accounts that were linked, after one, by id.
async fn linked_after(
    tx: &Transaction,
    after: &str,
    limit: u64,
) -> std::result::Result<Vec<Account>, DbErr> {
    let newer = Alias::new("newer");
    let is_superseded = Expr::exists(
        Query::select()
            .expr(Expr::val(1))
            .from_as(account_link::Entity, newer.clone())
            .and_where(
                Expr::col((newer.clone(), account_link::Column::AccountId))
                    .equals((account_link::Entity, account_link::Column::AccountId)),
            )
            // Without it, PostgreSQL reads the index of all accounts up to the given one.
            .and_where(Expr::col((newer.clone(), account_link::Column::AccountId)).gt(after))
            .and_where(
                Expr::col((newer, account_link::Column::Version)).gt(Expr::col((
                    account_link::Entity,
                    account_link::Column::Version,
                ))),
            )
            .to_owned(),
    );
    let rows = account_link::Entity::find()
        .filter(account_link::Column::AccountId.gt(after))
        .filter(is_superseded.not())
        .order_by_asc(account_link::Column::AccountId)
        .limit(limit)
        .all(tx)
        .await?;
    let periods = billing_period::Entity::find()
        .filter(billing_period::Column::AccountId.is_in(rows.iter().map(|row| &row.account_id)))
        .order_by_asc(billing_period::Column::PeriodStart)
        .all(tx)
        .await?;
    let companions = subscription::Entity::find()
        .filter(subscription::Column::AccountId.is_in(rows.iter().map(|row| &row.account_id)))
        .all(tx)
        .await?;
    let companions: HashSet<(&AccountId, Option<&str>)> = companions
        .iter()
        .filter(|row| row.is_companion)
        .map(|row| (&row.account_id, Some(row.subscription.as_str())))
        .collect();
    Ok(rows
        .into_iter()
        .map(|row| {
            let last = periods.iter().rfind(|period| {
                let of = (&period.account_id, period.subscription.as_deref());
                period.account_id == row.account_id
                    && period.recorded_at >= row.recorded_at
                    && !companions.contains(&of)
            });
            account_of(row, last)
        })
        .collect())
}
