//! Calls that wait, by caller: callers take turns, and each one's calls keep their order.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use super::waiting::Call;
use crate::domain::caller_id::CallerId;

/// The calls of each caller.
#[derive(Debug)]
pub(super) struct ByCaller<C> {
    calls: HashMap<Option<CallerId>, VecDeque<C>>,
    /// The callers that have calls. The first one has its turn.
    turns: VecDeque<Option<CallerId>>,
}

impl<C> Default for ByCaller<C> {
    fn default() -> Self {
        Self {
            calls: HashMap::new(),
            turns: VecDeque::new(),
        }
    }
}

impl<C: Call> ByCaller<C> {
    pub(super) fn push(&mut self, call: C) {
        match self.calls.entry(call.caller().cloned()) {
            Entry::Occupied(mut known) => known.get_mut().push_back(call),
            Entry::Vacant(new) => {
                self.turns.push_back(new.key().clone());
                new.insert(VecDeque::from([call]));
            }
        }
    }

    /// Whether more than one caller waits.
    pub(super) fn are_of_several(&self) -> bool {
        self.turns.len() > 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Takes calls up to a number of increments: at least one, unless no caller waits. With each turn, a caller has about
    /// `turn` increments.
    pub(super) fn take(&mut self, limit: usize, turn: usize) -> Vec<C> {
        let mut taken = Vec::new();
        let mut left = limit;
        while let Some(caller) = self.turns.pop_front() {
            let Some(calls) = self.calls.get_mut(&caller) else {
                continue;
            };
            let before = left;
            // Alone, it needs no more turns.
            let turn = if self.turns.is_empty() { limit } else { turn };
            let mut is_full = false;
            while let Some(call) = calls.front() {
                if call.is_given_up() {
                    calls.pop_front();
                    continue;
                }
                is_full = call.size() > left && !taken.is_empty();
                if is_full || before.saturating_sub(left) >= turn {
                    break;
                }
                left = left.saturating_sub(call.size());
                taken.extend(calls.pop_front());
            }
            if calls.is_empty() {
                self.calls.remove(&caller);
            } else if is_full && before == left {
                // It had nothing of its turn.
                self.turns.push_front(caller);
            } else {
                self.turns.push_back(caller);
            }
            if is_full || left == 0 {
                break;
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Of(CallerId, usize);

    impl Call for Of {
        fn size(&self) -> usize {
            self.1
        }

        fn is_given_up(&self) -> bool {
            false
        }

        fn shard(&self) -> usize {
            0
        }

        fn caller(&self) -> Option<&CallerId> {
            Some(&self.0)
        }
    }

    fn of(name: &str, size: usize) -> Of {
        Of(CallerId::Certificate(name.to_owned()), size)
    }

    fn waiting(calls: &[Of]) -> ByCaller<Of> {
        let mut waiting = ByCaller::default();
        for call in calls {
            waiting.push(call.clone());
        }
        waiting
    }

    #[test]
    fn a_caller_with_many_calls_does_not_delay_another() {
        let mut calls = vec![of("many", 1_000); 20];
        calls.push(of("one", 1_000));
        let mut waiting = waiting(&calls);
        assert_eq!(waiting.take(1_024, 1_000), [of("many", 1_000)]);
        assert_eq!(waiting.take(1_024, 1_000), [of("one", 1_000)]);
        for _ in 0..19 {
            assert_eq!(waiting.take(1_024, 1_000), [of("many", 1_000)]);
        }
        assert!(waiting.is_empty());
    }

    #[test]
    fn turns_are_equal_in_increments_not_in_calls() {
        let mut calls = vec![of("small", 100); 30];
        calls.extend(vec![of("large", 1_000); 3]);
        let mut waiting = waiting(&calls);
        for _ in 0..3 {
            let group = waiting.take(2_000, 1_000);
            let increments = |name: &str| -> usize {
                let own = group.iter().filter(|call| call.0 == of(name, 0).0);
                own.map(Call::size).sum()
            };
            assert_eq!((increments("small"), increments("large")), (1_000, 1_000));
        }
        assert!(waiting.is_empty());
    }

    #[test]
    fn a_caller_whose_call_does_not_fit_is_the_next_one() {
        let mut waiting = waiting(&[of("a", 600), of("a", 600), of("b", 600)]);
        assert_eq!(waiting.take(1_000, 500), [of("a", 600)]);
        assert_eq!(waiting.take(1_000, 500), [of("b", 600)]);
        assert_eq!(waiting.take(1_000, 500), [of("a", 600)]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn a_call_larger_than_a_group_is_alone_in_one() {
        let mut waiting = waiting(&[of("a", 5_000), of("b", 1)]);
        assert_eq!(waiting.take(1_000, 500), [of("a", 5_000)]);
        assert_eq!(waiting.take(1_000, 500), [of("b", 1)]);
    }
}
