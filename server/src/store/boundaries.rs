//! The boundaries of accounts, and their cache in each replica.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use moka::sync::Cache;
use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, Statement, sea_query::ExprTrait as _,
};
use uuid::Uuid;

use super::{
    connection::Transaction,
    deleted_accounts::{Salts, find_deleted, read_salts},
    unindexed,
};
use crate::{
    domain::{
        Millis, account_deletion::is_token, account_id::AccountId, billing_period::RELEVANT_MS,
        window::Boundaries,
    },
    entity::{account_link, billing_period, boundary_change, boundary_version},
    planted_defects::{Defect, planted},
};

/// The number of accounts whose boundaries a replica caches.
const REMEMBERED_ACCOUNTS: u64 = 100_000;
/// The number of accounts in one query, well below the limit of bound values of either engine.
const ACCOUNTS_PER_QUERY: usize = 1_000;

/// The most changes that a replica catches up with. After more of them it reads all boundaries again.
const MAX_CHANGES: u64 = 10_000;

/// A replica's cache of boundaries.
///
/// Every group commit reads the version of the last change. If it is another one than the cache knows, the accounts that
/// changed since are forgotten, or all of them if the log of changes does not go back so far.
#[derive(Clone, Debug)]
pub(crate) struct BoundaryCache {
    /// Each with the generation in which it was read.
    known: Cache<AccountId, (u64, Arc<Boundaries>)>,
    /// Locked while `known` is changed, so that nothing older than its version is added.
    state: Arc<Mutex<State>>,
    /// The salts of deleted accounts, with the generation in which they were read: a deletion begins another one.
    salts: Arc<Mutex<Option<(u64, Salts)>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// The version that the cache is of; absent before the first commit.
    version: Option<i64>,
    /// Grows when everything is forgotten.
    generation: u64,
    /// How many changes of boundaries of this replica had ended when the version was read.
    moves: u64,
}

impl State {
    fn forget_all(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }
}

impl Default for BoundaryCache {
    fn default() -> Self {
        Self {
            known: Cache::new(REMEMBERED_ACCOUNTS),
            state: Arc::default(),
            salts: Arc::default(),
        }
    }
}

impl BoundaryCache {
    /// The boundaries of some accounts, as seen by this transaction.
    pub(super) async fn load(
        &self,
        tx: &Transaction,
        accounts: impl Iterator<Item = AccountId>,
        now: Millis,
    ) -> Result<(HashMap<AccountId, Arc<Boundaries>>, i64), DbErr> {
        let version = current_version(tx).await?;
        let generation = self.catch_up(tx, version).await?;
        let mut known = HashMap::new();
        let mut missing = Vec::new();
        for account in accounts {
            if known.contains_key(&account) {
                continue;
            }
            match self.known.get(&account) {
                Some((read_in, boundaries)) if read_in == generation => {
                    known.insert(account, boundaries);
                }
                _ => {
                    known.insert(account.clone(), Arc::default());
                    missing.push(account);
                }
            }
        }
        for accounts in missing.chunks(ACCOUNTS_PER_QUERY) {
            let salts = self.salts(tx, generation).await?;
            let deleted = find_deleted(tx, &salts, accounts.iter()).await?;
            let read = read_boundaries(tx, accounts, now).await?;
            let state = self.lock();
            for (account, mut boundaries) in read {
                if is_token(&account) || deleted.contains(&account) {
                    boundaries = Arc::new(Boundaries::of_deleted_account());
                }
                if state.version == Some(version) {
                    let entry = (state.generation, Arc::clone(&boundaries));
                    self.known.insert(account.clone(), entry);
                }
                known.insert(account, boundaries);
            }
        }
        Ok((known, version))
    }

    /// Takes note of how many changes of this replica had ended before a version was read.
    pub(super) fn has_seen(&self, moves: u64, version: i64) {
        let mut state = self.lock();
        if state.version == Some(version) {
            state.moves = Ord::max(state.moves, moves);
        }
    }

    /// The boundaries of some accounts in the cache, and its version, which a transaction has to compare with the database's;
    /// absent if not all are there, or if it is known that there are newer ones.
    pub(super) fn remembered<'a>(
        &self,
        accounts: impl Iterator<Item = &'a AccountId>,
        moves: u64,
    ) -> Option<(HashMap<AccountId, Arc<Boundaries>>, i64)> {
        let state = self.lock();
        if state.moves != moves {
            return None;
        }
        let version = state.version?;
        let mut known = HashMap::new();
        for account in accounts {
            if known.contains_key(account) {
                continue;
            }
            let (read_in, boundaries) = self.known.get(account)?;
            if read_in != state.generation {
                return None;
            }
            known.insert(account.clone(), boundaries);
        }
        Some((known, version))
    }

    /// The salts of deleted accounts. No account is deleted while a transaction counts.
    async fn salts(&self, tx: &Transaction, generation: u64) -> Result<Salts, DbErr> {
        let lock = || self.salts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().clone();
        if let Some((read_in, salts)) = known
            && read_in == generation
        {
            return Ok(salts);
        }
        let salts = read_salts(tx).await?;
        *lock() = Some((generation, Arc::clone(&salts)));
        Ok(salts)
    }

    /// Forgets what changed between the cache's version and the current one. Returns the generation of what is valid. No
    /// boundary changes while a transaction counts, so the log is complete up to the current version.
    async fn catch_up(&self, tx: &Transaction, version: i64) -> Result<u64, DbErr> {
        let before = *self.lock();
        if before.version == Some(version) {
            return Ok(before.generation);
        }
        let changes = match before.version {
            Some(cached) => changes_after(tx, cached).await?,
            None => Vec::new(),
        };
        let mut state = self.lock();
        // Otherwise another writer has caught up meanwhile.
        if state.version != Some(version) {
            let is_known = state.version == before.version;
            let from = before.version.filter(|_| is_known);
            if from.is_some_and(|from| is_complete(&changes, from, version)) {
                let is_read = !planted(Defect::OldBoundaries);
                for change in changes.iter().filter(|_| is_read) {
                    self.known.invalidate(&change.account_id);
                }
            } else {
                state.forget_all();
            }
            state.version = Some(version);
        }
        Ok(state.generation)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change of boundaries, which its transaction holds until it ends.
#[derive(Debug)]
pub(super) struct BoundaryMove(pub(super) Arc<AtomicU64>);

impl Drop for BoundaryMove {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Whether changes lead from one version to another without a gap.
fn is_complete(changes: &[boundary_change::Model], from: i64, to: i64) -> bool {
    let mut at = from;
    for change in changes {
        if change.previous != at {
            return false;
        }
        at = change.version;
    }
    at == to
}

async fn changes_after(
    tx: &Transaction,
    version: i64,
) -> Result<Vec<boundary_change::Model>, DbErr> {
    boundary_change::Entity::find()
        .filter(boundary_change::Column::Version.gt(version))
        .order_by_asc(boundary_change::Column::Version)
        .limit(MAX_CHANGES)
        .all(tx)
        .await
}

/// The version of the last change of a boundary or link.
pub(super) async fn current_version(tx: &Transaction) -> Result<i64, DbErr> {
    let row = boundary_version::Entity::find_by_id(1).one(tx).await?;
    Ok(row.map_or(0, |row| row.version))
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

/// Makes all replicas read the boundaries of an account again. The caller has the boundary lock.
///
/// A version is greater than the one before by a random number. If a failover loses changes, those that follow are not
/// mistaken for them.
pub(super) async fn record_boundary_change(
    tx: &Transaction,
    account_id: &AccountId,
    now: Millis,
) -> Result<(), DbErr> {
    let (previous, version) = next_version(tx).await?;
    let row = boundary_change::ActiveModel {
        version: Set(version),
        previous: Set(previous),
        account_id: Set(account_id.clone()),
        recorded_at: Set(now),
    };
    boundary_change::Entity::insert(row)
        .exec_without_returning(tx)
        .await?;
    Ok(())
}

/// Makes all replicas read all boundaries again: no recorded change leads to the new version. The caller has the boundary
/// lock. Returns the new version.
pub(super) async fn forget_all_boundaries(tx: &Transaction) -> Result<i64, DbErr> {
    next_version(tx).await.map(|(_, version)| version)
}

/// The version before, and the new one.
async fn next_version(tx: &Transaction) -> Result<(i64, i64), DbErr> {
    const NEXT: &str =
        "UPDATE boundary_version SET version = version + $1 WHERE id = 1 RETURNING version";
    let [random, ..] = Uuid::new_v4().into_bytes().map(i64::from);
    let step = random.saturating_add(1);
    let next = Statement::from_sql_and_values(tx.get_database_backend(), NEXT, [step.into()]);
    let row = tx.query_one_raw(next).await?;
    let row = row.ok_or_else(|| DbErr::RecordNotFound("the version of boundaries".to_owned()))?;
    let version: i64 = row.try_get("", "version")?;
    Ok((version.saturating_sub(step), version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn account(name: &str) -> AccountId {
        AccountId::parse(name).unwrap()
    }

    fn changes(versions: &[i64]) -> Vec<boundary_change::Model> {
        let pairs = versions.windows(2);
        let change = |pair: &[i64]| boundary_change::Model {
            version: pair[1],
            previous: pair[0],
            account_id: account("acct"),
            recorded_at: 0,
        };
        pairs.map(change).collect()
    }

    #[test]
    fn changes_without_a_gap_are_complete() {
        assert!(is_complete(&[], 4, 4));
        assert!(is_complete(&changes(&[4, 9, 11]), 4, 11));
        assert!(
            !is_complete(&changes(&[4, 9, 11]), 4, 12),
            "more than were read"
        );
        assert!(!is_complete(&changes(&[6, 9, 11]), 4, 11), "deleted ones");
        assert!(!is_complete(&[], 9, 4), "a failover lost some");
    }

    #[tokio::test]
    async fn a_change_of_one_account_leaves_what_is_known_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("usage.db").display());
        let store = Store::open(&url, 1).await.unwrap();
        store.migrate().await.unwrap();
        let cache = BoundaryCache::default();
        let (left, right) = (account("left"), account("right"));
        let load = async || {
            let tx = store.begin_counting().await.unwrap();
            let accounts = [left.clone(), right.clone()].into_iter();
            let (known, _) = cache.load(&tx, accounts, 0).await.unwrap();
            tx.rollback().await.unwrap();
            [Arc::clone(&known[&left]), Arc::clone(&known[&right])]
        };
        let change = async |accounts: &[&AccountId]| {
            let tx = store.begin_moving_boundaries().await.unwrap();
            for account in accounts {
                record_boundary_change(&tx, account, 0).await.unwrap();
            }
            tx.commit().await.unwrap();
        };
        let kept = |before: &[Arc<Boundaries>; 2], after: &[Arc<Boundaries>; 2]| {
            [0, 1].map(|place: usize| Arc::ptr_eq(&before[place], &after[place]))
        };
        let first = load().await;
        assert_eq!(kept(&first, &load().await), [true, true]);
        change(&[&left]).await;
        let second = load().await;
        assert_eq!(kept(&first, &second), [false, true]);
        change(&[&left, &right]).await;
        let third = load().await;
        assert_eq!(kept(&second, &third), [false, false]);
        // A log that does not go back far enough.
        change(&[&left, &left]).await;
        let tx = store.begin().await.unwrap();
        let oldest = boundary_change::Entity::delete_many()
            .filter(boundary_change::Column::Version.lt(current_version(&tx).await.unwrap()));
        oldest.exec(&tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(kept(&third, &load().await), [false, false]);
        store.close().await.unwrap();
    }
}
