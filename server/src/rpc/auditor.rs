//! Records what admins do: an entry before an action begins, and one with its result.
//!
//! An action whose first entry cannot be written is not done.

use std::{num::NonZeroU32, sync::Arc};

use futures_util::future::BoxFuture;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::to_its_end;
use crate::{
    domain::{
        api_key::KeyId,
        audit::{Actor, ActorKind, NewEntry, Outcome},
    },
    error::{Error, Result},
    log_limit::LogLimit,
    request_context::also_if_gone,
    store::Store,
};

/// Entries of refused actions that one caller may cause at once, and then a second: whoever has a key must not fill the
/// disk.
const REFUSALS_AT_ONCE: NonZeroU32 = NonZeroU32::new(20).unwrap();
const REFUSALS_PER_SEC: NonZeroU32 = NonZeroU32::new(1).unwrap();
/// Callers whose refusals are counted. They have keys or certificates, so there are few.
const REMEMBERED_CALLERS: u64 = 10_000;

/// Actions in progress at once. Each writes to the database at least twice, so more would not be answered in time.
const MAX_ACTIONS: usize = 256;

/// Writes audit entries. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Auditor {
    store: Store,
    refusals: Cache<Refused, Arc<Refusals>>,
    /// A permit for each action in progress.
    actions: Arc<Semaphore>,
}

/// Whose calls were refused.
type Refused = (ActorKind, Option<KeyId>, String);

/// What limits the traces of one caller's refusals.
struct Refusals {
    entries: DefaultDirectRateLimiter,
    /// The lines about those without an entry.
    unrecorded: LogLimit,
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
    /// What the log says once it is done; absent if what it begins has lines by itself.
    pub(super) done: Option<&'static str>,
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
    /// Logs that it was done, unless it changed nothing.
    fn log(&self, before: Option<&Value>, after: Option<&Value>) {
        let (Some(done), Some(changed)) = (self.done, after) else {
            return;
        };
        if before != after {
            let (account, key) = (self.account_id.as_deref(), &self.actor.name);
            tracing::info!(account, key, request = %self.request, %changed, "{done}");
        }
    }

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
        Self {
            store,
            refusals: Cache::new(REMEMBERED_CALLERS),
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
        // Boxed: the compiler limits how deep futures are nested.
        Box::pin(self.record_renaming(action, done, changed, |_| None)).await
    }

    /// The same for an action that may give its account another id: the former one with the other.
    ///
    /// # Errors
    /// As [`Auditor::record`].
    pub(super) async fn record_renaming<T>(
        self,
        action: Action,
        done: BoxFuture<'static, Result<T>>,
        changed: impl FnOnce(&T) -> Changed,
        renamed: impl FnOnce(&T) -> Option<(String, String)>,
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
                action.log(before.as_ref(), after.as_ref());
                let mut entry = NewEntry {
                    before: before.as_ref().map(ToString::to_string),
                    after: after.as_ref().map(ToString::to_string),
                    message: failed_after,
                    ..action.entry(Outcome::Done)
                };
                if let Some((id, with)) = renamed(done) {
                    entry.rename_account(&id, &with);
                }
                entry
            }
            Err(error) => NewEntry {
                message: Some(why(error)),
                ..action.entry(Outcome::Failed)
            },
        };
        if let Err(error) = also_if_gone(Box::pin(self.write(&entry))).await {
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
            Arc::new(Refusals {
                entries: RateLimiter::direct(quota),
                unrecorded: LogLimit::default(),
            })
        };
        let actor = &entry.actor;
        // Keys may have the same name, and one the name of a certificate.
        let refused = (actor.kind, actor.key, actor.name.clone());
        let refusals = self.refusals.get_with(refused, new);
        if refusals.entries.check().is_ok() {
            let (auditor, entry) = (self.clone(), entry.clone());
            let written = to_its_end(async move { auditor.write(&entry).await }).await;
            let written = written
                .inspect_err(|error| tracing::error!(error = error.cause(), "no audit entry"));
            if written.is_ok() {
                return;
            }
        }
        // Whoever has a key must not fill the log either.
        if let Some(unlogged) = refusals.unrecorded.count() {
            let Actor { name, address, .. } = &entry.actor;
            tracing::warn!(
                caller = name,
                address,
                method = entry.action,
                unlogged,
                "calls of admins' methods were refused without an audit entry: there are too many of them"
            );
        }
    }

    async fn write(&self, entry: &NewEntry) -> Result<()> {
        // Also while clocks contradict each other: what is done must be recorded.
        let now = self.store.shared_now().await?;
        let mut entry = entry.clone();
        entry.say_where_from();
        self.store.write_audit_entry(&entry, now).await
    }
}

/// What an entry says of an error.
pub(super) fn why(error: &Error) -> String {
    format!("{}: {error}", error.reason())
}
