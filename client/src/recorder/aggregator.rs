//! Sums recorded usage that is not in a batch yet, per account, meter and second.
//!
//! The sums are in shards, so that threads rarely wait for each other.

use hashbrown::HashTable;
use std::{
    hash::{BuildHasher, RandomState},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Enough that a handful of threads rarely use the same one.
const SHARDS: usize = 32;
/// The largest quantity that the server accepts in one increment.
pub(super) const MAX_QUANTITY: i64 = 1_000_000_000_000;

/// An account's usage of one meter within one second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) account: Arc<str>,
    pub(super) meter: Arc<str>,
    /// Seconds of Unix time.
    pub(super) second: i64,
    pub(super) quantity: i64,
    /// The number of calls of `record` that were added up.
    pub(super) records: u64,
}

/// The capacity is used up, and the usage needs a new sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// Whether so much was recorded that it should be sent before the interval ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShouldFlush(pub(super) bool);

#[derive(Debug)]
pub(super) struct Aggregator {
    shards: Box<[Shard]>,
    hasher: RandomState,
    capacity: usize,
    /// The number of sums in memory: those here, and those taken and not yet [released](Self::release).
    in_use: AtomicUsize,
    /// The number of sums that were not taken yet.
    unbatched: AtomicUsize,
}

/// Aligned so that no two shards share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<ShardState>);

#[derive(Debug, Default)]
struct ShardState {
    slots: HashTable<Slot>,
    /// The total calls and units that were ever added, per shard: all threads would wait for a shared counter.
    calls: u64,
    units: u64,
}

/// The sums of one account and meter.
#[derive(Debug)]
struct Slot {
    account: Arc<str>,
    meter: Arc<str>,
    second: i64,
    quantity: i64,
    records: u64,
    /// Sums of earlier seconds, and full sums of this one: second, quantity and calls.
    older: Vec<(i64, i64, u64)>,
}

impl Aggregator {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            hasher: RandomState::new(),
            capacity,
            in_use: AtomicUsize::new(0),
            unbatched: AtomicUsize::new(0),
        }
    }

    /// Adds to a sum. Fails if a new sum is needed and the capacity is used up.
    pub(super) fn add(
        &self,
        account: &str,
        meter: &str,
        second: i64,
        quantity: i64,
    ) -> Result<ShouldFlush, Full> {
        let hash = self.hasher.hash_one((account, meter));
        let mut state = self.shard(hash);
        let mut should_flush = ShouldFlush(false);
        let found = state.slots.find_mut(hash, |slot| {
            *slot.account == *account && *slot.meter == *meter
        });
        if let Some(slot) = found {
            let sum = slot.quantity.saturating_add(quantity);
            if slot.second == second && sum <= MAX_QUANTITY {
                slot.quantity = sum;
                slot.records = slot.records.saturating_add(1);
            } else {
                should_flush = self.reserve()?;
                slot.older.push((slot.second, slot.quantity, slot.records));
                (slot.second, slot.quantity, slot.records) = (second, quantity, 1);
            }
        } else {
            should_flush = self.reserve()?;
            let slot = Slot {
                account: account.into(),
                meter: meter.into(),
                second,
                quantity,
                records: 1,
                older: Vec::new(),
            };
            let again = |slot: &Slot| self.hasher.hash_one((&*slot.account, &*slot.meter));
            state.slots.insert_unique(hash, slot, again);
        }
        state.calls = state.calls.saturating_add(1);
        let units = u64::try_from(quantity).unwrap_or(0);
        state.units = state.units.saturating_add(units);
        Ok(should_flush)
    }

    /// The total calls and units that were ever added.
    pub(super) fn added(&self) -> (u64, u64) {
        self.shards.iter().fold((0, 0), |(calls, units), shard| {
            let state = lock(&shard.0);
            (
                state.calls.saturating_add(calls),
                state.units.saturating_add(units),
            )
        })
    }

    /// Takes all sums. They count towards the capacity until they are released.
    pub(super) fn take(&self) -> Vec<Sum> {
        let mut sums = Vec::new();
        for shard in &self.shards {
            let expected = lock(&shard.0).slots.len();
            // Allocated while the lock is not taken, so that no call of `record` waits for it.
            let empty = HashTable::with_capacity(expected);
            let taken = mem::replace(&mut lock(&shard.0).slots, empty);
            for slot in taken {
                let sum = |(second, quantity, records)| Sum {
                    account: Arc::clone(&slot.account),
                    meter: Arc::clone(&slot.meter),
                    second,
                    quantity,
                    records,
                };
                let last = (slot.second, slot.quantity, slot.records);
                sums.extend(slot.older.into_iter().chain([last]).map(sum));
            }
        }
        self.unbatched.fetch_sub(sums.len(), Ordering::Relaxed);
        sums
    }

    /// Frees the capacity of this many taken sums.
    pub(super) fn release(&self, sums: usize) {
        self.in_use.fetch_sub(sums, Ordering::Relaxed);
    }

    #[cfg(test)]
    /// The number of sums that count towards the capacity.
    pub(super) fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Whether so much was recorded that it should be taken before the interval ends.
    pub(super) fn should_flush(&self) -> bool {
        self.unbatched.load(Ordering::Relaxed) >= self.flush_threshold()
    }

    fn reserve(&self) -> Result<ShouldFlush, Full> {
        if self.in_use.fetch_add(1, Ordering::Relaxed) < self.capacity {
            let unbatched = self
                .unbatched
                .fetch_add(1, Ordering::Relaxed)
                .saturating_add(1);
            // True once per threshold, so that not every call wakes the worker.
            return Ok(ShouldFlush(
                unbatched.is_multiple_of(self.flush_threshold()),
            ));
        }
        self.in_use.fetch_sub(1, Ordering::Relaxed);
        Err(Full)
    }

    /// The number of sums at which they are sent before the interval ends.
    fn flush_threshold(&self) -> usize {
        (self.capacity / 4).max(1)
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, ShardState> {
        // The table itself uses other bits of the hash.
        let place = usize::try_from(hash >> 40).unwrap_or(0) % SHARDS;
        let shard = self.shards.get(place).unwrap_or(&self.shards[0]);
        lock(&shard.0)
    }
}

/// A thread that panicked while it had the lock has lost at most its own usage.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(aggregator: &Aggregator) -> Vec<(String, i64, i64, u64)> {
        let taken = aggregator.take();
        let mut rows: Vec<_> = taken
            .into_iter()
            .map(|sum| {
                let name = format!("{}/{}", sum.account, sum.meter);
                (name, sum.second, sum.quantity, sum.records)
            })
            .collect();
        rows.sort_unstable();
        rows
    }

    #[test]
    fn usage_within_one_second_is_one_sum() {
        let aggregator = Aggregator::new(10);
        for (account, meter, second, quantity) in [
            ("a", "m", 1, 2),
            ("a", "m", 1, 3),
            ("a", "m", 2, 5),
            ("a", "n", 1, 7),
            ("b", "m", 1, 11),
        ] {
            aggregator.add(account, meter, second, quantity).unwrap();
        }
        assert_eq!(aggregator.in_use(), 4);
        assert_eq!(aggregator.added(), (5, 28));
        assert_eq!(
            sorted(&aggregator),
            [
                ("a/m".to_owned(), 1, 5, 2),
                ("a/m".to_owned(), 2, 5, 1),
                ("a/n".to_owned(), 1, 7, 1),
                ("b/m".to_owned(), 1, 11, 1),
            ]
        );
        assert_eq!(aggregator.take(), []);
        assert_eq!(aggregator.in_use(), 4, "until they are released");
        aggregator.release(4);
        assert_eq!(aggregator.in_use(), 0);
    }

    #[test]
    fn sum_never_exceeds_the_limit_of_the_server() {
        let aggregator = Aggregator::new(10);
        aggregator.add("a", "m", 1, MAX_QUANTITY).unwrap();
        aggregator.add("a", "m", 1, 1).unwrap();
        let quantities: Vec<i64> = aggregator.take().iter().map(|sum| sum.quantity).collect();
        assert_eq!(quantities, [MAX_QUANTITY, 1]);
    }

    #[test]
    fn full_aggregator_rejects_only_new_sums() {
        let aggregator = Aggregator::new(2);
        aggregator.add("a", "m", 1, 1).unwrap();
        aggregator.add("b", "m", 1, 1).unwrap();
        assert_eq!(aggregator.add("c", "m", 1, 1), Err(Full));
        assert_eq!(aggregator.add("a", "m", 2, 1), Err(Full));
        aggregator.add("a", "m", 1, 1).unwrap();
        assert_eq!(aggregator.in_use(), 2);
        let taken = aggregator.take().len();
        assert_eq!(
            aggregator.add("c", "m", 1, 1),
            Err(Full),
            "they are not released yet"
        );
        aggregator.release(taken);
        aggregator.add("c", "m", 1, 1).unwrap();
    }

    #[test]
    fn quarter_full_aggregator_requests_one_flush() {
        let aggregator = Aggregator::new(12);
        let should_flush: Vec<bool> = ["a", "b", "c", "d", "d", "e"]
            .map(|account| aggregator.add(account, "m", 1, 1).unwrap().0)
            .to_vec();
        assert_eq!(should_flush, [false, false, true, false, false, false]);
        assert!(aggregator.should_flush());
        aggregator.take();
        assert!(!aggregator.should_flush());
    }

    #[test]
    fn concurrent_threads_lose_no_usage() {
        let aggregator = Aggregator::new(100_000);
        let total = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let aggregator = &aggregator;
                    scope.spawn(move || {
                        for number in 0..20_000_i64 {
                            let account = if number % 3 == 0 { "shared" } else { "own" };
                            aggregator
                                .add(account, "m", number / 100 + thread, 1)
                                .unwrap();
                        }
                    })
                })
                .collect();
            let mut total = 0;
            while threads.iter().any(|thread| !thread.is_finished()) {
                total += aggregator
                    .take()
                    .iter()
                    .map(|sum| sum.quantity)
                    .sum::<i64>();
            }
            total
        });
        let rest: i64 = aggregator.take().iter().map(|sum| sum.quantity).sum();
        assert_eq!(total + rest, 80_000);
    }
}
