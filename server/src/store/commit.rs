//! The group commit: many increments, one durable transaction.
//!
//! Keys, counts and the `commits` row are stored together or not at all.

use std::{sync::atomic::Ordering, time::Duration};

use sea_orm::{ActiveValue::Set, DbErr, EntityTrait as _, RuntimeErr};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::{
    Store,
    additions::{Windows, sum_by_window},
    boundaries::BoundaryCache,
    connection::Transaction,
    count_at_once::{AtOnce, Written},
    dedupe::Dedupe,
    group::{EntryOutcome, Group},
    keys::insert_keys,
    open_reports::add_to_open_reports,
    report_rollover,
};
use crate::{
    database_error::{is_check_violation, is_unique_violation},
    domain::{
        Millis, account_id::AccountId, closing::closes_at_once, increment::Increment,
        report::MAX_REPORT_QUANTITY, window::Slots,
    },
    entity::commit,
    planted_defects::{Defect, planted},
};

/// How long the statements of a group may take, and then its COMMIT. A connection that died silently never responds; the
/// group is run again on another one.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(4);
/// How often a group is counted until no other server stores one of its keys meanwhile, within [`ATTEMPT_LIMIT`]. Each
/// attempt sees the keys that stopped the one before.
const MAX_ATTEMPTS: usize = 8;

/// Why it is not certain that a group is committed.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// Nothing was committed.
    Failed(DbErr),
    /// COMMIT was sent, and its response was lost. Run the group again under the same id.
    Ambiguous(DbErr, Vec<EntryOutcome>),
    /// A commit with this id exists: the response of an earlier attempt was lost.
    AlreadyCommitted,
}

impl From<DbErr> for CommitError {
    fn from(error: DbErr) -> Self {
        Self::Failed(error)
    }
}

/// The options of a group commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitOptions {
    /// The slots in force.
    pub(crate) slots: Slots,
    /// The time of the commit.
    pub(crate) now: Millis,
    /// Whether an earlier attempt may have been committed. A group that counts nothing is recorded too then, so that it
    /// conflicts with the row of that attempt.
    pub(crate) is_retry: bool,
    /// Whether repeated keys are likely: they are looked up then before anything is counted. Otherwise a key that is
    /// known shows when the keys are stored, and the group is counted again.
    pub(crate) expects_known_keys: bool,
}

/// A group that is counted and not committed.
enum Counted {
    /// The transaction, and the outcomes once it is committed.
    Changed(Transaction, Vec<EntryOutcome>),
    /// There is nothing to commit.
    Unchanged(Vec<EntryOutcome>),
    /// Nothing was changed: keys that were taken for new have to be looked up, and it is counted step by step.
    StepByStep,
    /// Nothing was changed: boundaries were remembered that have changed.
    WithNewBoundaries,
}

/// How a group is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By one statement.
    AtOnce {
        /// Whether its boundaries are read, even if they are remembered.
        reads_boundaries: bool,
    },
    /// By one statement after the other.
    StepByStep {
        /// Whether reports that would exceed fifteen digits are closed.
        is_careful: bool,
        /// Whether stored keys are looked up before anything is counted.
        looks_up_keys: bool,
    },
}

impl Way {
    fn first(options: CommitOptions) -> Self {
        if options.expects_known_keys || planted(Defect::KeyAndCountApart) {
            Self::StepByStep {
                is_careful: false,
                looks_up_keys: true,
            }
        } else {
            Self::AtOnce {
                reads_boundaries: false,
            }
        }
    }

    fn is_careful(self) -> bool {
        matches!(
            self,
            Self::StepByStep {
                is_careful: true,
                ..
            }
        )
    }

    /// The way after a report would have exceeded fifteen digits.
    fn carefully(self) -> Self {
        let looks_up_keys = matches!(
            self,
            Self::StepByStep {
                looks_up_keys: true,
                ..
            }
        );
        Self::StepByStep {
            is_careful: true,
            looks_up_keys,
        }
    }

    /// The way after a key was known that was taken for new.
    fn with_keys(self) -> Self {
        Self::StepByStep {
            is_careful: self.is_careful(),
            looks_up_keys: true,
        }
    }
}

impl Store {
    /// Counts a group of calls in one transaction.
    pub(crate) async fn commit_group(
        &self,
        group: &Group,
        cache: &BoundaryCache,
        options: CommitOptions,
    ) -> Result<Vec<EntryOutcome>, CommitError> {
        let mut way = Way::first(options);
        let started = Instant::now();
        for _ in 0..MAX_ATTEMPTS {
            if started.elapsed() > ATTEMPT_LIMIT {
                break;
            }
            let attempt = self.try_commit(group, cache, options, &mut way);
            match attempt.await {
                // A report would exceed fifteen digits: close it and open another.
                Err(CommitError::Failed(error))
                    if is_check_violation(&error) && !way.is_careful() =>
                {
                    way = way.carefully();
                }
                Ok(None) => {}
                Ok(Some(outcomes)) => return Ok(outcomes),
                Err(error) => return Err(error),
            }
        }
        Err(CommitError::Failed(DbErr::Conn(RuntimeErr::Internal(
            "other servers store the same idempotency keys at the same time".to_owned(),
        ))))
    }

    /// Waits until what is committed is durable, also on a synchronous standby, which takes commits in their order.
    pub(crate) async fn confirm_commits(&self, now: Millis) -> Result<(), DbErr> {
        if !self.has_parallel_writers() {
            // A connection to SQLite syncs the log before it is used.
            return Ok(());
        }
        let confirmed = async {
            let tx = self.begin_within_boundaries().await?;
            match record_commit(&tx, Uuid::now_v7(), &[], now).await {
                Ok(()) => tx.commit().await,
                Err(CommitError::Failed(error) | CommitError::Ambiguous(error, _)) => Err(error),
                Err(CommitError::AlreadyCommitted) => Err(DbErr::Custom(
                    "the id of the commit already exists".to_owned(),
                )),
            }
        };
        let confirmed = self.limited(confirmed).await;
        match confirmed {
            Some(confirmed) => confirmed,
            None => Err(self.writer.give_up().await),
        }
    }

    /// Makes one attempt. Absent when nothing was committed because the group has to be counted in another way, which is
    /// chosen then.
    async fn try_commit(
        &self,
        group: &Group,
        cache: &BoundaryCache,
        options: CommitOptions,
        way: &mut Way,
    ) -> Result<Option<Vec<EntryOutcome>>, CommitError> {
        let counting = self.count(group, cache, options, *way);
        let Some(counted) = self.limited(counting).await else {
            return Err(CommitError::Failed(self.counter.give_up().await));
        };
        let (tx, outcomes) = match counted? {
            Counted::Changed(tx, outcomes) => (tx, outcomes),
            Counted::Unchanged(outcomes) => return Ok(Some(outcomes)),
            Counted::StepByStep => {
                *way = way.with_keys();
                return Ok(None);
            }
            Counted::WithNewBoundaries => {
                *way = Way::AtOnce {
                    reads_boundaries: true,
                };
                return Ok(None);
            }
        };
        if planted(Defect::AcknowledgedBeforeCommit) {
            tokio::spawn(tx.commit());
            return Ok(Some(outcomes));
        }
        match self.limited(tx.commit()).await {
            Some(Ok(())) => Ok(Some(outcomes)),
            Some(Err(_)) if planted(Defect::FailedCommitAcknowledged) => Ok(Some(outcomes)),
            Some(Err(error)) => Err(CommitError::Ambiguous(error, outcomes)),
            None => Err(CommitError::Ambiguous(
                self.counter.unresponsive(),
                outcomes,
            )),
        }
    }

    /// Waits for a part of an attempt; absent when a PostgreSQL connection did not respond in time. SQLite has no
    /// connection that dies silently, and a slow disk needs its time.
    async fn limited<T>(&self, part: impl Future<Output = T>) -> Option<T> {
        if self.has_parallel_writers() {
            timeout(ATTEMPT_LIMIT, part).await.ok()
        } else {
            Some(part.await)
        }
    }

    /// Counts a group by one statement, without COMMIT; absent if it needs more of them.
    async fn count_at_once(
        &self,
        group: &Group,
        cache: &BoundaryCache,
        options: CommitOptions,
        reads_boundaries: bool,
    ) -> Result<Option<Counted>, CommitError> {
        let mut dedupe = Dedupe::new(group);
        if dedupe.has_batch_keys() {
            return Ok(None);
        }
        dedupe.find_repeats();
        let counted = dedupe.counted();
        // Before the transaction: a change that ends meanwhile counts as a later one.
        let moves = self.boundary_moves.load(Ordering::Acquire);
        let remembered = Windows::remembered(&counted, cache, options.slots, moves);
        let remembered = remembered.filter(|_| !reads_boundaries);
        let (begun, windows) = if let Some(windows) = remembered {
            (None, windows)
        } else {
            let tx = self.begin_counting().await?;
            let windows = Windows::read(&tx, &counted, cache, options.slots, options.now);
            let windows = windows.await?;
            cache.has_seen(moves, windows.1);
            (Some(tx), windows)
        };
        let is_deleted = |account: &AccountId| windows.0.is_deleted(account);
        // A caller that still sends usage of a deleted account slows down no other.
        if counted.iter().any(|one| is_deleted(&one.account_id)) {
            dedupe.refuse(is_deleted);
        }
        let at_once = AtOnce::new((group, dedupe), self.backend(), windows, options);
        let Some(at_once) = at_once else {
            if let Some(tx) = begun {
                tx.rollback().await?;
            }
            return Ok(None);
        };
        let tx = match begun {
            Some(tx) => tx,
            None => self.begin_counting().await?,
        };
        let unchanged = match at_once.write(&tx).await {
            Ok(Written::All) => return Ok(Some(Counted::Changed(tx, at_once.outcomes()))),
            Ok(Written::KnownKeys) => Counted::StepByStep,
            Ok(Written::OldBoundaries) => Counted::WithNewBoundaries,
            Err(error) if is_unique_violation(&error) => return Err(CommitError::AlreadyCommitted),
            Err(error) => return Err(CommitError::Failed(error)),
        };
        tx.rollback().await?;
        Ok(Some(unchanged))
    }

    /// Counts a group without COMMIT.
    async fn count(
        &self,
        group: &Group,
        cache: &BoundaryCache,
        options: CommitOptions,
        way: Way,
    ) -> Result<Counted, CommitError> {
        let (is_careful, looks_up_keys) = match way {
            Way::AtOnce { reads_boundaries } => {
                let counting = self.count_at_once(group, cache, options, reads_boundaries);
                if let Some(counted) = counting.await? {
                    return Ok(counted);
                }
                (false, false)
            }
            Way::StepByStep {
                is_careful,
                looks_up_keys,
            } => (is_careful, looks_up_keys),
        };
        let tx = self.begin_counting().await?;
        let mut dedupe = Dedupe::new(group);
        dedupe.dedupe_batch_keys(&tx, options.now).await?;
        let all = dedupe.counted();
        let read = Windows::read(&tx, &all, cache, options.slots, options.now);
        let (windows, _) = read.await?;
        dedupe.refuse(|account| windows.is_deleted(account));
        if looks_up_keys {
            dedupe.look_up_keys(&tx).await?;
        } else {
            dedupe.find_repeats();
        }
        let counted = dedupe.counted();
        let additions = sum_by_window(&counted, &windows);
        if is_careful
            || additions
                .iter()
                .any(|row| row.quantity > MAX_REPORT_QUANTITY)
        {
            report_rollover::add_carefully(&tx, &additions, options.now).await?;
        } else {
            add_to_open_reports(&tx, &additions).await?;
        }
        let tx = if planted(Defect::KeyAndCountApart) {
            tx.commit().await?;
            self.begin_counting().await?
        } else {
            tx
        };
        // After the reports, whose ids they name.
        let keys = dedupe.counted_keys();
        if insert_keys(&tx, &keys, &windows, options.now).await? < keys.len() {
            tx.rollback().await?;
            return Ok(Counted::StepByStep);
        }
        for late in additions
            .iter()
            .filter(|row| closes_at_once(row.window.start, options.now))
        {
            report_rollover::close_open_report(&tx, late, options.now).await?;
        }
        let has_new_results = dedupe.store_batch_results(&tx).await?;
        if counted.is_empty()
            && !has_new_results
            && !options.is_retry
            && !self.has_parallel_writers()
        {
            // Nothing was written, and everything that was read is already committed. On PostgreSQL, it may not have
            // reached a synchronous standby if its server restarted meanwhile, so the answer waits for a later commit.
            tx.rollback().await?;
            return Ok(Counted::Unchanged(dedupe.outcomes()));
        }
        record_commit(&tx, commit_id(group, options), &counted, options.now).await?;
        Ok(Counted::Changed(tx, dedupe.outcomes()))
    }
}

/// What a group's transaction is known by, also when it runs again.
fn commit_id(group: &Group, options: CommitOptions) -> Uuid {
    if planted(Defect::CommitUnderNewId) && options.is_retry {
        return Uuid::now_v7();
    }
    group.id
}

async fn record_commit(
    tx: &Transaction,
    id: Uuid,
    counted: &[&Increment],
    now: Millis,
) -> Result<(), CommitError> {
    let quantity = counted.iter().fold(0_i64, |sum, increment| {
        sum.saturating_add(increment.quantity)
    });
    let row = commit::ActiveModel {
        id: Set(id),
        increments: Set(i64::try_from(counted.len()).unwrap_or(i64::MAX)),
        quantity: Set(quantity),
        committed_at: Set(now),
    };
    match commit::Entity::insert(row).exec_without_returning(tx).await {
        Ok(_) => Ok(()),
        Err(error) if is_unique_violation(&error) => Err(CommitError::AlreadyCommitted),
        Err(error) => Err(CommitError::Failed(error)),
    }
}
