//! Which writer commits a call, and with which other calls it may share a transaction.

use std::hash::{BuildHasher as _, RandomState};

use super::waiting::MAX_SMALL;
use crate::domain::{account_id::AccountId, shards::ShardMap};

/// Where a call is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The shard of its accounts, or the number of shards for accounts of several.
    pub(super) shard: usize,
    /// The writer.
    pub(super) writer: usize,
}

/// Chooses the routes of calls.
#[derive(Debug)]
pub(super) struct Router {
    /// Hashes accounts to writers where there is one shard.
    hasher: RandomState,
    shards: ShardMap,
    /// The writers; one at least.
    writers: usize,
}

impl Router {
    pub(super) fn new(shards: ShardMap, writers: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            shards,
            writers: writers.max(1),
        }
    }

    /// Where a call with so many increments of these accounts is committed. The last of several writers is for batches:
    /// a single call does not wait until a thousand increments are written. Small batches of several accounts share a
    /// writer, since in parallel transactions they would wait for each other's row locks.
    ///
    /// With several shards, each has a writer, and so have calls with accounts of several shards.
    pub(super) fn route<'a>(
        &self,
        increments: usize,
        mut accounts: impl Iterator<Item = &'a AccountId>,
    ) -> Route {
        let first = accounts.next();
        if self.shards.is_distributed() {
            let shard = first.map(|account| self.shards.shard_of(account));
            let is_same = |account: &AccountId| Some(self.shards.shard_of(account)) == shard;
            let shard = shard.filter(|_| accounts.all(is_same));
            let shard = shard.unwrap_or(self.shards.count());
            let writer = shard.checked_rem(self.writers).unwrap_or(0);
            return Route { shard, writer };
        }
        let last = self.writers.saturating_sub(1);
        let writer = if increments > MAX_SMALL {
            last
        } else {
            let only = first.filter(|first| accounts.all(|account| account == *first));
            let hash = self.hasher.hash_one(only.map_or("", AccountId::as_str));
            let hash = usize::try_from(hash >> 32).unwrap_or(0);
            hash.checked_rem(last).unwrap_or(0)
        };
        Route { shard: 0, writer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITERS: usize = 3;

    fn accounts(names: &[&str]) -> Vec<AccountId> {
        let parsed = names.iter().map(|name| AccountId::parse(name).unwrap());
        parsed.collect()
    }

    #[test]
    fn an_account_has_one_route() {
        for shards in [ShardMap::default(), ShardMap::new(vec![-1, i32::MAX])] {
            let router = Router::new(shards, WRITERS);
            for names in [["a", "a"], ["another", "another"]] {
                let twice = accounts(&names);
                assert_eq!(
                    router.route(2, twice.iter()),
                    router.route(1, twice.iter().take(1))
                );
            }
        }
    }

    #[test]
    fn accounts_of_a_shard_share_a_route_and_those_of_several_have_another() {
        let map = ShardMap::new(vec![-1, i32::MAX]);
        let router = Router::new(map.clone(), WRITERS);
        let names: Vec<String> = (0..20).map(|n| format!("acct-{n}")).collect();
        let all = names.iter().map(|name| AccountId::parse(name).unwrap());
        let split = map.split(all.collect::<Vec<_>>(), |account| account);
        for (place, of_shard) in split.iter().enumerate() {
            assert_eq!(router.route(1_000, of_shard.iter()).shard, place);
        }
        let several = router.route(1_000, split.iter().flatten());
        assert_eq!(
            several,
            Route {
                shard: 2,
                writer: 2
            }
        );
    }

    #[test]
    fn without_shards_small_batches_of_several_accounts_have_one_route() {
        let router = Router::new(ShardMap::default(), WRITERS);
        let (few, many) = (accounts(&["a", "b"]), accounts(&["c", "d", "e"]));
        assert_eq!(router.route(2, few.iter()), router.route(3, many.iter()));
        assert_eq!(router.route(2, few.iter()).shard, 0);
    }

    #[test]
    fn single_calls_and_batches_have_writers_of_their_own() {
        let account = accounts(&["a"]);
        let names: Vec<String> = (0..100).map(|n| format!("acct-{n}")).collect();
        for writers in 2..5 {
            let router = Router::new(ShardMap::default(), writers);
            let batch = router.route(MAX_SMALL + 1, account.iter()).writer;
            assert_eq!(batch, writers - 1);
            let mut used: Vec<usize> = names
                .iter()
                .map(|name| {
                    router
                        .route(1, [AccountId::parse(name).unwrap()].iter())
                        .writer
                })
                .collect();
            used.sort_unstable();
            used.dedup();
            assert_eq!(used, (0..writers - 1).collect::<Vec<_>>());
        }
        let only = Router::new(ShardMap::default(), 1);
        for increments in [1, 1_000] {
            assert_eq!(only.route(increments, account.iter()).writer, 0);
        }
    }
}
