//! Batches that were made of sums and are not answered yet, in the order in which they were made.

use super::sums::Sum;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;
use uuid::Uuid;

/// Sums under one idempotency key.
#[derive(Debug)]
pub(super) struct Taken {
    number: u64,
    pub(super) key: Uuid,
    pub(super) held: Held,
}

/// Where the sums are.
#[derive(Debug)]
pub(super) enum Held {
    Memory(Vec<Sum>),
    /// On disk, with so many calls and units.
    Spool {
        calls: u64,
        units: u64,
    },
}

#[derive(Debug, Default)]
pub(super) struct Batches {
    state: Mutex<State>,
    /// Told whenever a batch is done.
    done: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Taken>,
    last: u64,
    /// The numbers of those that are not answered yet.
    open: BTreeSet<u64>,
    /// Of these, the numbers of those that are in memory only.
    in_memory: BTreeSet<u64>,
}

impl Batches {
    pub(super) fn add(&self, key: Uuid, held: Held) {
        let mut state = self.lock();
        state.last = state.last.saturating_add(1);
        let number = state.last;
        state.open.insert(number);
        if let Held::Memory(_) = held {
            state.in_memory.insert(number);
        }
        state.waiting.push_back(Taken { number, key, held });
    }

    /// The number of the last batch that was ever added.
    pub(super) fn last(&self) -> u64 {
        self.lock().last
    }

    /// The next one that nobody sends yet.
    pub(super) fn next(&self) -> Option<Taken> {
        self.lock().waiting.pop_front()
    }

    /// A batch is answered for good.
    pub(super) fn finish(&self, batch: &Taken) {
        let mut state = self.lock();
        state.open.remove(&batch.number);
        state.in_memory.remove(&batch.number);
        drop(state);
        self.done.notify_waiters();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().open.is_empty()
    }

    /// Whether a batch up to a number is in memory only.
    pub(super) fn is_in_memory(&self, number: u64) -> bool {
        let state = self.lock();
        state
            .in_memory
            .first()
            .is_some_and(|first| *first <= number)
    }

    /// Waits until all batches up to a number are answered.
    pub(super) async fn until_done(&self, number: u64) {
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            // From here on no end is missed.
            done.as_mut().enable();
            if self.lock().open.first().is_none_or(|first| *first > number) {
                return;
            }
            done.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
