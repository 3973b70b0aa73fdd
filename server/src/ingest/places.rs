//! Places in the queue: how many increments may wait for a commit, of all callers and of each.
//!
//! A caller may have at most four times as many places as it leaves free. So one caller alone takes four fifths of the queue,
//! two take four ninths each, and however many send too much, another one finds a place. A queue of less than two and a half
//! full batches is too small to be shared so: there, a batch would have to wait until its caller has nothing else in it.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::domain::caller_id::CallerId;

/// The smallest queue that is shared.
const MIN_SHARED: usize = 2_500;
/// How many times the free places a caller may have.
const TIMES_FREE: usize = 4;

/// The places of a queue. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Places {
    limit: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Of each caller that has some.
    of: HashMap<CallerId, usize>,
}

impl Places {
    /// A queue with so many places.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: Arc::default(),
        }
    }

    /// The places that are taken.
    pub(super) fn taken(&self) -> usize {
        self.lock().all
    }

    /// Takes places until the result is dropped. A caller without a name is limited only by the queue; a caller with
    /// no place gets the first ones if they are free. `None` if there are too few.
    pub(super) fn take(&self, caller: Option<&CallerId>, count: usize) -> Option<TakenPlaces> {
        let mut taken = self.lock();
        let free = self.limit.checked_sub(taken.all)?;
        if count > free {
            return None;
        }
        if let Some(caller) = caller {
            match taken.of.entry(caller.clone()) {
                Entry::Vacant(first) => {
                    first.insert(count);
                }
                Entry::Occupied(mut more) => {
                    let own = more.get().saturating_add(count);
                    let most = free.saturating_sub(count).saturating_mul(TIMES_FREE);
                    if self.limit >= MIN_SHARED && own > most {
                        return None;
                    }
                    *more.get_mut() = own;
                }
            }
        }
        taken.all = taken.all.saturating_add(count);
        drop(taken);
        Some(TakenPlaces {
            places: self.clone(),
            caller: caller.cloned(),
            count,
        })
    }

    fn give_back(&self, caller: Option<&CallerId>, count: usize) {
        let mut taken = self.lock();
        taken.all = taken.all.saturating_sub(count);
        let Some(caller) = caller else {
            return;
        };
        if let Some(own) = taken.of.get_mut(caller) {
            *own = own.saturating_sub(count);
            if *own == 0 {
                taken.of.remove(caller);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Places that are given back when this is dropped.
#[derive(Debug)]
pub(super) struct TakenPlaces {
    places: Places,
    caller: Option<CallerId>,
    count: usize,
}

impl TakenPlaces {
    /// Whose they are.
    pub(super) fn caller(&self) -> Option<&CallerId> {
        self.caller.as_ref()
    }
}

impl Drop for TakenPlaces {
    fn drop(&mut self) {
        self.places.give_back(self.caller.as_ref(), self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(name: &str) -> CallerId {
        CallerId::Certificate(name.to_owned())
    }

    /// Takes places one by one until there are no more.
    fn fill(places: &Places, caller: &CallerId) -> Vec<TakenPlaces> {
        std::iter::from_fn(|| places.take(Some(caller), 1)).collect()
    }

    #[test]
    fn a_caller_that_fills_the_queue_leaves_places_to_others() {
        let places = Places::new(5_000);
        let (greedy, other, third) = (caller("greedy"), caller("other"), caller("third"));
        let held = fill(&places, &greedy);
        assert_eq!(held.len(), 4_000);
        let of_other = fill(&places, &other);
        assert_eq!(of_other.len(), 800);
        assert!(places.take(Some(&greedy), 1).is_none());
        let first = places.take(Some(&third), 30).unwrap();
        drop((held, of_other, first));
        assert_eq!(places.taken(), 0);
        assert!(places.lock().of.is_empty(), "nothing of a caller stays");
    }

    #[test]
    fn the_queue_is_the_only_limit_of_a_first_call_and_of_callers_without_a_name() {
        let places = Places::new(1_000);
        let whole = places.take(Some(&caller("a")), 1_000).unwrap();
        assert!(places.take(Some(&caller("b")), 1).is_none());
        drop(whole);
        let all: Vec<_> = std::iter::from_fn(|| places.take(None, 100)).collect();
        assert_eq!(all.len(), 10);
        assert_eq!(places.taken(), 1_000);
        assert!(places.take(None, 1).is_none());
    }

    #[test]
    fn a_caller_may_send_a_batch_beside_a_call_of_its_own_however_small_the_queue_is() {
        for limit in [1_001, 2_499, 2_500] {
            let places = Places::new(limit);
            let a = caller("a");
            let _one = places.take(Some(&a), 1).unwrap();
            assert!(places.take(Some(&a), 1_000).is_some(), "{limit}");
        }
    }

    #[test]
    fn a_refused_call_takes_no_place() {
        let places = Places::new(3_000);
        let a = caller("a");
        let held = places.take(Some(&a), 2_000).unwrap();
        assert!(places.take(Some(&a), 900).is_none());
        assert_eq!(places.taken(), 2_000);
        drop(held);
        assert_eq!(places.taken(), 0);
    }
}
