//! The boundaries of accounts, and what a replica remembers of them.

use std::{collections::HashMap, sync::Arc};

use moka::sync::Cache;
use sea_orm::{
    ColumnTrait as _, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait as _,
    QueryFilter as _,
    sea_query::{Expr, ExprTrait as _},
};

use crate::{
    domain::{
        DAY_MS, Millis,
        account::{Billing, Link},
        window::Boundaries,
    },
    entity::{account_link, billing_period, boundary_version},
};

/// How many accounts' boundaries a replica remembers.
const REMEMBERED_ACCOUNTS: u64 = 100_000;
/// Boundaries older than this cut no window that can still be counted in.
const RELEVANT_MS: Millis = 40 * DAY_MS;
/// How many accounts one query asks for: well below what the engines bind.
const ACCOUNTS_PER_QUERY: usize = 1_000;

/// What a replica remembers of boundaries, each with the version it was read at.
///
/// Only a shortcut: the version is read in every group commit, and what has another one is read again.
#[derive(Clone, Debug)]
pub(crate) struct BoundaryCache(Cache<Arc<str>, (i64, Arc<Boundaries>)>);

impl Default for BoundaryCache {
    fn default() -> Self {
        Self(Cache::new(REMEMBERED_ACCOUNTS))
    }
}

impl BoundaryCache {
    /// The boundaries of some accounts as they stand in this transaction.
    pub(super) async fn load(
        &self,
        tx: &DatabaseTransaction,
        accounts: impl Iterator<Item = Arc<str>>,
        now: Millis,
    ) -> Result<HashMap<Arc<str>, Arc<Boundaries>>, DbErr> {
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
                    known.insert(Arc::clone(&account), Arc::default());
                    missing.push(account);
                }
            }
        }
        for accounts in missing.chunks(ACCOUNTS_PER_QUERY) {
            for (account, boundaries) in read(tx, accounts, now).await? {
                self.0
                    .insert(Arc::clone(&account), (version, Arc::clone(&boundaries)));
                known.insert(account, boundaries);
            }
        }
        Ok(known)
    }
}

/// Reads the boundaries of some accounts that may still cut a window.
pub(super) async fn read(
    db: &impl ConnectionTrait,
    accounts: &[Arc<str>],
    now: Millis,
) -> Result<Vec<(Arc<str>, Arc<Boundaries>)>, DbErr> {
    let oldest = now.saturating_sub(RELEVANT_MS);
    let names = || accounts.iter().map(|account| &**account);
    let mut moments: HashMap<String, Vec<Millis>> = HashMap::new();
    let links = account_link::Entity::find()
        .filter(account_link::Column::AccountId.is_in(names()))
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
        .filter(billing_period::Column::AccountId.is_in(names()))
        .filter(billing_period::Column::PeriodEnd.gte(oldest))
        .all(db)
        .await?;
    for period in periods {
        let account = moments.entry(period.account_id).or_default();
        account.extend([period.period_start, period.period_end]);
    }
    Ok(accounts
        .iter()
        .map(|account| {
            let own = moments.remove(&**account).unwrap_or_default();
            (Arc::clone(account), Arc::new(Boundaries::new(own)))
        })
        .collect())
}

/// Tells every replica that what it remembers of boundaries is stale.
pub(super) async fn bump_version(tx: &DatabaseTransaction) -> Result<(), DbErr> {
    boundary_version::Entity::update_many()
        .col_expr(
            boundary_version::Column::Version,
            Expr::col(boundary_version::Column::Version).add(1),
        )
        .exec(tx)
        .await
        .map(|_| ())
}

/// The links of some accounts, each account's oldest first.
pub(super) async fn read_links(
    db: &impl ConnectionTrait,
    accounts: impl Iterator<Item = &str>,
) -> Result<HashMap<String, Vec<Link>>, DbErr> {
    let rows = account_link::Entity::find()
        .filter(account_link::Column::AccountId.is_in(accounts))
        .all(db)
        .await?;
    let mut links: HashMap<String, Vec<Link>> = HashMap::new();
    for row in rows {
        let (account_id, link) = link(row);
        links.entry(account_id).or_default().push(link);
    }
    for own in links.values_mut() {
        own.sort_by_key(|link| link.version);
    }
    Ok(links)
}

/// A row of the table as the domain sees it.
pub(super) fn link(row: account_link::Model) -> (String, Link) {
    let billing = match row.customer {
        Some(customer) if row.ended => Billing::Ended {
            customer,
            subscription: row.subscription,
        },
        Some(customer) => Billing::Stripe {
            customer,
            subscription: row.subscription,
        },
        None => Billing::Free,
    };
    let link = Link {
        version: row.version,
        valid_from: row.valid_from,
        billing,
        recorded_at: row.recorded_at,
    };
    (row.account_id, link)
}
