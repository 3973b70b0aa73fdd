//! Records what admins do: an entry before an action begins, and one with its result.
//!
//! An action whose first entry cannot be written is not done.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::to_its_end;
use crate::{
    domain::audit::{Actor, NewEntry, Outcome},
    error::{Error, Result},
    store::Store,
};

/// Entries of refused actions that one caller may cause at once, and then a second: whoever has a key must not fill the
/// disk.
const REFUSALS_AT_ONCE: NonZeroU32 = NonZeroU32::new(20).unwrap();
const REFUSALS_PER_SEC: NonZeroU32 = NonZeroU32::new(1).unwrap();
/// Callers whose refusals are counted. They have keys or certificates, so there are few.
const REMEMBERED_CALLERS: u64 = 10_000;
/// How often the log says that there were more.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Actions in progress at once. Each writes to the database at least twice, so more would not be answered in time.
const MAX_ACTIONS: usize = 256;

/// Writes audit entries. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Auditor {
    store: Store,
    /// By the name of the caller.
    refusals: Cache<String, Arc<DefaultDirectRateLimiter>>,
    warnings: Arc<DefaultDirectRateLimiter>,
    /// Refusals without an entry since the last warning.
    unrecorded: Arc<AtomicU64>,
    /// A permit for each action in progress.
    actions: Arc<Semaphore>,
}

impl std::fmt::Debug for Auditor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auditor")
    }
}

/// An action of an admin.
#[derive(Clone, Debug)]
pub(super) struct Action {
    /// Who acts.
    pub(super) actor: Actor,
    /// The method's name.
    pub(super) name: &'static str,
    /// The account, if it is about one.
    pub(super) account_id: Option<String>,
    /// What was requested.
    pub(super) request: Value,
}

/// What an action changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Changed {
    /// It before the action; absent if it did not exist.
    pub(super) before: Option<Value>,
    /// It after the action; absent if nothing changed.
    pub(super) after: Option<Value>,
    /// What failed after it was changed.
    pub(super) failed_after: Option<String>,
}

impl Action {
    /// The entry of its result or its beginning.
    fn entry(&self, outcome: Outcome) -> NewEntry {
        NewEntry {
            account_id: self.account_id.clone(),
            request: Some(self.request.to_string()),
            outcome,
            ..NewEntry::done(self.actor.clone(), self.name)
        }
    }
}

impl Auditor {
    pub(crate) fn new(store: Store) -> Self {
        // One at first, and then one an interval.
        let warnings = Quota::with_period(WARNING_INTERVAL);
        let warnings = warnings.unwrap_or(Quota::per_second(NonZeroU32::MIN));
        Self {
            store,
            refusals: Cache::new(REMEMBERED_CALLERS),
            warnings: Arc::new(RateLimiter::direct(warnings)),
            unrecorded: Arc::default(),
            actions: Arc::new(Semaphore::new(MAX_ACTIONS)),
        }
    }

    /// Takes what was found of a request before anything is done. If it is refused, that is recorded.
    ///
    /// # Errors
    /// Those that were found.
    pub(super) async fn checked<T>(&self, action: &Action, found: Result<T>) -> Result<T> {
        if let Err(error) = &found {
            self.record_refusal(action.entry(Outcome::Failed), error)
                .await;
        }
        found
    }

    /// Records a call that was refused before its request was read.
    pub(crate) async fn refused(&self, actor: &Actor, method: &str, error: &Error) {
        let entry = NewEntry {
            outcome: Outcome::Failed,
            ..NewEntry::done(actor.clone(), method)
        };
        self.record_refusal(entry, error).await;
    }

    /// Does an action between its two entries.
    ///
    /// # Errors
    /// Those of the action; or that too many are in progress, or its first entry cannot be written: nothing was done then.
    pub(super) async fn record<T>(
        self,
        action: Action,
        done: BoxFuture<'static, Result<T>>,
        changed: impl FnOnce(&T) -> Changed,
    ) -> Result<T> {
        let permit = self.actions.try_acquire();
        let _permit = permit.map_err(|_| Error::TooManyChanges { limit: MAX_ACTIONS })?;
        self.write(&action.entry(Outcome::Begun)).await?;
        let result = done.await;
        let entry = match &result {
            Ok(done) => {
                let Changed {
                    before,
                    after,
                    failed_after,
                } = changed(done);
                NewEntry {
                    before: before.as_ref().map(ToString::to_string),
                    after: after.as_ref().map(ToString::to_string),
                    message: failed_after,
                    ..action.entry(Outcome::Done)
                }
            }
            Err(error) => NewEntry {
                message: Some(why(error)),
                ..action.entry(Outcome::Failed)
            },
        };
        if let Err(error) = self.write(&entry).await {
            tracing::error!(
                error = error.cause(),
                action_id = %action.actor.action_id,
                action = action.name,
                "the result of an admin's action is not in the audit table; that it began is"
            );
        }
        result
    }

    /// Records that nothing was done, unless the caller caused too many such entries. Then the log says how many there are,
    /// now and then.
    async fn record_refusal(&self, entry: NewEntry, error: &Error) {
        let entry = NewEntry {
            message: Some(why(error)),
            ..entry
        };
        let new = || {
            let quota = Quota::per_second(REFUSALS_PER_SEC).allow_burst(REFUSALS_AT_ONCE);
            Arc::new(RateLimiter::direct(quota))
        };
        let name = entry.actor.name.clone();
        if self.refusals.get_with(name, new).check().is_ok() {
            let (auditor, entry) = (self.clone(), entry.clone());
            let written = to_its_end(async move { auditor.write(&entry).await }).await;
            let written = written
                .inspect_err(|error| tracing::error!(error = error.cause(), "no audit entry"));
            if written.is_ok() {
                return;
            }
        }
        self.unrecorded.fetch_add(1, Ordering::Relaxed);
        if self.warnings.check().is_ok() {
            let Actor { name, address, .. } = &entry.actor;
            tracing::warn!(
                count = self.unrecorded.swap(0, Ordering::Relaxed),
                last_caller = name,
                last_address = address,
                last_method = entry.action,
                "calls of admins' methods were refused without an audit entry: there are too many of them"
            );
        }
    }

    async fn write(&self, entry: &NewEntry) -> Result<()> {
        // Also while clocks contradict each other: what is done must be recorded.
        let now = self.store.shared_now().await?;
        self.store.write_audit_entry(entry, now).await
    }
}

/// What an entry says of an error.
pub(super) fn why(error: &Error) -> String {
    format!("{}: {error}", error.reason())
}
