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
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn kept(young: Duration, wait: Duration) -> Kept<u32> {
        Kept::new(Ages {
            young,
            old: Duration::from_hours(1),
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
    async fn an_answer_that_is_read_anew_is_waited_for() {
        let kept = kept(Duration::ZERO, LONG);
        for number in 1..4 {
            // What took no time is soon read again.
            let found = loop {
                let found = kept.get_anew(async move { Ok(number) }).await;
                let found = *found.unwrap().unwrap().answer;
                if found == number {
                    break found;
                }
            };
            assert_eq!(found, number);
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_young_is_read_again_for_whoever_asks_for_that() {
        let kept = kept(LONG, LONG);
        kept.get_anew(async { Ok(1) }).await.unwrap();
        let found = kept.get_anew(async { Ok(2) }).await.unwrap().unwrap();
        assert_eq!((*found.answer, found.is_old), (1, false));
        let found = kept.get_now(async { Ok(3) }).await.unwrap().unwrap();
        assert_eq!((*found.answer, found.is_old), (3, false));
    }

    #[tokio::test]
    async fn a_read_that_takes_longer_than_a_page_waits_is_told() {
        let kept = kept(LONG, Duration::ZERO);
        let has_ended = kept.read.notified();
        kept.get(async { Ok(1) }).await.unwrap();
        has_ended.await;
        let found = kept.get_now(std::future::pending()).await.unwrap().unwrap();
        assert_eq!((*found.answer, found.is_old), (1, true));
        // A second one that asks begins no other read.
        let found = kept.get_now(async { Ok(2) }).await.unwrap().unwrap();
        assert_eq!((*found.answer, found.is_old), (1, true));
    }

    #[tokio::test]
    async fn the_last_answer_is_shown_while_the_next_one_takes_long() {
        let kept = kept(Duration::ZERO, Duration::ZERO);
        let has_ended = kept.read.notified();
        assert!(kept.get_anew(async { Ok(1) }).await.is_ok());
        has_ended.await;
        while !kept.lock().is_reading {
            let found = kept.get_anew(std::future::pending()).await;
            assert_eq!(*found.unwrap().unwrap().answer, 1);
        }
        let found = kept.get_anew(async { Ok(2) }).await.unwrap().unwrap();
        assert_eq!(*found.answer, 1);
    }

    #[tokio::test]
    async fn a_failure_is_told_and_asked_again() {
        let kept = kept(Duration::ZERO, LONG);
        let failed = kept.get(async { Err(Failure::invalid("no")) }).await;
        assert_eq!(failed.err().unwrap().message, "no");
        // It took no time, so no rest is due for long.
        let found = loop {
            if let Ok(found) = kept.get(async { Ok(3) }).await {
                break found.unwrap();
            }
        };
        assert_eq!(*found.answer, 3);
    }

    #[tokio::test]
    async fn a_failed_read_is_not_repeated_at_once() {
        let kept = kept(LONG, LONG);
        let failed = kept.get(async { Err(Failure::invalid("no")) }).await;
        assert_eq!(failed.err().unwrap().message, "no");
        let told = kept.get(std::future::pending()).await;
        assert_eq!(told.err().unwrap().message, "no");
        assert!(!kept.lock().is_reading);
    }

    #[test]
    fn a_failure_is_kept_for_half_a_minute_however_long_the_read_took() {
        let took = Duration::from_secs(40);
        let is_kept = |since: u64| {
            let ago = took + Duration::from_secs(since);
            let began = Instant::now().checked_sub(ago).unwrap();
            let failed = Failed {
                attempt: Attempt { began, took },
                failure: Failure::invalid("no"),
            };
            let ages = kept(Duration::ZERO, LONG).ages;
            failed.is_kept(&ages)
        };
        assert!(is_kept(0) && is_kept(29));
        assert!(!is_kept(30));
    }

    #[tokio::test]
    async fn a_failure_of_one_visitor_is_not_kept_for_others() {
        let kept = kept(LONG, LONG);
        let denied = Failure {
            status: StatusCode::FORBIDDEN,
            ..Failure::invalid("not you")
        };
        let failed = kept.get(async { Err(denied) }).await;
        assert_eq!(failed.err().unwrap().message, "not you");
        let found = kept.get(async { Ok(3) }).await.unwrap().unwrap();
        assert_eq!(*found.answer, 3);
    }
    #[tokio::test]
    async fn an_old_answer_is_shown_at_once_and_a_failure_in_its_place() {
        let kept: Kept<u32> = Kept::new(Ages {
            young: Duration::ZERO,
            old: Duration::ZERO,
            wait: LONG,
        });
        let attempt = Attempt {
            began: Instant::now(),
            took: Duration::ZERO,
        };
        let answer = Arc::new(1);
        kept.lock().last = Some(Last { attempt, answer });
        let (end, ended) = oneshot::channel();
        let failing = async {
            ended.await.unwrap();
            Err(Failure::invalid("no"))
        };
        let found = kept.get(failing).await.unwrap().unwrap();
        assert_eq!((*found.answer, found.is_old), (1, true));
        // One read goes on, and no second one begins.
        let found = kept.get(std::future::pending()).await.unwrap().unwrap();
        assert!(found.is_old);
        let has_ended = kept.read.notified();
        end.send(()).unwrap();
        has_ended.await;
        // A failure that is kept is told in the place of what is old.
        kept.lock().failed.as_mut().unwrap().attempt.took = LONG;
        let told = kept.get(std::future::pending()).await;
        assert_eq!(told.err().unwrap().message, "no");
    }
}
