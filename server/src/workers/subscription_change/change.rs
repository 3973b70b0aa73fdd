//! Begins a change: stores the request as a row, and lets the caller wait for the result.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{BegunChange, SubscriptionChanges};
use crate::{
    domain::{
        DAY_MS, Millis, SECOND_MS,
        account::Billing,
        account_id::AccountId,
        followed_subscriptions::FollowedSubscriptions,
        run::Scope,
        subscription_change::{ChangeKind, Step, SubscriptionChange},
        subscription_status::SubscriptionStatus,
    },
    error::{Error, Result},
    request_context::RequestContext,
    store::subscription_changes::NewChange,
    stripe::{Failure, subscriptions::Subscription},
    workers::subscription_sync::{snapshot, sync::SyncError},
};

/// How often a waiting caller reads the change's row.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How long a caller waits for Stripe's change, in addition to the draining.
const STRIPE_WAIT_MS: Millis = 60 * SECOND_MS;

/// How long after a cancel the same call is a repetition of it.
const REPEATED_MS: Millis = DAY_MS;

/// A requested change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestedChange {
    /// A change to these prices, from now on.
    Prices(Vec<String>),
    /// A cancellation now.
    CancelNow {
        /// Whether usage that was not invoiced goes on a final invoice.
        invoice_now: bool,
        /// Whether prepaid items are credited.
        prorate: bool,
    },
    /// A cancellation at the end of the current period.
    CancelAtPeriodEnd,
}

/// A subscription as Stripe showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubscriptionState {
    /// `sub_...`
    pub(crate) subscription: String,
    /// Its status.
    pub(crate) status: SubscriptionStatus,
    /// The prices of its items.
    pub(crate) prices: Vec<String>,
    /// When it ends.
    pub(crate) cancel_at: Option<Millis>,
}

impl SubscriptionState {
    fn of(shown: &Subscription) -> Self {
        let prices = shown.items.iter().map(|item| item.price.id.clone());
        Self {
            subscription: shown.id.clone(),
            status: shown.status.clone(),
            prices: prices.collect(),
            cancel_at: shown.cancel_at,
        }
    }
}

/// The result of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChangeDone {
    /// The change, if one was needed.
    pub(crate) change: Option<SubscriptionChange>,
    /// The subscription as this call found it; absent if it only waited for a change in progress, or for one of before.
    pub(crate) before: Option<SubscriptionState>,
    /// The subscription as Stripe showed it after an end that was scheduled.
    pub(crate) after: Option<SubscriptionState>,
}

impl ChangeDone {
    fn now(
        before: SubscriptionState,
        change: Option<SubscriptionChange>,
        after: Option<SubscriptionState>,
    ) -> Self {
        Self {
            change,
            before: Some(before),
            after,
        }
    }

    fn earlier(change: Option<SubscriptionChange>) -> Self {
        Self {
            change,
            before: None,
            after: None,
        }
    }
}

impl RequestedChange {
    fn encode(&self) -> String {
        match self {
            Self::Prices(prices) => json!({ "prices": prices }),
            Self::CancelNow {
                invoice_now,
                prorate,
            } => json!({ "invoice_now": invoice_now, "prorate": prorate }),
            Self::CancelAtPeriodEnd => json!({}),
        }
        .to_string()
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        if let Some(prices) = value.get("prices").and_then(Value::as_array) {
            let names = prices.iter().filter_map(Value::as_str).map(str::to_owned);
            return Some(Self::Prices(names.collect()));
        }
        Some(Self::CancelNow {
            invoice_now: value.get("invoice_now")?.as_bool()?,
            prorate: value.get("prorate")?.as_bool()?,
        })
    }
}

/// The prices of a stored request; none of one to cancel.
pub(crate) fn requested_prices(request: &str) -> Vec<String> {
    match RequestedChange::decode(request) {
        Some(RequestedChange::Prices(prices)) => prices,
        _ => Vec::new(),
    }
}

impl SubscriptionChanges {
    /// Changes an account's subscription as requested, and waits for the result.
    pub(crate) async fn change(
        &self,
        account_id: &AccountId,
        requested: RequestedChange,
        requested_by: String,
    ) -> Result<ChangeDone> {
        if let Some(in_progress) = self.store.find_change(account_id).await? {
            let joined = self.join(in_progress, &requested).await?;
            return Ok(ChangeDone::earlier(Some(joined)));
        }
        self.check_bills_here().await?;
        let account = self
            .store
            .find_account(account_id)
            .await?
            .ok_or_else(|| Error::AccountNotFound(account_id.to_string()))?;
        let cancels = !matches!(requested, RequestedChange::Prices(_));
        if cancels && matches!(account.link.billing, Billing::Ended { .. }) {
            let last = self.store.last_change(account_id).await?;
            return Ok(ChangeDone::earlier(last));
        }
        let (found, live_snapshot, followed) = self
            .live_subscription(account_id, &account.link.billing)
            .await?;
        if cancels && let Some(made) = self.made_before(account_id, &requested, &found).await? {
            return Ok(ChangeDone::earlier(Some(made)));
        }
        let before = SubscriptionState::of(&found);
        if requested == RequestedChange::CancelAtPeriodEnd {
            let after = self.cancel_at_period_end(account_id, &found).await?;
            tracing::info!(account = %account_id, subscription = found.id, requested_by, "the subscription ends with its billing period");
            return Ok(ChangeDone::now(before, None, Some(after)));
        }
        let kind = match &requested {
            RequestedChange::Prices(prices) => {
                if self.check_prices(&found, &followed, prices).await? {
                    return Ok(ChangeDone::now(before, None, None));
                }
                ChangeKind::ChangePlan
            }
            _ => ChangeKind::Cancel,
        };
        self.check_usage(account_id, &live_snapshot, &requested)
            .await?;
        let new = NewChange {
            account_id: account_id.clone(),
            kind,
            request: requested.encode(),
            requested_by,
            subscription: found.id.clone(),
            holder: self.new_holder(),
            begun_at: self.store.now().await?,
            wait_ms: self.wait_ms,
        };
        let (begun, is_new) = self
            .store
            .begin_change(&new, self.sync.slots, || self.clock.now())
            .await?;
        let scope = Scope::Accounts(vec![account_id.clone()]);
        self.store.retry_now(&scope).await?;
        self.signals.send.wake();
        if is_new {
            log_begin(&begun);
            if let Err(error) = self.begun.try_send(BegunChange {
                change: begun.clone(),
                request: RequestContext::current(),
            }) {
                tracing::warn!(%error, "too many changes were begun at once; this one is found in the database later");
            }
            self.signals.change.wake();
        }
        let done = self.join(begun, &requested).await?;
        Ok(ChangeDone::now(before, Some(done), None))
    }

    /// Fails while another integration bills. A cancel at the end of a period begins no change here that would check it.
    async fn check_bills_here(&self) -> Result<()> {
        let start = self.store.billing_start().await?;
        let at = self.clock.now();
        if start.is_elsewhere(at) {
            return Err(Error::BilledElsewhere { at, start });
        }
        Ok(())
    }

    /// The cancel that a call repeats: since it was made, the account's link follows a subscription that lived beside the one
    /// that was cancelled. It is not cancelled too.
    async fn made_before(
        &self,
        account_id: &AccountId,
        requested: &RequestedChange,
        found: &Subscription,
    ) -> Result<Option<SubscriptionChange>> {
        let last = self.store.last_change(account_id).await?;
        let now = self.store.now().await?;
        let is_repeated = |last: &SubscriptionChange| {
            last.kind == ChangeKind::Cancel
                && last.step == Step::Done
                && last.request == requested.encode()
                && last.subscription != found.id
                && found.created < last.boundary_at
                && last
                    .finished_at
                    .is_some_and(|at| now.saturating_sub(at) < REPEATED_MS)
        };
        Ok(last.filter(is_repeated))
    }

    async fn cancel_at_period_end(
        &self,
        account_id: &AccountId,
        found: &Subscription,
    ) -> Result<SubscriptionState> {
        // Noted first: usage after the end is not billable, whoever finds it.
        self.note_requested_end(account_id, found, true).await?;
        let key = format!("cancel-at-end-{}-{}", found.id, Uuid::now_v7());
        let changed = match self.stripe.cancel_at_period_end(&found.id, &key).await {
            Ok(changed) => changed,
            Err(failure) => {
                // Unless one that was requested before is still to come.
                if !failure.is_undecided() && found.cancel_at.is_none() {
                    self.note_requested_end(account_id, found, false).await?;
                }
                return Err(refused_or_unavailable(&failure));
            }
        };
        // A sync before Stripe made the change has forgotten it.
        self.note_requested_end(account_id, found, true).await?;
        let after = SubscriptionState::of(&changed);
        let changed_at = self.sync.changed_at().await?;
        let meters = self.sync.meters().await.map_err(SyncError::from)?;
        let changed = FollowedSubscriptions::only(snapshot(&changed, &meters, changed_at));
        self.sync.apply(account_id, &changed).await?;
        Ok(after)
    }

    async fn note_requested_end(
        &self,
        account_id: &AccountId,
        of: &Subscription,
        is_requested: bool,
    ) -> Result<()> {
        self.store
            .note_requested_end(account_id, &of.id, is_requested)
            .await
    }

    /// Waits for a change in progress, if it is the requested one.
    async fn join(
        &self,
        change: SubscriptionChange,
        requested: &RequestedChange,
    ) -> Result<SubscriptionChange> {
        if change.request != requested.encode() {
            return Err(Error::ChangeInProgress(change.account_id.into()));
        }
        let until = self
            .store
            .now()
            .await?
            .saturating_add(self.wait_ms)
            .saturating_add(STRIPE_WAIT_MS);
        loop {
            let seen = self.store.get_change(&change.account_id, change.id).await?;
            if seen.step == Step::Done {
                return Ok(seen);
            }
            let why = || seen.error.clone().unwrap_or_default();
            if seen.step == Step::Refused {
                return Err(Error::SubscriptionNotChangeable(why()));
            }
            if seen.step == Step::Undone {
                return Err(Error::ChangeTimedOut(why()));
            }
            if seen.step == Step::Aborted {
                return Err(Error::ChangeAborted(why()));
            }
            if self.store.now().await? >= until {
                let why = "the change is still being made; repeat the call to wait for it";
                return Err(Error::StripeUnavailable(why.to_owned()));
            }
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                () = self.shutdown.cancelled() => return Err(Error::ShuttingDown),
            }
        }
    }
}

fn log_begin(change: &SubscriptionChange) {
    tracing::info!(
        account = %change.account_id,
        change = %change.id,
        kind = change.kind.name(),
        subscription = change.subscription,
        requested_by = change.requested_by,
        "a change of a subscription begins"
    );
}

pub(super) fn refused_or_unavailable(failure: &Failure) -> Error {
    let why = failure.message().to_owned();
    if failure.is_undecided() {
        Error::StripeUnavailable(why)
    } else {
        Error::SubscriptionNotChangeable(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_request_decodes() {
        for requested in [
            RequestedChange::Prices(vec!["price_1".to_owned(), "price_2".to_owned()]),
            RequestedChange::CancelNow {
                invoice_now: true,
                prorate: false,
            },
        ] {
            assert_eq!(
                RequestedChange::decode(&requested.encode()),
                Some(requested)
            );
        }
        assert_eq!(RequestedChange::decode("{}"), None);
    }
}
