//! Concurrent tasks of a job, each for one customer, run or change: up to a limit, and at most one per key.
//!
//! A slow task delays neither the job nor the tasks of other keys.

use std::{collections::HashSet, hash::Hash};

use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};

use super::wake::Wake;

/// Both ends of the channel of results.
type Results<K, T> = (mpsc::Sender<(K, T)>, mpsc::Receiver<(K, T)>);

/// Tasks in progress, by key. Dropping it cancels them.
#[derive(Debug)]
pub(super) struct Tasks<K, T = ()> {
    in_progress: JoinSet<()>,
    /// Keys whose results were not taken yet. The channel has capacity for each.
    keys: HashSet<K>,
    limit: usize,
    /// Results are sent before the job is woken, so that the job finds them.
    results: Results<K, T>,
    /// Wakes the job when a task ends, so that the next one starts.
    wake: Wake,
}

impl<K, T> Tasks<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Send + 'static,
{
    pub(super) fn new(limit: usize, wake: Wake) -> Self {
        Self {
            in_progress: JoinSet::new(),
            keys: HashSet::new(),
            limit,
            results: mpsc::channel(limit.max(1)),
            wake,
        }
    }

    /// The number of tasks that may still start.
    pub(super) fn free(&self) -> usize {
        self.limit.saturating_sub(self.keys.len())
    }

    /// The number of tasks in progress.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether a task of this key is in progress.
    pub(super) fn has(&self, key: &K) -> bool {
        self.keys.contains(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Starts a task, unless one of the same key is in progress or the limit is reached. Returns whether it did.
    pub(super) fn start(&mut self, key: K, work: impl Future<Output = T> + Send + 'static) -> bool {
        if self.free() == 0 || !self.keys.insert(key.clone()) {
            return false;
        }
        let (results, wake) = (self.results.0.clone(), self.wake.clone());
        self.in_progress.spawn(async move {
            let result = work.await;
            // The receiver is dropped only when the job has ended.
            let _ = results.send((key, result)).await;
            wake.wake();
        });
        true
    }

    /// The results of the tasks that have ended. A panic of a task is propagated to the job.
    pub(super) fn ended(&mut self) -> Vec<(K, T)> {
        while let Some(joined) = self.in_progress.try_join_next() {
            pass_panic_on(joined);
        }
        self.take_results()
    }

    /// Waits for all tasks and returns their results.
    pub(super) async fn finish(&mut self) -> Vec<(K, T)> {
        while let Some(joined) = self.in_progress.join_next().await {
            pass_panic_on(joined);
        }
        self.take_results()
    }

    fn take_results(&mut self) -> Vec<(K, T)> {
        let mut ended = Vec::new();
        while let Ok((key, result)) = self.results.1.try_recv() {
            self.keys.remove(&key);
            ended.push((key, result));
        }
        ended
    }
}

fn pass_panic_on(joined: Result<(), JoinError>) {
    // Only the end of the job cancels a task.
    if let Err(Ok(panic)) = joined.map_err(JoinError::try_into_panic) {
        std::panic::resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_has_one_task_and_the_limit_counts_keys() {
        let wake = Wake::default();
        let mut tasks = Tasks::new(2, wake.clone());
        let (open, gate) = tokio::sync::oneshot::channel::<()>();
        assert!(tasks.start("slow", async move { gate.await.is_ok() }));
        assert!(!tasks.start("slow", async { true }));
        assert!(tasks.start("quick", async { false }));
        assert_eq!(tasks.free(), 0);
        assert!(!tasks.start("third", async { true }));
        wake.woken().await;
        assert_eq!(tasks.ended(), [("quick", false)]);
        assert!(tasks.has(&"slow"), "the slow one delays nothing");
        assert!(tasks.start("third", async { true }));
        open.send(()).unwrap();
        assert_eq!(tasks.finish().await.len(), 2);
        assert_eq!(tasks.free(), 2);
    }
}
