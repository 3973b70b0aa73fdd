//! Pages of accounts: those that are linked, and those that were only counted.

use std::collections::{BTreeSet, HashSet};

use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, Statement, Value,
    sea_query::{Alias, Expr, ExprTrait as _, Query},
};

use super::{Store, connection::Transaction, links::account_of, usage_sums::TABLES};
use crate::{
    domain::{account::Account, account_id::AccountId, usage_list::end_of_prefix},
    entity::{account_link, billing_period, subscription},
    error::Result,
};

/// Which accounts a page may have.
#[derive(Debug)]
pub(crate) struct AccountRange<'a> {
    /// Only those after this one.
    pub(crate) after: &'a str,
    /// Only those whose ids begin with this; empty means all.
    pub(crate) prefix: &'a str,
}

impl AccountRange<'_> {
    /// What is below the ids of a page, the greatest such text. Ids have characters between the space and `~` only.
    fn lower(&self) -> String {
        let before_prefix = || {
            let (last, before) = self.prefix.as_bytes().split_last()?;
            let mut text = String::from_utf8(before.to_vec()).ok()?;
            text.push(char::from(last.checked_sub(1)?));
            // After all ids that begin so, and before the prefix.
            text.push('~');
            Some(text)
        };
        let before = before_prefix().unwrap_or_default();
        if *self.after < *before {
            before
        } else {
            self.after.to_owned()
        }
    }

    /// What is above the ids of a page, if anything is.
    fn upper(&self) -> Option<String> {
        end_of_prefix(self.prefix)
    }
}

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
    /// Accounts of a range that were linked.
    pub(crate) async fn list_linked_accounts(
        &self,
        range: &AccountRange<'_>,
        limit: u64,
    ) -> Result<ListedAccounts> {
        let tx = self.begin_reading().await?;
        let mut linked = linked_in(&tx, range, limit.saturating_add(1)).await?;
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

    /// Accounts of a range that were linked or counted.
    pub(crate) async fn list_all_accounts(
        &self,
        range: &AccountRange<'_>,
        limit: u64,
    ) -> Result<ListedAccounts> {
        let read = limit.saturating_add(1);
        // An account that is linked meanwhile is found once.
        let tx = self.begin_reading().await?;
        let linked = linked_in(&tx, range, read).await?;
        let counted = counted_in(&tx, self.is_distributed(), range, read).await?;
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

/// The ids of accounts of a range with reports, in their order.
///
/// Each step finds the next account of a table by its index, so an account with many reports takes no longer than one with
/// few. Citus cannot repeat steps over shards: there, the reports of these accounts are read.
async fn counted_in(
    tx: &Transaction,
    is_distributed: bool,
    range: &AccountRange<'_>,
    limit: u64,
) -> std::result::Result<Vec<String>, DbErr> {
    let (lower, upper) = (range.lower(), range.upper());
    let below = upper.as_ref().map_or("", |_| " AND account_id < $3");
    let mut values: Vec<Value> = vec![lower.into(), limit.into()];
    values.extend(upper.map(Value::from));
    let mut found = BTreeSet::new();
    for (table, _) in TABLES {
        let sql = if is_distributed {
            format!(
                "SELECT DISTINCT account_id FROM {table} WHERE account_id > $1{below} ORDER BY account_id LIMIT $2"
            )
        } else {
            let next = |after: &str| {
                format!(
                    "SELECT account_id FROM {table} WHERE account_id > {after}{below} ORDER BY account_id LIMIT 1"
                )
            };
            let (first, next) = (next("$1"), next("found.account_id"));
            format!(
                "WITH RECURSIVE found(account_id, place) AS (SELECT ({first}), 1 UNION ALL SELECT ({next}), place + 1 \
                 FROM found WHERE found.account_id IS NOT NULL AND place < $2) \
                 SELECT account_id FROM found WHERE account_id IS NOT NULL"
            )
        };
        let statement =
            Statement::from_sql_and_values(tx.get_database_backend(), sql, values.clone());
        for row in tx.query_all_raw(statement).await? {
            found.insert(row.try_get("", "account_id")?);
        }
    }
    Ok(found.into_iter().collect())
}

/// Accounts of a range that were linked, by id.
async fn linked_in(
    tx: &Transaction,
    range: &AccountRange<'_>,
    limit: u64,
) -> std::result::Result<Vec<Account>, DbErr> {
    let (lower, upper) = (range.lower(), range.upper());
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
            .and_where(Expr::col((newer.clone(), account_link::Column::AccountId)).gt(&*lower))
            .and_where(
                Expr::col((newer, account_link::Column::Version)).gt(Expr::col((
                    account_link::Entity,
                    account_link::Column::Version,
                ))),
            )
            .to_owned(),
    );
    let mut rows = account_link::Entity::find()
        .filter(account_link::Column::AccountId.gt(&*lower))
        .filter(is_superseded.not())
        .order_by_asc(account_link::Column::AccountId)
        .limit(limit);
    if let Some(upper) = upper {
        rows = rows.filter(account_link::Column::AccountId.lt(upper));
    }
    let rows = rows.all(tx).await?;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_begins_with_its_prefix_or_after_an_account() {
        for (after, prefix, expected) in [
            ("", "", ("", None)),
            ("a", "", ("a", None)),
            ("", "team:", ("team9~", Some("team;"))),
            ("a", "team:", ("team9~", Some("team;"))),
            ("team:1", "team:", ("team:1", Some("team;"))),
        ] {
            let range = AccountRange { after, prefix };
            assert_eq!((&*range.lower(), range.upper().as_deref()), expected);
        }
    }

    proptest! {
        #[test]
        fn a_range_has_the_accounts_after_one_that_begin_with_the_prefix(
            after in "([A-Za-z0-9._:@/+=-]{1,4})?", prefix in "([A-Za-z0-9._:@/+=-]{1,4})?", id in "[A-Za-z0-9._:@/+=-]{1,6}",
        ) {
            let range = AccountRange { after: &after, prefix: &prefix };
            let is_within = *range.lower() < *id && range.upper().is_none_or(|upper| id < upper);
            prop_assert_eq!(is_within, id.starts_with(&prefix) && id > after);
        }
    }
}
