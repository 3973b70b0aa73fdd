//! The boundaries of accounts, and their cache in each replica.

use std::{collections::HashMap, sync::Arc};

use moka::sync::Cache;
use sea_orm::{
    ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _,
    sea_query::{Expr, ExprTrait as _},
};

use super::{connection::Transaction, unindexed};
use crate::{
    domain::{Millis, account_id::AccountId, billing_period::RELEVANT_MS, window::Boundaries},
    entity::{account_link, billing_period, boundary_version},
};

/// The number of accounts whose boundaries a replica caches.
const REMEMBERED_ACCOUNTS: u64 = 100_000;
/// The number of accounts in one query, well below the limit of bound values of either engine.
const ACCOUNTS_PER_QUERY: usize = 1_000;

/// A replica's cache of boundaries. Each entry has the version at which it was read.
///
/// Every group commit reads the version, and reads entries of another version again.
#[derive(Clone, Debug)]
pub(crate) struct BoundaryCache(Cache<AccountId, (i64, Arc<Boundaries>)>);

impl Default for BoundaryCache {
    fn default() -> Self {
        Self(Cache::new(REMEMBERED_ACCOUNTS))
    }
}

impl BoundaryCache {
    /// The boundaries of some accounts, as seen by this transaction.
    pub(super) async fn load(
        &self,
        tx: &Transaction,
        accounts: impl Iterator<Item = AccountId>,
        now: Millis,
    ) -> Result<HashMap<AccountId, Arc<Boundaries>>, DbErr> {
        let version = boundary_version::Entity::find_by_id(1)
            .one(tx)
            .await?
            .map_or(0, |row| row.version);
        let mut known = HashMap::new();
        let mut missing = Vec::new();
        for account in accounts {
            if known.contains_key(&account) {
                continue;
            }
            match self.0.get(&account) {
                Some((read_at, boundaries)) if read_at == version => {
                    known.insert(account, boundaries);
                }
                _ => {
                    known.insert(account.clone(), Arc::default());
                    missing.push(account);
                }
            }
        }
        for accounts in missing.chunks(ACCOUNTS_PER_QUERY) {
            for (account, boundaries) in read_boundaries(tx, accounts, now).await? {
                self.0
                    .insert(account.clone(), (version, Arc::clone(&boundaries)));
                known.insert(account, boundaries);
            }
        }
        Ok(known)
    }
}

/// Reads the boundaries of some accounts that can still split a window.
pub(super) async fn read_boundaries(
    db: &impl ConnectionTrait,
    accounts: &[AccountId],
    now: Millis,
) -> Result<Vec<(AccountId, Arc<Boundaries>)>, DbErr> {
    let oldest = now.saturating_sub(RELEVANT_MS);
    let mut moments: HashMap<AccountId, Vec<Millis>> = HashMap::new();
    let links = account_link::Entity::find()
        .filter(account_link::Column::AccountId.is_in(accounts))
        .filter(account_link::Column::ValidFrom.gte(oldest))
        .all(db)
        .await?;
    for link in links {
        moments
            .entry(link.account_id)
            .or_default()
            .push(link.valid_from);
    }
    let periods = billing_period::Entity::find()
        .filter(billing_period::Column::AccountId.is_in(accounts))
        .filter(unindexed(billing_period::Column::PeriodEnd).gte(oldest))
        .all(db)
        .await?;
    for period in periods {
        let account = moments.entry(period.account_id).or_default();
        account.extend([period.period_start, period.period_end]);
    }
    Ok(accounts
        .iter()
        .map(|account| {
            let own = moments.remove(account).unwrap_or_default();
            (account.clone(), Arc::new(Boundaries::new(own)))
        })
        .collect())
}

/// Invalidates the boundary caches of all replicas.
pub(super) async fn bump_version(tx: &Transaction) -> Result<(), DbErr> {
    boundary_version::Entity::update_many()
        .col_expr(
            boundary_version::Column::Version,
            Expr::col(boundary_version::Column::Version).add(1),
        )
        .exec(tx)
        .await
        .map(|_| ())
}
