//! The ids of all keys, so that an id of no key costs no query and no memory of its own.
//!
//! Whoever makes ids up waits, with everyone whose key is as new, for the next reading of all ids. There are few of those a
//! second, however many ids are tried, and calls with a key that is known do not wait for them.

use std::{
    collections::HashSet,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, Semaphore},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    domain::api_key::KeyId,
    error::{Error, Result},
};

/// Ids that are remembered: 800 KB.
pub(super) const MAX_IDS: u64 = 100_000;
/// The shortest time between two readings.
const READ_INTERVAL: Duration = Duration::from_millis(250);
/// Calls that wait for a reading.
const WAITING_CALLS: usize = 2_048;
/// From this time on, a reading is slow because of the database and not because of the number of calls.
const SLOW_READING: Duration = Duration::from_secs(1);
/// How long one waits.
const WAIT_LIMIT: Duration = Duration::from_secs(5);

/// All ids as they were read.
#[derive(Clone, Debug, Default)]
struct Ids {
    /// When the reading began.
    begun: Option<Instant>,
    all: Arc<HashSet<KeyId>>,
}

/// What is known of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It is of a key, which may not be valid.
    Key,
    /// It is of no key.
    NoKey,
    /// There are too many keys to remember all.
    Perhaps,
}

/// The last reading.
#[derive(Clone, Copy, Debug)]
struct Reading {
    begun: Instant,
    has_failed: bool,
}

/// The ids of all keys.
#[derive(Debug)]
pub(super) struct KnownIds {
    ids: RwLock<Ids>,
    /// Locked while a reading goes on.
    last_reading: Mutex<Option<Reading>>,
    /// Since when a reading goes on.
    reading_since: RwLock<Option<Instant>>,
    /// Whether the last reading that ended failed.
    has_failed: AtomicBool,
    places: Arc<Semaphore>,
}

impl Default for KnownIds {
    fn default() -> Self {
        Self {
            ids: RwLock::default(),
            last_reading: Mutex::default(),
            reading_since: RwLock::default(),
            has_failed: AtomicBool::new(false),
            places: Arc::new(Semaphore::new(WAITING_CALLS)),
        }
    }
}

impl KnownIds {
    fn ids(&self) -> Ids {
        let ids = self.ids.read();
        ids.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is known of an id. One that was of no key is looked for again, because the key may be new; `read` reads all ids,
    /// up to [`MAX_IDS`] and one.
    ///
    /// # Errors
    /// The ids cannot be read, or too many calls wait for them.
    pub(super) async fn look_up<F>(
        self: &Arc<Self>,
        id: KeyId,
        read: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Known>
    where
        F: Future<Output = Result<Vec<KeyId>>> + Send + 'static,
    {
        if self.ids().all.contains(&id) {
            return Ok(Known::Key);
        }
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| self.full())?;
        let (known, from) = (Arc::clone(self), Instant::now());
        // As a task: a caller who gives up neither ends a query half way nor makes the next one begin sooner.
        let reading = tokio::spawn(async move {
            let _place = place;
            known.ids_from(from, read).await
        });
        let read = timeout(WAIT_LIMIT, reading).await;
        let read = read.map_err(|_| Error::KeysUnreadable)?;
        let ids = read.unwrap_or_else(|error| Err(Error::Internal(error.into())))?;
        let is_whole = u64::try_from(ids.all.len()).is_ok_and(|len| len <= MAX_IDS);
        Ok(match (ids.all.contains(&id), is_whole) {
            (true, _) => Known::Key,
            (false, true) => Known::NoKey,
            (false, false) => Known::Perhaps,
        })
    }

    /// Why a call does not wait: there are too many, or the database does not answer those that wait.
    fn full(&self) -> Error {
        let since = self.reading_since.read();
        let since = *since.unwrap_or_else(PoisonError::into_inner);
        let is_slow = since.is_some_and(|since| since.elapsed() > SLOW_READING);
        if is_slow || self.has_failed.load(Ordering::Relaxed) {
            Error::KeysUnreadable
        } else {
            Error::TooManyKeys
        }
    }

    fn note_reading(&self, since: Option<Instant>) {
        let reading = self.reading_since.write();
        *reading.unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// The ids as a reading found them that began after a time.
    async fn ids_from<F>(&self, from: Instant, read: impl FnOnce() -> F) -> Result<Ids>
    where
        F: Future<Output = Result<Vec<KeyId>>>,
    {
        let mut last_reading = self.last_reading.lock().await;
        let last = self.ids();
        if last.begun.is_some_and(|begun| begun > from) {
            return Ok(last);
        }
        if let Some(last) = *last_reading {
            // One reading fails for all who waited for it.
            if last.has_failed && last.begun >= from {
                return Err(Error::KeysUnreadable);
            }
            sleep_until(last.begun.checked_add(READ_INTERVAL).unwrap_or(last.begun)).await;
        }
        let begun = Instant::now();
        let mut reading = Reading {
            begun,
            has_failed: true,
        };
        *last_reading = Some(reading);
        self.note_reading(Some(begun));
        let all = read().await;
        self.note_reading(None);
        self.has_failed.store(all.is_err(), Ordering::Relaxed);
        let all = all.map_err(|_| Error::KeysUnreadable)?;
        reading.has_failed = false;
        *last_reading = Some(reading);
        let ids = Ids {
            begun: Some(begun),
            all: Arc::new(all.into_iter().collect()),
        };
        let mut known = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        known.clone_from(&ids);
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;

    fn id(number: u64) -> KeyId {
        KeyId::parse(&format!("{number:016x}")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn many_unknown_ids_cost_few_readings_and_known_ones_none() {
        let known = Arc::new(KnownIds::default());
        let readings = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&readings);
        let read = move || {
            counter.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Ok(vec![id(1), id(2)]))
        };
        let found = known.look_up(id(1), read.clone()).await;
        assert_eq!(found.unwrap(), Known::Key);
        let begun = Instant::now();
        for _ in 0..10 {
            let wrong = (100..1_100).map(|number| known.look_up(id(number), read.clone()));
            for found in join_all(wrong).await {
                assert_eq!(found.unwrap(), Known::NoKey);
            }
            let found = known.look_up(id(2), read.clone()).await;
            assert_eq!(found.unwrap(), Known::Key);
        }
        assert_eq!(readings.load(Ordering::Relaxed), 11);
        assert!(begun.elapsed() >= Duration::from_millis(2_250));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_key_is_found_by_the_next_reading() {
        let known = Arc::new(KnownIds::default());
        let none = || std::future::ready(Ok(Vec::new()));
        assert_eq!(known.look_up(id(1), none).await.unwrap(), Known::NoKey);
        let one = || std::future::ready(Ok(vec![id(1)]));
        assert_eq!(known.look_up(id(1), one).await.unwrap(), Known::Key);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_read_is_no_answer_and_too_many_do_not_wait() {
        let known = Arc::new(KnownIds::default());
        let fails = || std::future::ready(Err(Error::ShuttingDown));
        let failed = known.look_up(id(1), fails).await;
        assert!(matches!(failed, Err(Error::KeysUnreadable)));
        // The database may not answer the others either.
        let never = || std::future::pending::<Result<Vec<KeyId>>>();
        let calls = (0..WAITING_CALLS + 10).map(|_| known.look_up(id(1), never));
        let unreadable = |failed: &Result<Known>| matches!(failed, Err(Error::KeysUnreadable));
        assert!(join_all(calls).await.iter().all(unreadable));

        let known = Arc::new(KnownIds::default());
        let too_many = |failed: &Result<Known>| matches!(failed, Err(Error::TooManyKeys));
        let first = (0..WAITING_CALLS + 10).map(|_| known.look_up(id(1), never));
        // A reading that goes on for longer is no flood of calls.
        let later = async {
            tokio::time::sleep(SLOW_READING * 2).await;
            known.look_up(id(1), never).await
        };
        let (first, later) = tokio::join!(join_all(first), later);
        assert_eq!(first.iter().filter(|failed| too_many(failed)).count(), 10);
        assert_eq!(
            first.iter().filter(|failed| unreadable(failed)).count(),
            WAITING_CALLS
        );
        assert!(unreadable(&later));
    }

    #[tokio::test(start_paused = true)]
    async fn one_failed_reading_is_the_answer_of_all_who_waited_for_it() {
        let known = Arc::new(KnownIds::default());
        let readings = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&readings);
        let fails = move || async move {
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(2)).await;
            Err(Error::ShuttingDown)
        };
        let calls = (0..1_000).map(|number| known.look_up(id(number), fails.clone()));
        let failed = join_all(calls).await;
        let unreadable = |failed| matches!(failed, Err(Error::KeysUnreadable));
        assert!(failed.into_iter().all(unreadable));
        // The calls came within one reading.
        assert!(readings.load(Ordering::Relaxed) <= 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_gives_up_makes_no_reading_begin_sooner() {
        let known = Arc::new(KnownIds::default());
        let readings = Arc::new(AtomicUsize::new(0));
        let begun = Instant::now();
        for _ in 0..100 {
            let counter = Arc::clone(&readings);
            let read = move || async move {
                counter.fetch_add(1, Ordering::Relaxed);
                Ok(Vec::new())
            };
            let call = known.look_up(id(1), read);
            let _ = timeout(Duration::from_millis(10), call).await;
        }
        // As many as there were intervals, and the first.
        let intervals = begun.elapsed().as_millis() / READ_INTERVAL.as_millis();
        let count = readings.load(Ordering::Relaxed);
        assert!(u128::try_from(count).unwrap() <= intervals + 1, "{count}");
    }

    #[tokio::test(start_paused = true)]
    async fn with_too_many_keys_an_unknown_id_may_be_of_one() {
        let known = Arc::new(KnownIds::default());
        let many = || std::future::ready(Ok((0..=MAX_IDS).map(id).collect()));
        let found = known.look_up(id(u64::MAX), many).await;
        assert_eq!(found.unwrap(), Known::Perhaps);
        assert_eq!(known.look_up(id(7), many).await.unwrap(), Known::Key);
    }
}
