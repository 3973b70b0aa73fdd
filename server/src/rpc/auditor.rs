//! Records what admins do: an entry before an action begins, and one with its result.
//!
//! An action whose first entry cannot be written is not done.

use std::{num::NonZeroU32, sync::Arc};

use futures_util::future::BoxFuture;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{
    domain::audit::{Actor, NewEntry, Outcome},
    error::{Error, Result},
    store::Store,
};

/// Entries a second of actions that failed before they began: whoever has a key must not fill the disk. More are only
/// logged.
const REFUSALS_PER_SEC: u32 = 10;

/// Actions in progress at once. Each writes to the database at least twice, so more would not be answered in time.
const MAX_ACTIONS: usize = 256;

/// The longest request that is recorded: a report run of 1,000 accounts fits.
const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// Writes audit entries. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Auditor {
    store: Store,
    refusals: Arc<DefaultDirectRateLimiter>,
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
#[derive(Clone, Debug)]
pub(super) struct Changed {
    /// It before the action; absent if it did not exist.
    pub(super) before: Option<Value>,
    /// It after the action; absent if nothing changed.
    pub(super) after: Option<Value>,
}

impl Action {
    /// The entry of its result or its beginning.
    fn entry(&self, outcome: Outcome) -> NewEntry {
        let mut request = self.request.to_string();
        if request.len() > MAX_REQUEST_BYTES {
            // The message is far beyond the limits of its fields, and is refused.
            request = json!({ "bytes": request.len() }).to_string();
        }
        NewEntry {
            account_id: self.account_id.clone(),
            request: Some(request),
            outcome,
            ..NewEntry::done(self.actor.clone(), self.name)
        }
    }
}

impl Auditor {
    pub(crate) fn new(store: Store) -> Self {
        let per_sec = NonZeroU32::new(REFUSALS_PER_SEC).unwrap_or(NonZeroU32::MIN);
        let refusals = RateLimiter::direct(Quota::per_second(per_sec));
        Self {
            store,
            refusals: Arc::new(refusals),
            actions: Arc::new(Semaphore::new(MAX_ACTIONS)),
        }
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
                let Changed { before, after } = changed(done);
                let mut entry = NewEntry {
                    before: before.as_ref().map(ToString::to_string),
                    after: after.as_ref().map(ToString::to_string),
                    ..action.entry(Outcome::Done)
                };
                if let Some((id, with)) = renamed(done) {
                    entry.rename_account(&id, &with);
                }
                entry
            }
            Err(error) => NewEntry {
                message: Some(format!("{}: {error}", error.reason())),
                ..action.entry(Outcome::Failed)
            },
        };
        if let Err(error) = self.write(&entry).await {
            tracing::error!(
                error = error.cause(),
                request_id = action.actor.request_id,
                action = action.name,
                "the result of an admin's action is not in the audit table; that it began is"
            );
        }
        result
    }

    /// Records an action that failed or was refused before anything was done.
    pub(crate) async fn failed(&self, actor: &Actor, method: &str, error: &Error) {
        let message = format!("{}: {error}", error.reason());
        let is_recorded = self.refusals.check().is_ok() && {
            let entry = NewEntry {
                outcome: Outcome::Failed,
                message: Some(message.clone()),
                ..NewEntry::done(actor.clone(), method)
            };
            let written = self.write(&entry).await;
            written
                .inspect_err(|error| tracing::error!(error = error.cause(), "no audit entry"))
                .is_ok()
        };
        if !is_recorded {
            let Actor { name, address, .. } = actor;
            tracing::warn!(
                key = name,
                address,
                method,
                message,
                "failed, without an audit entry"
            );
        }
    }

    async fn write(&self, entry: &NewEntry) -> Result<()> {
        // Also while clocks contradict each other: what is done must be recorded.
        let now = self.store.shared_now().await?;
        self.store.write_audit_entry(entry, now).await
    }
}
