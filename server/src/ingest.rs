//! Group commit: counts many calls in one durable transaction and responds to each after the commit.
//!
//! A durable write needs a disk sync, so one transaction a call can never be fast. Calls that arrive during a commit
//! share the next one. Each writer has a separate queue. All single calls of an account go to the same writer, so that
//! writers seldom wait for each other's row locks, and batches have a writer of their own; see `route`. The SQL is in `store::commit`.

mod outcomes;
mod places;
mod progress;
mod repeats;
mod route;
mod turns;
mod waiting;

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use sea_orm::{DbErr, RuntimeErr};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};
use uuid::Uuid;

use outcomes::record_metrics;
use places::{Places, TakenPlaces};
pub(crate) use progress::Progress;
use progress::WriterProgress;
use repeats::Repeats;
use route::{Route, Router};
use waiting::{Call, LastSmall, Waiting};

use crate::{
    clock::Clock,
    database_error::is_transient,
    domain::{
        caller_id::CallerId,
        increment::{Batch, Increment, Outcome},
        window::Slots,
    },
    error::{Error, Result},
    log_limit::{LogLimit, LogLine},
    store::{
        Store,
        boundaries::BoundaryCache,
        commit::{CommitError, CommitOptions},
        group::{Entry, EntryOutcome, Group},
    },
};

/// The maximum number of calls that a writer takes from its queue at once.
const MAX_CALLS_PER_READ: usize = 1_024;
/// The retry delay for callers that are rejected because the queue is full.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How long a caller waits for an answer, and how long a group is retried. Then the caller may repeat the call, with the
/// same key, on another server.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const MIN_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// In an outage, each writer fails a group every few seconds.
static FAILED: LogLimit = LogLimit::new();
static SPLIT: LogLimit = LogLimit::new();
static LOST: LogLimit = LogLimit::new();
static REPEATED: LogLimit = LogLimit::new();

/// The settings of a [`WriteBatcher`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteBatcherOptions {
    /// Concurrent transactions; one on SQLite.
    pub(crate) writers: usize,
    /// Increments that may wait or be in a commit.
    pub(crate) queue: usize,
    /// The slots in force.
    pub(crate) slots: Slots,
}

/// Counts increments in group commits.
#[derive(Debug)]
pub(crate) struct WriteBatcher {
    /// One queue a writer. They are unbounded because `places` bounds all of them together.
    queues: Vec<mpsc::UnboundedSender<QueuedCall>>,
    places: Places,
    router: Router,
    progress: Progress,
}

/// The writer tasks. They end once the [`WriteBatcher`] is dropped and every queued increment is committed.
pub(crate) type Writers = Vec<JoinHandle<()>>;

/// Where the caller of a call waits.
type Reply = oneshot::Sender<Result<EntryOutcome>>;

#[derive(Debug)]
struct QueuedCall {
    entry: Entry,
    shard: usize,
    /// Closed if the caller no longer waits. Then the increment is committed only if its group has begun.
    reply: Reply,
    /// Given back just before the caller gets the response.
    places: TakenPlaces,
}

impl Call for QueuedCall {
    fn size(&self) -> usize {
        match &self.entry {
            Entry::One(_) => 1,
            Entry::Batch(batch) => batch.items.len(),
        }
    }

    fn is_given_up(&self) -> bool {
        self.reply.is_closed()
    }

    fn shard(&self) -> usize {
        self.shard
    }

    fn caller(&self) -> Option<&CallerId> {
        self.places.caller()
    }
}

impl WriteBatcher {
    /// Starts the writers.
    pub(crate) fn start(
        store: &Store,
        clock: &Clock,
        options: WriteBatcherOptions,
    ) -> (Self, Writers) {
        let cache = BoundaryCache::default();
        let mut queues = Vec::new();
        let mut writers = Vec::new();
        let last_small = LastSmall::default();
        let places = Places::new(options.queue);
        let mut progress = Progress::new(places.clone());
        for _ in 0..options.writers.max(1) {
            let (sender, receiver) = mpsc::unbounded_channel();
            let writer = Writer {
                progress: progress.add_writer(),
                store: store.clone(),
                clock: clock.clone(),
                cache: cache.clone(),
                slots: options.slots,
                repeats: Repeats::default(),
                last_small: last_small.clone(),
            };
            let writing = writer.run(receiver);
            writers.push(if store.has_parallel_writers() {
                tokio::spawn(writing)
            } else {
                // SQLite runs statements in its own thread. A dedicated thread here is woken directly; as a task, the
                // only writer would queue behind hundreds of calls after each statement. PostgreSQL answers through
                // the runtime's sockets, where a dedicated thread would only add a hop.
                let runtime = Handle::current();
                tokio::task::spawn_blocking(move || runtime.block_on(writing))
            });
            queues.push(sender);
        }
        (
            Self {
                queues,
                places,
                router: Router::new(store.shards().clone(), options.writers),
                progress,
            },
            writers,
        )
    }

    /// Shows whether the writers commit what waits for them.
    pub(crate) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Counts one increment of a caller. Returns after the commit.
    ///
    /// # Errors
    /// The key was reused, the queue or the caller's part of it is full, or the database does not respond.
    pub(crate) async fn count(
        &self,
        caller: Option<&CallerId>,
        increment: Increment,
    ) -> Result<Outcome> {
        let route = self.router.route(1, std::iter::once(&increment.account_id));
        match self.submit(caller, route, 1, Entry::One(increment)).await? {
            EntryOutcome::One(outcome) => Ok(outcome),
            EntryOutcome::Batch { .. } | EntryOutcome::BatchRefused(_) => Err(Error::Internal(
                "a single call was answered as a batch".into(),
            )),
        }
    }

    /// Counts a batch. After the commit, returns whether it is a duplicate, and the outcome of each item.
    ///
    /// # Errors
    /// As [`WriteBatcher::count`].
    pub(crate) async fn count_batch(
        &self,
        caller: Option<&CallerId>,
        batch: Batch,
    ) -> Result<(bool, Vec<Outcome>)> {
        let accounts = batch.items.iter().flatten().map(|item| &item.account_id);
        let route = self.router.route(batch.items.len(), accounts);
        match self
            .submit(caller, route, batch.items.len(), Entry::Batch(batch))
            .await?
        {
            EntryOutcome::Batch {
                replayed, items, ..
            } => Ok((replayed, items)),
            EntryOutcome::BatchRefused(violation) => Err(violation.into()),
            EntryOutcome::One(_) => Err(Error::Internal(
                "a batch was answered as a single call".into(),
            )),
        }
    }

    async fn submit(
        &self,
        caller: Option<&CallerId>,
        route: Route,
        increments: usize,
        entry: Entry,
    ) -> Result<EntryOutcome> {
        let places = self
            .places
            .take(caller, increments.max(1))
            .ok_or(Error::Overloaded {
                retry_after: RETRY_AFTER,
            })?;
        let (reply, answer) = oneshot::channel();
        let call = QueuedCall {
            entry,
            shard: route.shard,
            reply,
            places,
        };
        self.queues
            .get(route.writer)
            .and_then(|queue| queue.send(call).ok())
            .ok_or(Error::ShuttingDown)?;
        match timeout(ANSWER_LIMIT, answer).await {
            Ok(answer) => answer.unwrap_or(Err(Error::ShuttingDown)),
            Err(_) => Err(Error::DatabaseUnavailable(DbErr::Custom(format!(
                "not committed within {} s",
                ANSWER_LIMIT.as_secs()
            )))),
        }
    }
}

/// Commits the calls of one queue, one group after the other.
struct Writer {
    progress: WriterProgress,
    store: Store,
    clock: Clock,
    cache: BoundaryCache,
    slots: Slots,
    repeats: Repeats,
    last_small: LastSmall,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<QueuedCall>) {
        let mut waiting = Waiting::new(self.last_small.clone());
        let mut received = Vec::new();
        loop {
            if waiting.is_empty() {
                self.progress.rest();
            }
            if waiting.is_empty() && queue.recv_many(&mut received, MAX_CALLS_PER_READ).await == 0 {
                return;
            }
            while received.len() < MAX_CALLS_PER_READ
                && let Ok(call) = queue.try_recv()
            {
                received.push(call);
            }
            waiting.add(received.drain(..), Instant::now());
            let group = waiting.next_group(Instant::now());
            if !group.is_empty() {
                self.progress.begin();
                self.commit(group).await;
            }
        }
    }

    /// Commits calls in one transaction and responds to their callers.
    async fn commit(&mut self, calls: Vec<QueuedCall>) {
        let (entries, replies): (Vec<Entry>, Vec<_>) = calls
            .into_iter()
            .map(|call| (call.entry, (call.reply, call.places)))
            .unzip();
        let group = Group {
            id: Uuid::now_v7(),
            entries,
        };
        let started = Instant::now();
        match self.commit_group(&group).await {
            Ok(outcomes) => {
                self.progress.committed();
                self.repeats.observe(&outcomes);
                record_metrics(&outcomes, started);
                for ((reply, places), outcome) in replies.into_iter().zip(outcomes) {
                    // Before the answer: the caller's next call may need its place in the queue.
                    drop(places);
                    let _ = reply.send(Ok(outcome));
                }
            }
            Err(error) if is_transient(&error) => {
                self.progress.failed();
                // Once for all of its calls, and once a minute for all groups.
                let LogLine { id, unlogged } = FAILED.line();
                if let Some(unlogged) = unlogged {
                    tracing::error!(%error, cause_id = %id, commit = %group.id, calls = group.entries.len(), unlogged, "a group commit failed");
                }
                for (reply, _places) in replies {
                    let _ = reply.send(Err(Error::from(copy_of(&error)).logged_as(Some(id))));
                }
            }
            Err(error) if group.entries.len() == 1 => {
                for (reply, _places) in replies {
                    answer(reply, Err(copy_of(&error).into()));
                }
            }
            Err(error) => {
                // One call that the database rejects must not fail the others: commit each one alone.
                if let Some(unlogged) = SPLIT.count() {
                    tracing::error!(%error, calls = group.entries.len(), unlogged, "a group commit failed: its calls are committed one by one");
                }
                self.commit_alone(group.entries, replies).await;
            }
        }
    }

    /// Commits each call in a transaction of its own.
    async fn commit_alone(&mut self, entries: Vec<Entry>, replies: Vec<(Reply, TakenPlaces)>) {
        let mut unavailable: Option<(DbErr, Option<Uuid>)> = None;
        for (entry, (reply, _places)) in entries.into_iter().zip(replies) {
            if reply.is_closed() {
                continue;
            }
            if let Some((error, cause_id)) = &unavailable {
                // Each of the others would be tried for seconds.
                let _ = reply.send(Err(Error::from(copy_of(error)).logged_as(*cause_id)));
                continue;
            }
            let alone = Group {
                id: Uuid::now_v7(),
                entries: vec![entry],
            };
            let started = Instant::now();
            let outcome = self.commit_group(&alone).await;
            if let Err(error) = &outcome
                && is_transient(error)
            {
                self.progress.failed();
                let cause_id = Error::from(copy_of(error)).log();
                let _ = reply.send(Err(Error::from(copy_of(error)).logged_as(cause_id)));
                unavailable = Some((copy_of(error), cause_id));
                continue;
            }
            let outcome = outcome.map_err(Error::from);
            if let Ok(outcomes) = &outcome {
                self.progress.committed();
                record_metrics(outcomes, started);
            }
            let outcome = outcome.and_then(|mut outcomes| {
                let none = || Error::Internal("a commit returned no outcome".into());
                outcomes.pop().ok_or_else(none)
            });
            answer(reply, outcome);
        }
    }

    /// Commits a group and retries transient failures. If the response to COMMIT was lost, the retry finds out: it
    /// conflicts with the group's own row in `commits` if the first attempt was committed.
    async fn commit_group(&self, group: &Group) -> std::result::Result<Vec<EntryOutcome>, DbErr> {
        let mut backoff = ExponentialBuilder::default()
            .with_min_delay(MIN_BACKOFF)
            .with_max_delay(MAX_BACKOFF)
            .without_max_times()
            .with_jitter()
            .build();
        let mut ambiguous: Option<Vec<EntryOutcome>> = None;
        let mut is_logged = false;
        let started = Instant::now();
        loop {
            let options = CommitOptions {
                slots: self.slots,
                now: self.clock.now(),
                is_retry: ambiguous.is_some(),
                expects_known_keys: self.repeats.are_likely() || ambiguous.is_some(),
            };
            let error = match self.store.commit_group(group, &self.cache, options).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(CommitError::AlreadyCommitted) => {
                    let Some(outcomes) = ambiguous.as_mut() else {
                        let why = "the id of the commit already exists".to_owned();
                        return Err(DbErr::Custom(why));
                    };
                    match self.store.confirm_commits(options.now).await {
                        Ok(()) => {
                            tracing::warn!(commit = %group.id, "the group was already committed; the response to COMMIT had been lost");
                            return Ok(std::mem::take(outcomes));
                        }
                        Err(error) => error,
                    }
                }
                Err(CommitError::Ambiguous(error, outcomes)) => {
                    if !is_logged && let Some(unlogged) = LOST.count() {
                        tracing::warn!(commit = %group.id, %error, unlogged, "the response to a COMMIT was lost: the commit is repeated");
                    }
                    is_logged = true;
                    // No conflict before this COMMIT: no earlier attempt was committed.
                    ambiguous = Some(outcomes);
                    error
                }
                Err(CommitError::Failed(error)) if is_transient(&error) || ambiguous.is_some() => {
                    error
                }
                Err(CommitError::Failed(error)) => return Err(error),
            };
            let wait = backoff.next().unwrap_or(MAX_BACKOFF);
            if started.elapsed().saturating_add(wait) > ANSWER_LIMIT {
                // If an earlier attempt may have been committed, the error must be a transient one: a permanent
                // error would make the caller commit the calls again one by one under other ids.
                return Err(if ambiguous.is_some() {
                    DbErr::Conn(RuntimeErr::Internal(error.to_string()))
                } else {
                    error
                });
            }
            if !is_logged && let Some(unlogged) = REPEATED.count() {
                tracing::warn!(commit = %group.id, %error, unlogged, "a group commit did not succeed: it is repeated");
            }
            is_logged = true;
            tokio::time::sleep(wait).await;
        }
    }
}

/// Answers a call. Its error is logged with the request, or here if its caller is gone.
fn answer(reply: Reply, outcome: Result<EntryOutcome>) {
    if let Err(Err(error)) = reply.send(outcome) {
        error.log();
    }
}

/// A copy of the error for each call of a group.
fn copy_of(error: &DbErr) -> DbErr {
    let text = error.to_string();
    if is_transient(error) {
        DbErr::Conn(RuntimeErr::Internal(text))
    } else {
        DbErr::Custom(text)
    }
}
