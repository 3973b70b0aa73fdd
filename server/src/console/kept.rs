//! An answer that takes long, kept in memory for those who look next: it is read again in the background while somebody looks,
//! one read at a time, and shown with its age.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::calls::Failure;

/// The next read waits this many times as long as the last one took, at least.
const REST_FACTOR: u32 = 20;

/// How long an answer is good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ages {
    /// Up to this age it is not read again.
    pub(super) young: Duration,
    /// Up to this age it is shown while it is read again.
    pub(super) shown: Duration,
    /// How long a page waits if there is none to show.
    pub(super) wait: Duration,
}

/// What is kept of one question. Cheap to clone.
pub(super) struct Kept<T> {
    ages: Ages,
    state: Arc<Mutex<State<T>>>,
    read: Arc<Notify>,
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self {
            ages: self.ages,
            state: Arc::clone(&self.state),
            read: Arc::clone(&self.read),
        }
    }
}

struct State<T> {
    last: Option<Last<T>>,
    is_reading: bool,
}

/// The last answer.
struct Last<T> {
    asked: Instant,
    took: Duration,
    answer: Result<Arc<T>, Failure>,
}

impl<T> Last<T> {
    fn found(&self) -> Result<Found<T>, Failure> {
        let answer = self.answer.clone()?;
        Ok(Found {
            answer,
            age: self.asked.elapsed(),
        })
    }
}

/// An answer, and how old it is.
pub(super) struct Found<T> {
    pub(super) answer: Arc<T>,
    pub(super) age: Duration,
}

impl<T: Send + Sync + 'static> Kept<T> {
    pub(super) fn new(ages: Ages) -> Self {
        Self {
            ages,
            state: Arc::new(Mutex::new(State {
                last: None,
                is_reading: false,
            })),
            read: Arc::default(),
        }
    }

    /// The answer; none if it takes longer than a page waits. The read goes on, and a later page shows it.
    ///
    /// # Errors
    /// The last read failed.
    pub(super) async fn get(
        &self,
        read: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<Option<Found<T>>, Failure> {
        let has_ended = self.read.notified();
        if let Some(found) = self.begin(read) {
            return found.map(Some);
        }
        // Whoever asks in between sees that it has ended, or is told.
        let _ = tokio::time::timeout(self.ages.wait, has_ended).await;
        let state = self.lock();
        let last = state.last.as_ref().filter(|_| !state.is_reading);
        last.map(Last::found).transpose()
    }

    /// What can be shown at once. Begins a read if that is due.
    fn begin(
        &self,
        read: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Option<Result<Found<T>, Failure>> {
        let mut state = self.lock();
        let age = state.last.as_ref().map(|last| last.asked.elapsed());
        let took = state.last.as_ref().map(|last| last.took);
        let rest = took.unwrap_or_default().saturating_mul(REST_FACTOR);
        let is_young = age.is_some_and(|age| age < self.ages.young.max(rest));
        // What failed is asked again.
        let is_good = state.last.as_ref().is_some_and(|last| last.answer.is_ok());
        let is_enough = is_young && is_good;
        if !is_enough && !state.is_reading {
            state.is_reading = true;
            drop(tokio::spawn(self.clone().keep(read)));
        }
        let is_shown = is_good && age.is_some_and(|age| age < self.ages.shown.max(rest));
        let last = state.last.as_ref().filter(|_| is_shown);
        last.map(Last::found)
    }

    async fn keep(self, read: impl Future<Output = Result<T, Failure>>) {
        let reading = Reading(self);
        let asked = Instant::now();
        let answer = read.await.map(Arc::new);
        let mut state = reading.0.lock();
        // A failure takes the place of what is too old to be shown only.
        let keeps = answer.is_err()
            && state.last.as_ref().is_some_and(|last| {
                last.answer.is_ok() && last.asked.elapsed() < reading.0.ages.shown
            });
        if !keeps {
            state.last = Some(Last {
                asked,
                took: asked.elapsed(),
                answer,
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A read that goes on. Its end is told also if it panics.
struct Reading<T: Send + Sync + 'static>(Kept<T>);

impl<T: Send + Sync + 'static> Drop for Reading<T> {
    fn drop(&mut self) {
        self.0.lock().is_reading = false;
        self.0.read.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn kept(young: Duration, wait: Duration) -> Kept<u32> {
        Kept::new(Ages {
            young,
            shown: Duration::from_hours(1),
            wait,
        })
    }

    const LONG: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn a_young_answer_is_not_read_again() {
        let kept = kept(LONG, LONG);
        let found = kept.get(async { Ok(1) }).await.unwrap().unwrap();
        assert_eq!(*found.answer, 1);
        let found = kept.get(async { Ok(2) }).await.unwrap().unwrap();
        assert_eq!(*found.answer, 1);
    }

    #[tokio::test]
    async fn an_old_answer_is_shown_while_one_read_goes_on() {
        let kept = kept(Duration::ZERO, LONG);
        kept.get(async { Ok(1) }).await.unwrap();
        let (end, ended) = oneshot::channel();
        let slow = async {
            let answer: u32 = ended.await.unwrap();
            Ok(answer)
        };
        // The first one took no time, so no rest is due for long.
        while !kept.lock().is_reading {
            let found = kept.get(std::future::pending()).await.unwrap().unwrap();
            assert_eq!(*found.answer, 1);
        }
        // No second read begins.
        let found = kept.get(slow).await.unwrap().unwrap();
        assert_eq!(*found.answer, 1);
        assert!(end.send(2).is_err());
    }

    #[tokio::test]
    async fn a_page_does_not_wait_for_long() {
        let kept = kept(LONG, Duration::ZERO);
        let (end, ended) = oneshot::channel();
        let slow = async {
            let answer: u32 = ended.await.unwrap();
            Ok(answer)
        };
        assert!(kept.get(slow).await.unwrap().is_none());
        let has_ended = kept.read.notified();
        end.send(7).unwrap();
        has_ended.await;
        let found = kept.get(std::future::pending()).await.unwrap().unwrap();
        assert_eq!(*found.answer, 7);
    }

    #[tokio::test]
    async fn a_failure_is_told_and_asked_again() {
        let kept = kept(LONG, LONG);
        let failed = kept.get(async { Err(Failure::invalid("no")) }).await;
        assert_eq!(failed.err().unwrap().message, "no");
        let found = kept.get(async { Ok(3) }).await.unwrap().unwrap();
        assert_eq!(*found.answer, 3);
    }
}
