//! The queue of batches that the server has not answered yet, oldest first.

use super::aggregator::Sum;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

/// Sums that are sent with one idempotency key.
#[derive(Debug)]
pub(super) struct QueuedBatch {
    pub(super) number: u64,
    /// The idempotency key; for a spooled batch, the name of its file.
    pub(super) key: Uuid,
    pub(super) storage: Storage,
}

/// Where the sums are.
#[derive(Debug)]
pub(super) enum Storage {
    Memory(Vec<Sum>),
    /// On disk.
    Spool {
        calls: u64,
        units: u64,
    },
}

#[derive(Debug, Default)]
pub(super) struct Batches {
    state: Mutex<State>,
    /// Notified whenever a batch is finished.
    done: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<QueuedBatch>,
    /// Batches to send later: since when, for how long, and the batch.
    delayed: Vec<(Instant, Duration, QueuedBatch)>,
    last: u64,
    /// The numbers of all batches that are not answered yet.
    open: BTreeSet<u64>,
    /// The part of `open` that is in memory only.
    in_memory: BTreeSet<u64>,
}

impl Batches {
    pub(super) fn add(&self, key: Uuid, storage: Storage) {
        let mut state = self.lock();
        state.last = state.last.saturating_add(1);
        let number = state.last;
        state.open.insert(number);
        let batch = QueuedBatch {
            number,
            key,
            storage,
        };
        state.track_storage(&batch);
        state.waiting.push_back(batch);
    }

    /// Puts a batch back into its place in the queue; its storage may have changed.
    pub(super) fn put_back(&self, batch: QueuedBatch) {
        let mut state = self.lock();
        state.track_storage(&batch);
        let after = state
            .waiting
            .iter()
            .position(|other| other.number > batch.number);
        let place = after.unwrap_or(state.waiting.len());
        state.waiting.insert(place, batch);
    }

    /// Puts a batch back, to be sent after a delay.
    pub(super) fn delay(&self, batch: QueuedBatch, delay_time: Duration) {
        let mut state = self.lock();
        state.track_storage(&batch);
        state.delayed.push((Instant::now(), delay_time, batch));
    }

    /// The number of the newest batch so far.
    pub(super) fn last(&self) -> u64 {
        self.lock().last
    }

    /// Takes the next batch to send now.
    pub(super) fn next(&self) -> Option<QueuedBatch> {
        let mut state = self.lock();
        let ready = state
            .delayed
            .iter()
            .position(|(since, delay_time, _)| since.elapsed() >= *delay_time);
        match ready {
            Some(place) => Some(state.delayed.swap_remove(place).2),
            None => state.waiting.pop_front(),
        }
    }

    /// Takes the waiting batches that are in memory only.
    pub(super) fn take_in_memory(&self) -> Vec<QueuedBatch> {
        let mut state = self.lock();
        let all = std::mem::take(&mut state.waiting).into_iter();
        let (in_memory, others): (VecDeque<_>, VecDeque<_>) =
            all.partition(|batch| matches!(batch.storage, Storage::Memory(_)));
        state.waiting = others;
        in_memory.into()
    }

    /// Records that a batch has its final answer.
    pub(super) fn finish(&self, batch: &QueuedBatch) {
        let mut state = self.lock();
        state.open.remove(&batch.number);
        state.in_memory.remove(&batch.number);
        drop(state);
        self.done.notify_waiters();
    }

    /// Whether all batches are answered.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().open.is_empty()
    }

    /// Whether any batch up to this number is in memory only.
    pub(super) fn is_in_memory(&self, number: u64) -> bool {
        let state = self.lock();
        let first = state.in_memory.first();
        first.is_some_and(|first| *first <= number)
    }

    /// Waits until all batches up to this number are answered.
    pub(super) async fn wait_until_done(&self, number: u64) {
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            // Registers the waiter before the check, so that no notification is missed.
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
    fn track_storage(&mut self, batch: &QueuedBatch) {
        match batch.storage {
            Storage::Memory(_) => self.in_memory.insert(batch.number),
            Storage::Spool { .. } => self.in_memory.remove(&batch.number),
        };
    }
}
