//! Which shard of a distributed database has the rows of an account.
//!
//! Citus spreads an account's rows by PostgreSQL's hash of the account id. What is computed here only decides which
//! increments share a transaction, and which accounts share a statement: if the shards were moved or split since they were
//! read, that costs speed and nothing else.

use super::account_id::AccountId;

/// The shards of a database. One that is not distributed is a single shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardMap {
    /// The last hash of each shard, ascending; empty if the database is not distributed.
    last_hashes: Vec<i32>,
}

impl ShardMap {
    /// The shards with these last hashes.
    pub fn new(mut last_hashes: Vec<i32>) -> Self {
        last_hashes.sort_unstable();
        Self { last_hashes }
    }

    /// Whether the tables about accounts are spread over shards.
    pub fn is_distributed(&self) -> bool {
        !self.last_hashes.is_empty()
    }

    /// The number of shards.
    pub fn count(&self) -> usize {
        self.last_hashes.len().max(1)
    }

    /// The place of the shard that has an account's rows, from 0 on.
    pub fn shard_of(&self, account: &AccountId) -> usize {
        if !self.is_distributed() {
            return 0;
        }
        let hash = postgres_hash(account.as_str().as_bytes()).cast_signed();
        let place = self.last_hashes.partition_point(|last| *last < hash);
        place.min(self.count().saturating_sub(1))
    }

    /// Items by the shard of their accounts, in the order of the shards, and in their own order within each.
    pub fn split<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        account_of: impl Fn(&T) -> &AccountId,
    ) -> Vec<Vec<T>> {
        let mut shards: Vec<Vec<T>> = std::iter::repeat_with(Vec::new)
            .take(self.count())
            .collect();
        for item in items {
            if let Some(shard) = shards.get_mut(self.shard_of(account_of(&item))) {
                shard.push(item);
            }
        }
        shards.retain(|shard| !shard.is_empty());
        shards
    }
}

/// PostgreSQL's `hashtext`: the hash "lookup3" of Bob Jenkins, begun with PostgreSQL's own number.
fn postgres_hash(bytes: &[u8]) -> u32 {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let start = 0x9e37_79b9_u32.wrapping_add(length).wrapping_add(3_923_095);
    let mut state = [start; 3];
    let (blocks, rest) = bytes.as_chunks::<12>();
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (one, word) in state.iter_mut().zip(words) {
            *one = one.wrapping_add(u32::from_le_bytes(*word));
        }
        state = mixed(state);
    }
    // The lowest byte of the last word belongs to the length.
    let mut last = [0_u8; 12];
    for (place, byte) in rest.iter().enumerate() {
        let place = if place < 8 {
            place
        } else {
            place.saturating_add(1)
        };
        if let Some(one) = last.get_mut(place) {
            *one = *byte;
        }
    }
    let (words, _) = last.as_chunks::<4>();
    for (one, word) in state.iter_mut().zip(words) {
        *one = one.wrapping_add(u32::from_le_bytes(*word));
    }
    finished(state)
}

/// Mixes three words so that each bit of one block changes all of them.
fn mixed([mut a, mut b, mut c]: [u32; 3]) -> [u32; 3] {
    for [first, second, third] in [[4, 6, 8], [16, 19, 4]] {
        a = a.wrapping_sub(c) ^ c.rotate_left(first);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(second);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(third);
        b = b.wrapping_add(a);
    }
    [a, b, c]
}

fn finished([mut a, mut b, mut c]: [u32; 3]) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> AccountId {
        AccountId::parse(name).unwrap()
    }

    /// From `SELECT hashtext(..)` of PostgreSQL 15.
    #[test]
    fn the_hash_is_that_of_postgresql() {
        for (text, hash) in [
            ("a", 1_075_015_857),
            ("acct", 958_000_089),
            ("elevenbytes", -353_398_116),
            ("exactly12byt", 804_910_449),
            ("thirteenbytes", 1_075_157_381),
            ("a longer account name of more than 24 bytes", 419_472_941),
            ("ünïcode", -1_540_796_308),
        ] {
            assert_eq!(postgres_hash(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn a_shard_has_the_hashes_up_to_its_last_one() {
        let map = ShardMap::new(vec![i32::MAX, -1, 0x3fff_ffff, -0x4000_0001]);
        for name in ["a", "acct", "another-account", "b"] {
            let hash = postgres_hash(name.as_bytes()).cast_signed();
            let shard = map.shard_of(&account(name));
            let bounds = [-0x8000_0000, -0x4000_0000, 0, 0x4000_0000];
            assert!(bounds[shard] <= hash, "{name}");
            assert!(
                bounds.get(shard + 1).is_none_or(|next| hash < *next),
                "{name}"
            );
        }
    }

    #[test]
    fn a_database_that_is_not_distributed_is_one_shard() {
        let map = ShardMap::default();
        assert!(!map.is_distributed());
        let accounts = ["a", "b", "c"].map(account);
        assert_eq!(map.split(accounts.clone(), |one| one), [accounts.to_vec()]);
        assert_eq!(
            map.split([], |one: &AccountId| one),
            Vec::<Vec<AccountId>>::new()
        );
    }

    #[test]
    fn items_are_split_by_the_shard_of_their_account() {
        let map = ShardMap::new(vec![-1, i32::MAX]);
        let accounts: Vec<AccountId> = (0..100).map(|n| account(&format!("acct-{n}"))).collect();
        let split = map.split(accounts.clone(), |one| one);
        assert_eq!(split.len(), 2);
        assert_eq!(split.iter().map(Vec::len).sum::<usize>(), 100);
        for (place, shard) in split.iter().enumerate() {
            assert!(shard.iter().all(|one| map.shard_of(one) == place));
            assert!(shard.is_sorted_by_key(|one| accounts.iter().position(|other| other == one)));
        }
    }
}
