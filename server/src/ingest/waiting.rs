//! The calls that wait for a commit, and which of them share the next one.
//!
//! A batch takes as long as a thousand single calls. While both wait they take turns, so a single call waits for one
//! batch at most, and batches get every second commit. The calls of a group are of one shard: each shard that a transaction
//! writes to takes a commit in two phases. Shards take turns, and so do callers: each has as many increments in a group as
//! the others that wait.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::turns::ByCaller;
use crate::domain::caller_id::CallerId;

/// Increments in one transaction: enough to share a disk sync, few enough for a short transaction.
const MAX_INCREMENTS: usize = 8_192;
/// Calls with more increments are batches here.
pub(super) const MAX_SMALL: usize = 64;
/// Increments of batches in one transaction while small calls come: about one batch.
const MAX_BESIDE_SMALL: usize = 1_024;
/// Increments of small calls in one transaction while several callers wait: one that sends much makes the others wait for
/// short transactions only.
const MAX_SHARED: usize = 1_024;
/// Increments of a caller's turn, in small calls and in batches.
const SMALL_TURN: usize = MAX_SMALL;
const BATCH_TURN: usize = 1_000;
/// How long after a small call others are expected.
const SMALL_EXPECTED: Duration = Duration::from_secs(1);

/// How many increments of one class of calls a group may have.
#[derive(Clone, Copy)]
struct Limit {
    /// While one caller waits.
    alone: usize,
    /// While several do.
    shared: usize,
    /// With each turn of a caller.
    turn: usize,
}

/// When a small call last came to any writer: all of them have transactions that others wait for.
#[derive(Clone, Debug, Default)]
pub(super) struct LastSmall(Arc<Mutex<Option<Instant>>>);

impl LastSmall {
    fn came(&self, now: Instant) {
        *self.lock() = Some(now);
    }

    fn are_expected(&self, now: Instant) -> bool {
        let at = *self.lock();
        at.is_some_and(|at| now.duration_since(at) < SMALL_EXPECTED)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that waits.
pub(super) trait Call {
    /// The number of its increments.
    fn size(&self) -> usize;
    /// Whether its caller no longer waits. It may have repeated the call elsewhere.
    fn is_given_up(&self) -> bool;
    /// The shard of its accounts.
    fn shard(&self) -> usize;
    /// Who made it, if it is known.
    fn caller(&self) -> Option<&CallerId>;
}

/// Calls by shard. The first shard has its turn.
#[derive(Debug)]
struct ByShard<C>(VecDeque<(usize, ByCaller<C>)>);

impl<C: Call> ByShard<C> {
    fn push(&mut self, call: C) {
        let shard = call.shard();
        if let Some((_, calls)) = self.0.iter_mut().find(|(known, _)| *known == shard) {
            calls.push(call);
        } else {
            let mut calls = ByCaller::default();
            calls.push(call);
            self.0.push_back((shard, calls));
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes calls of the shard whose turn it is, up to a number of increments: at least one, unless no caller waits.
    fn take(&mut self, limit: Limit) -> Vec<C> {
        while let Some((shard, mut calls)) = self.0.pop_front() {
            let of_group = if calls.are_of_several() {
                limit.shared
            } else {
                limit.alone
            };
            let taken = calls.take(of_group, limit.turn);
            if !calls.is_empty() {
                self.0.push_back((shard, calls));
            }
            if !taken.is_empty() {
                return taken;
            }
        }
        Vec::new()
    }
}

/// The calls that wait for one writer.
#[derive(Debug)]
pub(super) struct Waiting<C> {
    small: ByShard<C>,
    batches: ByShard<C>,
    /// Whether the last group had batches.
    had_batches: bool,
    last_small: LastSmall,
}

impl<C> Waiting<C> {
    pub(super) fn new(last_small: LastSmall) -> Self {
        Self {
            small: ByShard(VecDeque::new()),
            batches: ByShard(VecDeque::new()),
            had_batches: false,
            last_small,
        }
    }
}

impl<C: Call> Waiting<C> {
    /// Adds calls in the order of their arrival.
    pub(super) fn add(&mut self, calls: impl Iterator<Item = C>, now: Instant) {
        let mut has_small = false;
        for call in calls {
            if call.size() <= MAX_SMALL {
                has_small = true;
                self.small.push(call);
            } else {
                self.batches.push(call);
            }
        }
        if has_small {
            self.last_small.came(now);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.small.is_empty() && self.batches.is_empty()
    }

    /// Takes the calls of the next group: at least one, unless no caller waits any more.
    pub(super) fn next_group(&mut self, now: Instant) -> Vec<C> {
        let is_turn_of_batches = self.small.is_empty() || !self.had_batches;
        let limit = if self.last_small.are_expected(now) {
            MAX_BESIDE_SMALL
        } else {
            MAX_INCREMENTS
        };
        let mut group = if is_turn_of_batches {
            self.batches.take(Limit {
                alone: limit,
                shared: limit,
                turn: BATCH_TURN,
            })
        } else {
            Vec::new()
        };
        self.had_batches = !group.is_empty();
        if group.is_empty() {
            group = self.small.take(Limit {
                alone: MAX_INCREMENTS,
                shared: MAX_SHARED,
                turn: SMALL_TURN,
            });
        }
        group
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Of(usize, bool, usize);

    impl Call for Of {
        fn size(&self) -> usize {
            self.0
        }

        fn is_given_up(&self) -> bool {
            self.1
        }

        fn shard(&self) -> usize {
            self.2
        }

        fn caller(&self) -> Option<&CallerId> {
            None
        }
    }

    const ONE: Of = Of(1, false, 0);
    const BATCH: Of = Of(1_000, false, 0);

    fn waiting(calls: &[Of], now: Instant) -> Waiting<Of> {
        let mut waiting = Waiting::new(LastSmall::default());
        waiting.add(calls.iter().copied(), now);
        waiting
    }

    #[test]
    fn small_calls_and_batches_take_turns() {
        let now = Instant::now();
        let mut waiting = waiting(&[BATCH, BATCH, ONE, ONE, BATCH], now);
        assert_eq!(waiting.next_group(now), [BATCH]);
        assert_eq!(waiting.next_group(now), [ONE, ONE]);
        assert_eq!(waiting.next_group(now), [BATCH]);
        waiting.add([ONE].into_iter(), now);
        assert_eq!(waiting.next_group(now), [ONE]);
        assert_eq!(waiting.next_group(now), [BATCH]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn batches_share_a_commit_while_no_small_calls_come() {
        let now = Instant::now();
        let mut waiting = waiting(&[BATCH; 10], now);
        assert_eq!(waiting.next_group(now), [BATCH; 8]);
        assert_eq!(waiting.next_group(now), [BATCH; 2]);
        waiting.add([ONE].into_iter(), now);
        assert_eq!(waiting.next_group(now), [ONE]);
        waiting.add([BATCH; 2].into_iter(), now);
        assert_eq!(waiting.next_group(now), [BATCH], "a small call may come");
        let later = now + SMALL_EXPECTED;
        waiting.add([BATCH].into_iter(), later);
        assert_eq!(waiting.next_group(later), [BATCH; 2]);
    }

    #[test]
    fn a_writer_of_batches_knows_of_the_small_calls_of_others() {
        let now = Instant::now();
        let last_small = LastSmall::default();
        let mut batches = Waiting::new(last_small.clone());
        let mut small = Waiting::new(last_small);
        batches.add([BATCH; 8].into_iter(), now);
        assert_eq!(batches.next_group(now), [BATCH; 8]);
        small.add([ONE].into_iter(), now);
        batches.add([BATCH; 2].into_iter(), now);
        assert_eq!(batches.next_group(now), [BATCH]);
    }

    #[test]
    fn a_call_that_was_given_up_is_in_no_group() {
        let now = Instant::now();
        let mut waiting = waiting(&[Of(1_000, true, 0), Of(1, true, 0)], now);
        assert_eq!(waiting.next_group(now), []);
        assert!(waiting.is_empty());
        waiting.add([Of(1, true, 0), ONE, Of(1, true, 0)].into_iter(), now);
        assert_eq!(waiting.next_group(now), [ONE]);
    }

    #[test]
    fn a_group_has_calls_of_one_shard_and_shards_take_turns() {
        let now = Instant::now();
        let of = |shard| Of(1, false, shard);
        let mut waiting = waiting(&[of(3), of(1), of(3), of(1), of(2)], now);
        assert_eq!(waiting.next_group(now), [of(3); 2]);
        waiting.add([of(3)].into_iter(), now);
        assert_eq!(waiting.next_group(now), [of(1); 2]);
        assert_eq!(waiting.next_group(now), [of(2)]);
        assert_eq!(waiting.next_group(now), [of(3)]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn a_shard_with_more_than_a_group_leaves_the_next_turn_to_another() {
        let now = Instant::now();
        let batch = |shard| Of(8_000, false, shard);
        let mut waiting = waiting(&[batch(0), batch(0), batch(1)], now);
        assert_eq!(waiting.next_group(now), [batch(0)]);
        assert_eq!(waiting.next_group(now), [batch(1)]);
        assert_eq!(waiting.next_group(now), [batch(0)]);
    }
}
