//! A value that is read from the database again and again, so that it is never older than a limit. All who need it at once
//! share one query.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use tokio::sync::Semaphore;

use crate::error::{Error, Result};

/// From this age on, a value is read again; meanwhile it is still used.
const REFRESH_AFTER: Duration = Duration::from_secs(3);
/// A value of this age is not used. A revoked key is refused after it at the latest.
const MAX_AGE: Duration = Duration::from_secs(5);
/// How long a caller waits for a value.
const WAIT_LIMIT: Duration = Duration::from_secs(5);

type Reading<T> = Shared<BoxFuture<'static, Option<T>>>;

/// A value that is at most [`MAX_AGE`] old.
#[derive(Debug)]
pub(super) struct YoungValue<T: Clone> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T: Clone> {
    /// The value, and when its query began.
    read: Option<(Instant, T)>,
    reading: Option<Reading<T>>,
}

impl<T: Clone> Default for YoungValue<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                read: None,
                reading: None,
            }),
        }
    }
}

impl<T: Clone + Send + Sync + 'static> YoungValue<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was read last, however old it is.
    pub(super) fn latest(&self) -> Option<T> {
        self.lock().read.as_ref().map(|(_, value)| value.clone())
    }

    /// The value. If it is needed, `begin` makes the query that reads it; its argument says whether the value was never
    /// read. The query goes on if no caller waits for it any more, and says itself why it failed. A call that waits for it
    /// takes one of the places.
    ///
    /// # Errors
    /// The value is too old, and the query cannot begin, fails or takes too long; or no place is free.
    pub(super) async fn get<F>(
        self: &Arc<Self>,
        places: &Semaphore,
        begin: impl FnOnce(bool) -> Result<F>,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (reading, _place) = {
            let mut state = self.lock();
            let young = state.read.as_ref().map(|(at, value)| (at.elapsed(), value));
            let young = young.filter(|(age, _)| *age < MAX_AGE);
            let young = young.map(|(age, value)| (age, value.clone()));
            match young {
                Some((age, value)) if age < REFRESH_AFTER => return Ok(value),
                Some((_, value)) => {
                    if state.reading.is_none()
                        && let Ok(query) = begin(false)
                    {
                        state.reading = Some(self.read(query));
                    }
                    return Ok(value);
                }
                None => {}
            }
            let place = places.try_acquire().map_err(|_| Error::KeysUnreadable)?;
            let reading = if let Some(reading) = &state.reading {
                reading.clone()
            } else {
                let reading = self.read(begin(state.read.is_none())?);
                state.reading = Some(reading.clone());
                reading
            };
            (reading, place)
        };
        let read = tokio::time::timeout(WAIT_LIMIT, reading).await;
        read.ok().flatten().ok_or(Error::KeysUnreadable)
    }

    fn read<F>(self: &Arc<Self>, query: F) -> Reading<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let value = Arc::clone(self);
        let begun = Instant::now();
        // As a task: a query that is dropped half way would leave the state of its connection unknown.
        let reading = tokio::spawn(async move {
            let read = query.await;
            let mut state = value.lock();
            state.reading = None;
            match read {
                Ok(read) => {
                    state.read = Some((begun, read.clone()));
                    Some(read)
                }
                Err(_) => None,
            }
        });
        reading.map(|read| read.ok().flatten()).boxed().shared()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    impl<T: Clone> YoungValue<T> {
        /// Makes the value older.
        fn age(&self, by: Duration) {
            let mut state = self.state.lock().unwrap();
            let read = state.read.as_mut().unwrap();
            read.0 = read.0.checked_sub(by).unwrap();
        }
    }

    fn places() -> Semaphore {
        Semaphore::new(1)
    }

    fn read(number: usize) -> std::future::Ready<Result<usize>> {
        std::future::ready(Ok(number))
    }

    #[tokio::test]
    async fn callers_at_once_share_one_query() {
        let value = Arc::new(YoungValue::default());
        let queries = Arc::new(AtomicUsize::new(0));
        let (go, wait) = tokio::sync::watch::channel(false);
        let calls = (0..100).map(|_| {
            let (value, queries, mut wait) = (value.clone(), queries.clone(), wait.clone());
            async move {
                let query = |_| {
                    queries.fetch_add(1, Ordering::Relaxed);
                    Ok(async move {
                        wait.wait_for(|go| *go).await.unwrap();
                        Ok(7)
                    })
                };
                value.get(&places(), query).await.unwrap()
            }
        });
        let calls = futures_util::future::join_all(calls);
        let (seen, ()) = tokio::join!(calls, async { go.send(true).unwrap() });
        assert_eq!(seen, vec![7; 100]);
        assert_eq!(queries.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_value_is_read_again_before_it_is_too_old_and_never_used_after() {
        let value = Arc::new(YoungValue::default());
        assert_eq!(value.get(&places(), |_| Ok(read(1))).await.unwrap(), 1);
        assert_eq!(value.get(&places(), |_| Ok(read(2))).await.unwrap(), 1);
        value.age(REFRESH_AFTER);
        assert_eq!(value.get(&places(), |_| Ok(read(3))).await.unwrap(), 1);
        let reading = value.lock().reading.clone();
        if let Some(reading) = reading {
            reading.await;
        }
        assert_eq!(value.get(&places(), |_| Ok(read(4))).await.unwrap(), 3);
        value.age(MAX_AGE);
        assert_eq!(value.get(&places(), |_| Ok(read(5))).await.unwrap(), 5);
    }

    #[tokio::test]
    async fn a_query_that_fails_is_no_answer_and_a_young_value_outlives_it() {
        let value = Arc::new(YoungValue::default());
        let fails = |_| Ok(async { Err(Error::ShuttingDown) });
        assert!(matches!(
            value.get(&places(), fails).await,
            Err(Error::KeysUnreadable)
        ));
        assert_eq!(value.get(&places(), |_| Ok(read(1))).await.unwrap(), 1);
        value.age(REFRESH_AFTER);
        assert_eq!(value.get(&places(), fails).await.unwrap(), 1);
        value.age(MAX_AGE);
        assert!(matches!(
            value.get(&places(), fails).await,
            Err(Error::KeysUnreadable)
        ));
    }
    #[tokio::test]
    async fn as_many_calls_wait_as_there_are_places_and_others_do_not_need_one() {
        let value = Arc::new(YoungValue::default());
        let places = Semaphore::new(2);
        let never = |_| Ok(std::future::pending::<Result<usize>>());
        let calls = (0..5).map(|_| value.get(&places, never));
        let mut calls: futures_util::stream::FuturesUnordered<_> = calls.collect();
        for _ in 0..3 {
            let refused = futures_util::StreamExt::next(&mut calls).await.unwrap();
            assert!(matches!(refused, Err(Error::KeysUnreadable)));
        }
        let known = Arc::new(YoungValue::default());
        let none = Semaphore::new(0);
        known
            .get(&Semaphore::new(1), |_| Ok(read(1)))
            .await
            .unwrap();
        assert_eq!(known.get(&none, |_| Ok(read(2))).await.unwrap(), 1);
    }
}
