//! Batches that were made of sums and are not answered yet, in the order in which they were made.

use super::aggregator::Sum;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

/// Sums under one idempotency key.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) number: u64,
    /// The idempotency key; in the spool, the name of the batch.
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
    /// Those that rest, since when and for how long.
    resting: Vec<(Instant, Duration, Taken)>,
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
        let batch = Taken { number, key, held };
        state.know_where(&batch);
        state.waiting.push_back(batch);
    }

    /// Puts a batch back that was taken, in its place, maybe held elsewhere now.
    pub(super) fn put_back(&self, batch: Taken) {
        let mut state = self.lock();
        state.know_where(&batch);
        let after = state
            .waiting
            .iter()
            .position(|other| other.number > batch.number);
        let place = after.unwrap_or(state.waiting.len());
        state.waiting.insert(place, batch);
    }

    /// Puts a batch back that is to rest before it is sent.
    pub(super) fn put_off(&self, batch: Taken, pause: Duration) {
        let mut state = self.lock();
        state.know_where(&batch);
        state.resting.push((Instant::now(), pause, batch));
    }

    /// The number of the last batch that was ever added.
    pub(super) fn last(&self) -> u64 {
        self.lock().last
    }

    /// The next one that is to be sent now.
    pub(super) fn next(&self) -> Option<Taken> {
        let mut state = self.lock();
        let rested = state
            .resting
            .iter()
            .position(|(since, pause, _)| since.elapsed() >= *pause);
        match rested {
            Some(place) => Some(state.resting.swap_remove(place).2),
            None => state.waiting.pop_front(),
        }
    }

    /// Those that wait and are in memory only.
    pub(super) fn take_in_memory(&self) -> Vec<Taken> {
        let mut state = self.lock();
        let all = std::mem::take(&mut state.waiting).into_iter();
        let (in_memory, others): (VecDeque<_>, VecDeque<_>) =
            all.partition(|batch| matches!(batch.held, Held::Memory(_)));
        state.waiting = others;
        in_memory.into()
    }

    /// A batch is answered for good.
    pub(super) fn finish(&self, batch: &Taken) {
        let mut state = self.lock();
        state.open.remove(&batch.number);
        state.in_memory.remove(&batch.number);
        drop(state);
        self.done.notify_waiters();
    }

    /// Whether all are answered.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().open.is_empty()
    }

    /// Whether a batch up to a number is in memory only.
    pub(super) fn is_in_memory(&self, number: u64) -> bool {
        let state = self.lock();
        let first = state.in_memory.first();
        first.is_some_and(|first| *first <= number)
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

impl State {
    fn know_where(&mut self, batch: &Taken) {
        match batch.held {
            Held::Memory(_) => self.in_memory.insert(batch.number),
            Held::Spool { .. } => self.in_memory.remove(&batch.number),
        };
    }
}
