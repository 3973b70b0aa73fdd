//! Which writer commits a call, and with which other calls it may share a transaction.

use std::hash::{BuildHasher as _, RandomState};

use crate::domain::{account_id::AccountId, shards::ShardMap};

/// Where a call is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The shard of its accounts, or the number of shards for accounts of several.
    pub(super) shard: usize,
    /// The writer, before the remainder of the number of writers is taken.
    pub(super) writer: usize,
}

/// Chooses the routes of calls.
#[derive(Debug)]
pub(super) struct Router {
    /// Hashes accounts to writers where there is one shard.
    hasher: RandomState,
    shards: ShardMap,
}

impl Router {
    pub(super) fn new(shards: ShardMap) -> Self {
        Self {
            hasher: RandomState::new(),
            shards,
        }
    }

    /// Where a call with these accounts is committed. Batches usually have accounts in common, so in parallel transactions
    /// they would wait for each other's row locks. All batches of several accounts, or of several shards, go to one writer,
    /// where they share commits.
    pub(super) fn route<'a>(&self, mut accounts: impl Iterator<Item = &'a AccountId>) -> Route {
        let first = accounts.next();
        if self.shards.is_distributed() {
            let shard = first.map(|account| self.shards.shard_of(account));
            let is_same = |account: &AccountId| Some(self.shards.shard_of(account)) == shard;
            let shard = shard.filter(|_| accounts.all(is_same));
            let shard = shard.unwrap_or(self.shards.count());
            return Route {
                shard,
                writer: shard,
            };
        }
        let only = first.filter(|first| accounts.all(|account| account == *first));
        let hash = self.hasher.hash_one(only.map_or("", AccountId::as_str));
        Route {
            shard: 0,
            writer: usize::try_from(hash >> 32).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(names: &[&str]) -> Vec<AccountId> {
        let parsed = names.iter().map(|name| AccountId::parse(name).unwrap());
        parsed.collect()
    }

    #[test]
    fn an_account_has_one_route() {
        for shards in [ShardMap::default(), ShardMap::new(vec![-1, i32::MAX])] {
            let router = Router::new(shards);
            for names in [["a", "a"], ["another", "another"]] {
                let twice = accounts(&names);
                assert_eq!(
                    router.route(twice.iter()),
                    router.route(twice.iter().take(1))
                );
            }
        }
    }

    #[test]
    fn accounts_of_a_shard_share_a_route_and_those_of_several_have_another() {
        let map = ShardMap::new(vec![-1, i32::MAX]);
        let router = Router::new(map.clone());
        let names: Vec<String> = (0..20).map(|n| format!("acct-{n}")).collect();
        let all = names.iter().map(|name| AccountId::parse(name).unwrap());
        let split = map.split(all.collect::<Vec<_>>(), |account| account);
        for (place, of_shard) in split.iter().enumerate() {
            assert_eq!(router.route(of_shard.iter()).shard, place);
        }
        let several = router.route(split.iter().flatten());
        assert_eq!(
            several,
            Route {
                shard: 2,
                writer: 2
            }
        );
    }

    #[test]
    fn without_shards_batches_of_several_accounts_have_one_route() {
        let router = Router::new(ShardMap::default());
        let (few, many) = (accounts(&["a", "b"]), accounts(&["c", "d", "e"]));
        assert_eq!(router.route(few.iter()), router.route(many.iter()));
        assert_eq!(router.route(few.iter()).shard, 0);
    }
}
