//! The calls that wait for a commit, and which of them share the next one.
//!
//! A batch takes as long as a thousand single calls. While both wait they take turns, so a single call waits for one
//! batch at most, and batches get every second commit.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Increments in one transaction: enough to share a disk sync, few enough for a short transaction.
const MAX_INCREMENTS: usize = 8_192;
/// Calls with more increments are batches here.
const MAX_SMALL: usize = 64;
/// Increments of batches in one transaction while small calls come: about one batch.
const MAX_BESIDE_SMALL: usize = 1_024;
/// How long after a small call others are expected.
const SMALL_EXPECTED: Duration = Duration::from_secs(1);

/// A call that waits.
pub(super) trait Call {
    /// The number of its increments.
    fn size(&self) -> usize;
    /// Whether its caller no longer waits. It may have repeated the call elsewhere.
    fn is_given_up(&self) -> bool;
}

/// The calls that wait for one writer.
#[derive(Debug)]
pub(super) struct Waiting<C> {
    small: VecDeque<C>,
    batches: VecDeque<C>,
    /// Whether the last group had batches.
    had_batches: bool,
    /// When the last small call came.
    small_at: Option<Instant>,
}

impl<C> Default for Waiting<C> {
    fn default() -> Self {
        Self {
            small: VecDeque::new(),
            batches: VecDeque::new(),
            had_batches: false,
            small_at: None,
        }
    }
}

impl<C: Call> Waiting<C> {
    /// Adds calls in the order of their arrival.
    pub(super) fn add(&mut self, calls: impl Iterator<Item = C>, now: Instant) {
        for call in calls {
            if call.size() <= MAX_SMALL {
                self.small_at = Some(now);
                self.small.push_back(call);
            } else {
                self.batches.push_back(call);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.small.is_empty() && self.batches.is_empty()
    }

    /// Takes the calls of the next group: at least one, unless no caller waits any more.
    pub(super) fn next_group(&mut self, now: Instant) -> Vec<C> {
        let is_turn_of_batches = self.small.is_empty() || !self.had_batches;
        let expects_small = self
            .small_at
            .is_some_and(|at| now.duration_since(at) < SMALL_EXPECTED);
        let limit = if expects_small {
            MAX_BESIDE_SMALL
        } else {
            MAX_INCREMENTS
        };
        let mut group = if is_turn_of_batches {
            take(&mut self.batches, limit)
        } else {
            Vec::new()
        };
        self.had_batches = !group.is_empty();
        if group.is_empty() {
            group = take(&mut self.small, MAX_INCREMENTS);
        }
        group
    }
}

/// Takes the calls at the head of a queue that have so many increments together: at least one, unless no caller waits.
fn take<C: Call>(queue: &mut VecDeque<C>, limit: usize) -> Vec<C> {
    let mut increments = 0_usize;
    let mut taken = Vec::new();
    while let Some(call) = queue.front() {
        if call.is_given_up() {
            queue.pop_front();
            continue;
        }
        increments = increments.saturating_add(call.size());
        if increments > limit && !taken.is_empty() {
            break;
        }
        taken.extend(queue.pop_front());
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Of(usize, bool);

    impl Call for Of {
        fn size(&self) -> usize {
            self.0
        }

        fn is_given_up(&self) -> bool {
            self.1
        }
    }

    const ONE: Of = Of(1, false);
    const BATCH: Of = Of(1_000, false);

    fn waiting(calls: &[Of], now: Instant) -> Waiting<Of> {
        let mut waiting = Waiting::default();
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
    fn a_call_that_was_given_up_is_in_no_group() {
        let now = Instant::now();
        let mut waiting = waiting(&[Of(1_000, true), Of(1, true)], now);
        assert_eq!(waiting.next_group(now), []);
        assert!(waiting.is_empty());
        waiting.add([Of(1, true), ONE, Of(1, true)].into_iter(), now);
        assert_eq!(waiting.next_group(now), [ONE]);
    }
}
