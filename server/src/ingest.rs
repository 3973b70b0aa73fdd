//! The ledger: brings many calls into one durable transaction and answers each after the commit.
//!
//! A durable write takes a disk sync, so one a call can never be fast. Calls that arrive while a commit is
//! in progress share the next one. Each writer has a queue of its own and an account always goes to the
//! same writer, so two writers of one replica do not wait for each other's rows.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use sea_orm::{DbErr, RuntimeErr};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use uuid::Uuid;

use crate::{
    clock::Clock,
    domain::{
        increment::{Batch, Increment, Outcome},
        window::Slots,
    },
    error::{Error, Result, is_transient},
    metrics,
    store::{
        Store,
        boundaries::BoundaryCache,
        commit::{CommitError, CommitOptions},
        group::{Entry, EntryOutcome, Group},
    },
};

/// How many increments one transaction takes: enough to share a sync, few enough to stay short.
const INCREMENTS_PER_GROUP: usize = 8_192;
/// How many calls a writer takes from its queue at once.
const CALLS_PER_DRAW: usize = 1_024;
/// When a caller who was turned away may come back.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How often a group is tried again, and how long apart at most: about ten seconds in all.
const TRIES: usize = 8;
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How the ledger is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteBatcherOptions {
    /// How many transactions may be under way at once; one on SQLite.
    pub(crate) writers: usize,
    /// How many increments may wait.
    pub(crate) queue: usize,
    /// The slots in force.
    pub(crate) slots: Slots,
}

/// Counts increments in group commits.
#[derive(Debug)]
pub(crate) struct WriteBatcher {
    /// One queue a writer. Their length needs no bound of its own: `room` bounds all of them together.
    queues: Vec<mpsc::UnboundedSender<Job>>,
    /// One permit an increment that waits or is being committed.
    room: Arc<Semaphore>,
    /// Spreads accounts over writers.
    spread: RandomState,
}

/// The writers of a ledger; they end when the ledger is dropped and everything it took is committed.
pub(crate) type Writers = Vec<JoinHandle<()>>;

#[derive(Debug)]
struct Job {
    entry: Entry,
    /// Gone when the caller hung up, which changes nothing for anybody.
    reply: oneshot::Sender<Result<EntryOutcome>>,
    /// Given back when the job is answered.
    room: OwnedSemaphorePermit,
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
        for _ in 0..options.writers.max(1) {
            let (sender, receiver) = mpsc::unbounded_channel();
            let writer = Writer {
                store: store.clone(),
                clock: clock.clone(),
                cache: cache.clone(),
                slots: options.slots,
            };
            let writing = writer.run(receiver);
            writers.push(if store.has_parallel_writers() {
                tokio::spawn(writing)
            } else {
                // SQLite works in a thread and wakes this one without a detour: as one task among hundreds of
                // calls the only writer would stand in line behind them after each statement. PostgreSQL
                // answers through the runtime's sockets, where another thread would be the detour.
                let runtime = Handle::current();
                tokio::task::spawn_blocking(move || runtime.block_on(writing))
            });
            queues.push(sender);
        }
        let room = Arc::new(Semaphore::new(options.queue));
        (
            Self {
                queues,
                room,
                spread: RandomState::new(),
            },
            writers,
        )
    }

    /// Counts one increment; answers after the commit.
    ///
    /// # Errors
    /// A reused key, a full queue, or a database that does not answer.
    pub(crate) async fn count(&self, increment: Increment) -> Result<Outcome> {
        let shard = increment.account_id.clone();
        match self.submit(&shard, 1, Entry::One(increment)).await? {
            EntryOutcome::One(outcome) => Ok(outcome),
            EntryOutcome::Batch { .. } | EntryOutcome::BatchRefused(_) => Err(Error::Internal(
                "a single call was answered as a batch".into(),
            )),
        }
    }

    /// Counts a batch; answers after the commit whether it had been counted before, and an outcome an item.
    ///
    /// # Errors
    /// As [`WriteBatcher::count`].
    pub(crate) async fn count_batch(&self, batch: Batch) -> Result<(bool, Vec<Outcome>)> {
        // Two batches mostly share some accounts, and two writers would wait for each other's rows: all batches
        // of several accounts go to the same one, where they share commits instead.
        let mut accounts = batch.items.iter().flatten().map(|item| &item.account_id);
        let shard = match accounts.next() {
            Some(first) if accounts.all(|account| account == first) => first.to_string(),
            _ => String::new(),
        };
        match self
            .submit(&shard, batch.items.len(), Entry::Batch(batch))
            .await?
        {
            EntryOutcome::Batch { replayed, items } => Ok((replayed, items)),
            EntryOutcome::BatchRefused(violation) => Err(violation.into()),
            EntryOutcome::One(_) => Err(Error::Internal(
                "a batch was answered as a single call".into(),
            )),
        }
    }

    async fn submit(&self, shard: &str, increments: usize, entry: Entry) -> Result<EntryOutcome> {
        let permits = u32::try_from(increments.max(1)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room)
            .try_acquire_many_owned(permits)
            .map_err(|_| Error::Exhausted {
                retry_after: RETRY_AFTER,
            })?;
        let (reply, answer) = oneshot::channel();
        let job = Job { entry, reply, room };
        self.queue_of(shard)
            .and_then(|queue| queue.send(job).ok())
            .ok_or(Error::ShuttingDown)?;
        answer.await.unwrap_or(Err(Error::ShuttingDown))
    }

    fn queue_of(&self, shard: &str) -> Option<&mpsc::UnboundedSender<Job>> {
        let hash = usize::try_from(self.spread.hash_one(shard) >> 32).unwrap_or(0);
        self.queues.get(hash.checked_rem(self.queues.len())?)
    }
}

/// Commits what its queue brings, one group after the other.
struct Writer {
    store: Store,
    clock: Clock,
    cache: BoundaryCache,
    slots: Slots,
}

impl Writer {
    async fn run(self, mut queue: mpsc::UnboundedReceiver<Job>) {
        let mut waiting: VecDeque<Job> = VecDeque::new();
        let mut drawn = Vec::new();
        loop {
            if waiting.is_empty() && queue.recv_many(&mut drawn, CALLS_PER_DRAW).await == 0 {
                return;
            }
            while drawn.len() < CALLS_PER_DRAW
                && let Ok(job) = queue.try_recv()
            {
                drawn.push(job);
            }
            waiting.extend(drawn.drain(..));
            self.commit(next_group(&mut waiting)).await;
        }
    }

    /// Commits some jobs together and answers them.
    async fn commit(&self, jobs: Vec<Job>) {
        let (entries, replies): (Vec<Entry>, Vec<_>) = jobs
            .into_iter()
            .map(|job| (job.entry, (job.reply, job.room)))
            .unzip();
        let mut group = Group {
            id: Uuid::now_v7(),
            entries,
        };
        let started = Instant::now();
        match self.commit_group(&group).await {
            Ok(outcomes) => {
                note(&outcomes, started);
                for ((reply, _room), outcome) in replies.into_iter().zip(outcomes) {
                    // A caller that hung up does not wait for it.
                    let _ = reply.send(Ok(outcome));
                }
            }
            Err(error) if is_transient(&error) || group.entries.len() == 1 => {
                tracing::error!(%error, calls = group.entries.len(), "a group commit failed");
                for (reply, _room) in replies {
                    let _ = reply.send(Err(copy_of(&error).into()));
                }
            }
            Err(error) => {
                // One call that the database refuses must not cost the others: each gets its own commit.
                tracing::error!(%error, calls = group.entries.len(), "a group commit failed; its calls are committed one by one");
                for (entry, (reply, _room)) in group.entries.drain(..).zip(replies) {
                    let alone = Group {
                        id: Uuid::now_v7(),
                        entries: vec![entry],
                    };
                    let started = Instant::now();
                    let outcome = self.commit_group(&alone).await.map_err(Error::from);
                    if let Ok(outcomes) = &outcome {
                        note(outcomes, started);
                    }
                    let _ = reply.send(outcome.and_then(|mut outcomes| {
                        outcomes
                            .pop()
                            .ok_or_else(|| Error::Internal("a commit without an outcome".into()))
                    }));
                }
            }
        }
    }

    /// Commits a group, trying again what may succeed a moment later. A COMMIT whose answer was lost is
    /// resolved by running the same group again: it meets its own row if it had been committed.
    async fn commit_group(&self, group: &Group) -> std::result::Result<Vec<EntryOutcome>, DbErr> {
        let mut backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(20))
            .with_max_delay(LONGEST_PAUSE)
            .with_max_times(TRIES)
            .with_jitter()
            .build();
        let mut unanswered: Option<Vec<EntryOutcome>> = None;
        loop {
            let options = CommitOptions {
                slots: self.slots,
                now: self.clock.now(),
                is_retry: unanswered.is_some(),
            };
            let error = match self.store.commit_group(group, &self.cache, options).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(CommitError::AlreadyCommitted) => {
                    tracing::warn!(commit = %group.id, "a commit whose answer was lost had succeeded");
                    return unanswered
                        .ok_or_else(|| DbErr::Custom("a commit's id was taken".to_owned()));
                }
                Err(CommitError::Ambiguous(error, outcomes)) => {
                    tracing::warn!(commit = %group.id, %error, "the answer of a commit was lost");
                    // That this try came so far proves that no earlier one was committed.
                    unanswered = Some(outcomes);
                    error
                }
                Err(CommitError::Failed(error)) if is_transient(&error) || unanswered.is_some() => {
                    error
                }
                Err(CommitError::Failed(error)) => return Err(error),
            };
            let Some(pause) = backoff.next() else {
                // Where an earlier try may have been committed nothing is known, whatever the last error
                // says: the calls must not be committed anew under another id.
                return Err(if unanswered.is_some() {
                    DbErr::Conn(RuntimeErr::Internal(error.to_string()))
                } else {
                    error
                });
            };
            tracing::warn!(%error, "a group commit is tried again");
            tokio::time::sleep(pause).await;
        }
    }
}

/// Counts what a commit did.
fn note(outcomes: &[EntryOutcome], started: Instant) {
    let (mut counted, mut duplicate, mut refused) = (0_u64, 0_u64, 0_u64);
    for outcome in outcomes {
        let (items, replayed) = match outcome {
            EntryOutcome::One(item) => (std::slice::from_ref(item), false),
            EntryOutcome::Batch { replayed, items } => (items.as_slice(), *replayed),
            EntryOutcome::BatchRefused(_) => continue,
        };
        for item in items {
            let tally = match item {
                Outcome::Refused(_) => &mut refused,
                Outcome::Counted if !replayed => &mut counted,
                Outcome::Counted | Outcome::Duplicate => &mut duplicate,
            };
            *tally = tally.saturating_add(1);
        }
    }
    metrics::committed(counted, started.elapsed());
    metrics::increments("counted", counted);
    metrics::increments("duplicate", duplicate);
    metrics::increments("refused", refused);
}

/// The calls at the head of a queue that fit into one group; at least one.
fn next_group(waiting: &mut VecDeque<Job>) -> Vec<Job> {
    let mut increments = 0_usize;
    let mut group = Vec::new();
    while let Some(job) = waiting.front() {
        let size = match &job.entry {
            Entry::One(_) => 1,
            Entry::Batch(batch) => batch.items.len(),
        };
        increments = increments.saturating_add(size);
        if increments > INCREMENTS_PER_GROUP && !group.is_empty() {
            break;
        }
        group.extend(waiting.pop_front());
    }
    group
}

/// The same error for every call of a group.
fn copy_of(error: &DbErr) -> DbErr {
    let text = error.to_string();
    if is_transient(error) {
        DbErr::Conn(RuntimeErr::Internal(text))
    } else {
        DbErr::Custom(text)
    }
}
