//! Reads keys by their ids, many in one query: however many keys are in use, one query at a time reads those that are due.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::{
    domain::api_key::KeyId,
    error::{Error, Result},
    store::api_keys::{StoredKey, StoredKeys},
};

/// Keys of one query.
const KEYS_PER_QUERY: usize = 1_000;
/// Keys that wait for a query.
const WAITING_KEYS: usize = 20_000;

/// Who waits for a key. Dropped if it cannot be read.
type Reply = oneshot::Sender<Option<StoredKey>>;

/// The keys that are to be read.
#[derive(Debug, Default)]
pub(super) struct KeyReads(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    keys: VecDeque<(KeyId, Reply)>,
    /// Whether a task reads them.
    is_reading: bool,
}

impl KeyReads {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to read a key, with others that are needed at the same time. `read` reads keys, and says itself why it fails.
    ///
    /// # Errors
    /// Too many keys wait. The result: the query fails, or the key in the database is damaged.
    pub(super) fn begin<R, F>(
        self: &Arc<Self>,
        id: KeyId,
        read: R,
    ) -> Result<impl Future<Output = Result<Option<StoredKey>>> + use<R, F>>
    where
        R: Fn(Vec<KeyId>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<StoredKeys>> + Send + 'static,
    {
        let (reply, found) = oneshot::channel();
        let is_first = {
            let mut waiting = self.lock();
            if waiting.keys.len() >= WAITING_KEYS {
                return Err(Error::KeysUnreadable);
            }
            waiting.keys.push_back((id, reply));
            !std::mem::replace(&mut waiting.is_reading, true)
        };
        if is_first {
            let reading = Reading {
                reads: Arc::clone(self),
                has_ended: false,
            };
            tokio::spawn(reading.read_all(read));
        }
        Ok(async move { found.await.map_err(|_| Error::KeysUnreadable) })
    }
}

/// The task that reads. However it ends, the next key that is needed begins another one, and no caller waits for this one.
struct Reading {
    reads: Arc<KeyReads>,
    /// Whether there was nothing more to read.
    has_ended: bool,
}

impl Reading {
    async fn read_all<R, F>(mut self, read: R)
    where
        R: Fn(Vec<KeyId>) -> F + Send + Sync,
        F: Future<Output = Result<StoredKeys>> + Send,
    {
        loop {
            let next = self.next();
            if next.is_empty() {
                return;
            }
            let ids = next.iter().map(|(id, _)| *id).collect();
            let Ok(StoredKeys { found, damaged }) = read(ids).await else {
                // All that wait were needed before the database failed, and would only wait longer.
                return;
            };
            let found: HashMap<KeyId, StoredKey> =
                found.into_iter().map(|key| (key.key.id, key)).collect();
            for (id, reply) in next {
                if !damaged.contains(&id) {
                    // The caller may have given up.
                    let _ = reply.send(found.get(&id).cloned());
                }
            }
        }
    }

    /// The keys of the next query. If there are none, another task reads those that follow.
    fn next(&mut self) -> Vec<(KeyId, Reply)> {
        let mut waiting = self.reads.lock();
        let count = waiting.keys.len().min(KEYS_PER_QUERY);
        let next = waiting.keys.drain(..count).collect();
        if count == 0 {
            waiting.is_reading = false;
            self.has_ended = true;
        }
        next
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut waiting = self.reads.lock();
            waiting.is_reading = false;
            waiting.keys.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;
    use crate::domain::api_key::{ApiKey, NewKey, SecretHash};

    fn id(number: u64) -> KeyId {
        KeyId::parse(&format!("{number:016x}")).unwrap()
    }

    fn stored(id: KeyId) -> StoredKey {
        StoredKey {
            key: ApiKey {
                id,
                key: NewKey {
                    name: id.to_string(),
                    role: crate::domain::access::Role::Writer,
                    scope: crate::domain::access::Scope::default(),
                    expires_at: None,
                },
                created_at: 0,
                revoked_at: None,
                last_used_at: None,
            },
            hash: SecretHash::from_text(&"0".repeat(64)).unwrap(),
        }
    }

    #[tokio::test]
    async fn ten_thousand_keys_at_once_are_few_queries() {
        let reads = Arc::new(KeyReads::default());
        let queries = Arc::new(AtomicUsize::new(0));
        let calls = (0..10_000).map(|number| {
            let queries = Arc::clone(&queries);
            let read = move |ids: Vec<KeyId>| {
                queries.fetch_add(1, Ordering::Relaxed);
                assert!(ids.len() <= KEYS_PER_QUERY);
                // Each tenth key does not exist.
                let exists = |id: &KeyId| !id.to_string().ends_with('7');
                let found = ids.into_iter().filter(exists).map(stored).collect();
                std::future::ready(Ok(StoredKeys {
                    found,
                    damaged: Vec::new(),
                }))
            };
            (id(number), reads.begin(id(number), read).unwrap())
        });
        let calls: Vec<_> = calls.collect();
        for (id, found) in calls {
            let found = found.await.unwrap();
            let exists = !id.to_string().ends_with('7');
            assert_eq!(found.map(|found| found.key.id), exists.then_some(id));
        }
        assert_eq!(queries.load(Ordering::Relaxed), 10);
    }

    #[tokio::test]
    async fn a_query_that_fails_is_the_answer_of_all_that_wait_and_the_next_one_goes_on() {
        let reads = Arc::new(KeyReads::default());
        let fails = |_| std::future::ready(Err(Error::ShuttingDown));
        let calls: Vec<_> = (0..3_000)
            .map(|number| reads.begin(id(number), fails).unwrap())
            .collect();
        for failed in join_all(calls).await {
            assert!(matches!(failed, Err(Error::KeysUnreadable)));
        }
        let found = |ids: Vec<KeyId>| {
            let found = ids.into_iter().map(stored).collect();
            let damaged = Vec::new();
            std::future::ready(Ok(StoredKeys { found, damaged }))
        };
        let found = reads.begin(id(1), found).unwrap().await.unwrap();
        assert_eq!(found.unwrap().key.id, id(1));
    }

    #[tokio::test]
    async fn a_damaged_key_fails_alone_and_too_many_do_not_wait() {
        let reads = Arc::new(KeyReads::default());
        let read = |ids: Vec<KeyId>| {
            let (damaged, found): (Vec<_>, Vec<_>) = ids.into_iter().partition(|of| *of == id(2));
            let found = found.into_iter().map(stored).collect();
            std::future::ready(Ok(StoredKeys { found, damaged }))
        };
        let calls = [1, 2, 3].map(|number| reads.begin(id(number), read).unwrap());
        let found = join_all(calls).await;
        let is_found: Vec<bool> = found.iter().map(Result::is_ok).collect();
        assert_eq!(is_found, [true, false, true]);
        let never = |_| std::future::pending();
        let waiting: Vec<_> = (0..30_000)
            .map(|number| reads.begin(id(number), never))
            .collect();
        let refused = waiting.iter().filter(|begun| begun.is_err());
        assert_eq!(refused.count(), 10_000);
    }
}
