//! Batches that were made of sums and are not answered yet, in the order in which they were made.

use super::sums::Sum;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;
use uuid::Uuid;

/// Sums under one idempotency key.
#[derive(Debug)]
pub(super) struct Taken {
    number: u64,
    pub(super) key: Uuid,
    pub(super) sums: Vec<Sum>,
}

#[derive(Debug, Default)]
pub(super) struct Batches {
    state: Mutex<State>,
    /// Told whenever a batch is done.
    done: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Taken>>,
    last: u64,
    /// The numbers of those that are not answered yet.
    open: BTreeSet<u64>,
}

impl Batches {
    /// Makes batches of what `take` gives; answers the number of the last batch that was ever made. What is
    /// taken is in a batch before anybody else can take.
    pub(super) fn add(&self, take: impl FnOnce() -> Vec<Sum>, size: usize) -> u64 {
        let mut state = self.lock();
        let mut sums = take().into_iter().peekable();
        while sums.peek().is_some() {
            state.last = state.last.saturating_add(1);
            let number = state.last;
            let batch = Taken {
                number,
                key: Uuid::now_v7(),
                sums: sums.by_ref().take(size).collect(),
            };
            state.open.insert(number);
            state.waiting.push_back(Arc::new(batch));
        }
        state.last
    }

    /// The next one that nobody sends yet.
    pub(super) fn next(&self) -> Option<Arc<Taken>> {
        self.lock().waiting.pop_front()
    }

    /// A batch is answered for good.
    pub(super) fn finish(&self, batch: &Taken) {
        self.lock().open.remove(&batch.number);
        self.done.notify_waiters();
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
