//! An answer that takes long, kept in memory for those who look next: it is read again in the background while somebody looks,
//! one read at a time, and shown with its age.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use tokio::sync::Notify;

use super::calls::Failure;

/// The next read waits this many times as long as the last one took, at least.
const REST_FACTOR: u32 = 20;
/// The longest of these times.
const MAX_REST: Duration = Duration::from_hours(1);
/// A read that failed is not repeated sooner, at least.
const FAILURE_YOUNG: Duration = Duration::from_secs(5);
/// The longest of these times: what failed may work at once.
const MAX_FAILURE_REST: Duration = Duration::from_secs(30);

/// How long an answer is good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ages {
    /// Up to this age it is not read again.
    pub(super) young: Duration,
    /// From this age on it is old. It is shown while it is read again, unless that failed.
    pub(super) old: Duration,
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
    /// Why there is no later answer than the last one.
    failed: Option<Failed>,
    is_reading: bool,
}

/// The last answer.
struct Last<T> {
    attempt: Attempt,
    answer: Arc<T>,
}

impl<T> Last<T> {
    fn found(&self, ages: &Ages) -> Found<T> {
        Found {
            answer: Arc::clone(&self.answer),
            age: self.attempt.began.elapsed(),
            is_old: !self.attempt.is_younger(ages.old),
        }
    }
}

/// A read that failed.
struct Failed {
    attempt: Attempt,
    failure: Failure,
}

impl Failed {
    /// Whether it is kept instead of reading again. What is about one visitor is not kept for others.
    fn is_kept(&self, ages: &Ages) -> bool {
        let is_of_visitor = matches!(
            self.failure.status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
        );
        let Attempt { began, took } = self.attempt;
        let since = began.elapsed().saturating_sub(took);
        let rest = took.saturating_mul(REST_FACTOR).min(MAX_FAILURE_REST);
        !is_of_visitor && since < ages.young.min(FAILURE_YOUNG).max(rest)
    }
}

/// When a read began, and how long it took.
#[derive(Clone, Copy)]
struct Attempt {
    began: Instant,
    took: Duration,
}

impl Attempt {
    /// Whether it is younger than an age, or than the rest that follows it.
    fn is_younger(&self, age: Duration) -> bool {
        let rest = self.took.saturating_mul(REST_FACTOR).min(MAX_REST);
        self.began.elapsed() < age.max(rest)
    }
}

/// An answer, and how old it is.
pub(super) struct Found<T> {
    pub(super) answer: Arc<T>,
    pub(super) age: Duration,
    /// Whether a younger one should be waited for: it is old, or was waited for already and is still being read.
    pub(super) is_old: bool,
}

impl<T: Send + Sync + 'static> Kept<T> {
    pub(super) fn new(ages: Ages) -> Self {
        Self {
            ages,
            state: Arc::new(Mutex::new(State {
                last: None,
                failed: None,
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
        self.wait(has_ended).await
    }

    /// The same, but of an answer that is no longer young, a page waits for the next one too, and shows the last one if that
    /// takes longer.
    ///
    /// # Errors
    /// The last read failed.
    pub(super) async fn get_anew(
        &self,
        read: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<Option<Found<T>>, Failure> {
        let has_ended = self.read.notified();
        let found = self.begin(read);
        if self.lock().is_reading {
            return self.wait(has_ended).await;
        }
        match found {
            Some(found) => found.map(Some),
            // It has ended since.
            None => self.wait(std::future::ready(())).await,
        }
    }

    /// The same, but it is read again whatever there is, unless a read goes on.
    ///
    /// # Errors
    /// The last read failed.
    pub(super) async fn get_now(
        &self,
        read: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<Option<Found<T>>, Failure> {
        let has_ended = self.read.notified();
        self.start(&mut self.lock(), read);
        self.wait(has_ended).await
    }

    /// What there is when a read has ended, or after as long as a page waits.
    async fn wait(&self, has_ended: impl Future<Output = ()>) -> Result<Option<Found<T>>, Failure> {
        // Whoever asks in between sees that it has ended, or is told.
        let _ = tokio::time::timeout(self.ages.wait, has_ended).await;
        let state = self.lock();
        let last = state.last.as_ref().map(|last| last.found(&self.ages));
        let last = last.map(|last| Found {
            is_old: last.is_old || state.is_reading,
            ..last
        });
        match &state.failed {
            Some(failed) if !state.is_reading => Err(failed.failure.clone()),
            _ => Ok(last),
        }
    }

    /// What can be shown at once. Begins a read if that is due.
    fn begin(
        &self,
        read: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Option<Result<Found<T>, Failure>> {
        let mut state = self.lock();
        let ages = &self.ages;
        let last = state.last.as_ref();
        let is_young = last.is_some_and(|last| last.attempt.is_younger(ages.young));
        let failed = state.failed.as_ref().filter(|failed| failed.is_kept(ages));
        let found = last.map(|last| last.found(ages));
        let shown = match (found, failed) {
            (Some(found), Some(failed)) if found.is_old => Some(Err(failed.failure.clone())),
            (Some(found), _) => Some(Ok(found)),
            (None, failed) => failed.map(|failed| Err(failed.failure.clone())),
        };
        if !is_young && failed.is_none() {
            self.start(&mut state, read);
        }
        shown
    }

    /// Begins a read, unless one goes on.
    fn start(
        &self,
        state: &mut State<T>,
        read: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) {
        if !state.is_reading {
            state.is_reading = true;
            drop(tokio::spawn(self.clone().keep(read)));
        }
    }

    async fn keep(self, read: impl Future<Output = Result<T, Failure>>) {
        let reading = Reading(self);
        let began = Instant::now();
        let answer = read.await;
        let attempt = Attempt {
            began,
            took: began.elapsed(),
        };
        let mut state = reading.0.lock();
        match answer {
            Ok(answer) => {
                let answer = Arc::new(answer);
                state.last = Some(Last { attempt, answer });
                state.failed = None;
            }
            // The last answer stays, until it is old.
            Err(failure) => state.failed = Some(Failed { attempt, failure }),
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
mod tests;
