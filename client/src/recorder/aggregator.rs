//! Sums of what was recorded and not yet batched: by account, meter and whole second, in shards, so that
//! threads rarely meet.

use hashbrown::HashTable;
use std::{
    hash::{BuildHasher, RandomState},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// So many that a handful of threads meets seldom enough.
const SHARDS: usize = 32;
/// The most that the server takes in one increment.
pub(super) const MAX_QUANTITY: i64 = 1_000_000_000_000;

/// What an account used of a meter within a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) account: Arc<str>,
    pub(super) meter: Arc<str>,
    /// Seconds of Unix time.
    pub(super) second: i64,
    pub(super) quantity: i64,
    /// How many calls of `record` it holds.
    pub(super) records: u64,
}

/// What could not be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// Whether so much was recorded that it is better sent soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Filling(pub(super) bool);

#[derive(Debug)]
pub(super) struct Sums {
    shards: Box<[Shard]>,
    hasher: RandomState,
    capacity: usize,
    /// Sums that are held here, or were taken and are not [released](Self::release).
    held: AtomicUsize,
    /// Of these, the sums that were not taken.
    fresh: AtomicUsize,
}

/// Apart from its neighbours, so that two threads do not share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<Part>);

#[derive(Debug, Default)]
struct Part {
    slots: HashTable<Slot>,
    /// What was ever added here. One figure for all shards would be what all threads wait for.
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
    /// Seconds before it, and what did not fit.
    older: Vec<(i64, i64, u64)>,
}

impl Sums {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            hasher: RandomState::new(),
            capacity,
            held: AtomicUsize::new(0),
            fresh: AtomicUsize::new(0),
        }
    }

    /// Adds to a sum; a new one is refused where there is no room.
    pub(super) fn add(
        &self,
        account: &str,
        meter: &str,
        second: i64,
        quantity: i64,
    ) -> Result<Filling, Full> {
        let hash = self.hasher.hash_one((account, meter));
        let mut part = self.part(hash);
        let mut filling = Filling(false);
        let found = part.slots.find_mut(hash, |slot| {
            *slot.account == *account && *slot.meter == *meter
        });
        if let Some(slot) = found {
            let sum = slot.quantity.saturating_add(quantity);
            if slot.second == second && sum <= MAX_QUANTITY {
                slot.quantity = sum;
                slot.records = slot.records.saturating_add(1);
            } else {
                filling = self.claim()?;
                slot.older.push((slot.second, slot.quantity, slot.records));
                (slot.second, slot.quantity, slot.records) = (second, quantity, 1);
            }
        } else {
            filling = self.claim()?;
            let slot = Slot {
                account: account.into(),
                meter: meter.into(),
                second,
                quantity,
                records: 1,
                older: Vec::new(),
            };
            let again = |slot: &Slot| self.hasher.hash_one((&*slot.account, &*slot.meter));
            part.slots.insert_unique(hash, slot, again);
        }
        part.calls = part.calls.saturating_add(1);
        let units = u64::try_from(quantity).unwrap_or(0);
        part.units = part.units.saturating_add(units);
        Ok(filling)
    }

    /// The calls and units that were ever added.
    pub(super) fn added(&self) -> (u64, u64) {
        self.shards.iter().fold((0, 0), |(calls, units), shard| {
            let part = lock(&shard.0);
            (
                part.calls.saturating_add(calls),
                part.units.saturating_add(units),
            )
        })
    }

    /// Takes all sums out. They count against the capacity until they are released.
    pub(super) fn take(&self) -> Vec<Sum> {
        let mut sums = Vec::new();
        for shard in &self.shards {
            let expected = lock(&shard.0).slots.len();
            // Made before the lock is taken again: who records must not wait for it.
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
        self.fresh.fetch_sub(sums.len(), Ordering::Relaxed);
        sums
    }

    /// Makes room again for so many sums that were taken.
    pub(super) fn release(&self, sums: usize) {
        self.held.fetch_sub(sums, Ordering::Relaxed);
    }

    #[cfg(test)]
    /// How many sums are held, or taken and not released.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether so much waits to be taken that it is better taken soon.
    pub(super) fn is_filling(&self) -> bool {
        self.fresh.load(Ordering::Relaxed) >= self.soon()
    }

    fn claim(&self) -> Result<Filling, Full> {
        if self.held.fetch_add(1, Ordering::Relaxed) < self.capacity {
            let fresh = self.fresh.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            // Once each time: who records must not tell of it with each call.
            return Ok(Filling(fresh.is_multiple_of(self.soon())));
        }
        self.held.fetch_sub(1, Ordering::Relaxed);
        Err(Full)
    }

    /// As many sums as are sent before their interval is over.
    fn soon(&self) -> usize {
        (self.capacity / 4).max(1)
    }

    fn part(&self, hash: u64) -> MutexGuard<'_, Part> {
        // Bits that the table itself does not go by.
        let place = usize::try_from(hash >> 40).unwrap_or(0) % SHARDS;
        let shard = self.shards.get(place).unwrap_or(&self.shards[0]);
        lock(&shard.0)
    }
}

/// A thread that panicked while it held the lock has at most lost its own record.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(sums: &Sums) -> Vec<(String, i64, i64, u64)> {
        let taken = sums.take();
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
    fn what_falls_into_one_second_is_one_sum() {
        let sums = Sums::new(10);
        for (account, meter, second, quantity) in [
            ("a", "m", 1, 2),
            ("a", "m", 1, 3),
            ("a", "m", 2, 5),
            ("a", "n", 1, 7),
            ("b", "m", 1, 11),
        ] {
            sums.add(account, meter, second, quantity).unwrap();
        }
        assert_eq!(sums.held(), 4);
        assert_eq!(sums.added(), (5, 28));
        assert_eq!(
            sorted(&sums),
            [
                ("a/m".to_owned(), 1, 5, 2),
                ("a/m".to_owned(), 2, 5, 1),
                ("a/n".to_owned(), 1, 7, 1),
                ("b/m".to_owned(), 1, 11, 1),
            ]
        );
        assert_eq!(sums.take(), []);
        assert_eq!(sums.held(), 4, "until they are released");
        sums.release(4);
        assert_eq!(sums.held(), 0);
    }

    #[test]
    fn a_sum_never_passes_what_the_server_takes() {
        let sums = Sums::new(10);
        sums.add("a", "m", 1, MAX_QUANTITY).unwrap();
        sums.add("a", "m", 1, 1).unwrap();
        let quantities: Vec<i64> = sums.take().iter().map(|sum| sum.quantity).collect();
        assert_eq!(quantities, [MAX_QUANTITY, 1]);
    }

    #[test]
    fn where_there_is_no_room_only_new_sums_are_refused() {
        let sums = Sums::new(2);
        sums.add("a", "m", 1, 1).unwrap();
        sums.add("b", "m", 1, 1).unwrap();
        assert_eq!(sums.add("c", "m", 1, 1), Err(Full));
        assert_eq!(sums.add("a", "m", 2, 1), Err(Full));
        sums.add("a", "m", 1, 1).unwrap();
        assert_eq!(sums.held(), 2);
        let taken = sums.take().len();
        assert_eq!(sums.add("c", "m", 1, 1), Err(Full), "they are still held");
        sums.release(taken);
        sums.add("c", "m", 1, 1).unwrap();
    }

    #[test]
    fn a_quarter_full_is_told_once_and_known_until_it_is_taken() {
        let sums = Sums::new(12);
        let told: Vec<bool> = ["a", "b", "c", "d", "d", "e"]
            .map(|account| sums.add(account, "m", 1, 1).unwrap().0)
            .to_vec();
        assert_eq!(told, [false, false, true, false, false, false]);
        assert!(sums.is_filling());
        sums.take();
        assert!(!sums.is_filling());
    }

    #[test]
    fn threads_lose_nothing_while_sums_are_taken() {
        let sums = Sums::new(100_000);
        let total = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let sums = &sums;
                    scope.spawn(move || {
                        for number in 0..20_000_i64 {
                            let account = if number % 3 == 0 { "shared" } else { "own" };
                            sums.add(account, "m", number / 100 + thread, 1).unwrap();
                        }
                    })
                })
                .collect();
            let mut total = 0;
            while threads.iter().any(|thread| !thread.is_finished()) {
                total += sums.take().iter().map(|sum| sum.quantity).sum::<i64>();
            }
            total
        });
        let rest: i64 = sums.take().iter().map(|sum| sum.quantity).sum();
        assert_eq!(total + rest, 80_000);
    }
}
