//! Ends a change for an admin, if Stripe surely did not make it: everything is as before the change.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    SubscriptionChanges,
    apply_change::is_made,
    change::{POLL_INTERVAL, RequestedChange, refused_or_unavailable},
};
use crate::{
    domain::{
        Millis, SECOND_MS,
        account_id::AccountId,
        subscription_change::{Step, SubscriptionChange},
    },
    error::{Error, Result},
    stripe::Failure,
};

/// How long after a request for the change Stripe may still make it: longer than the timeout of a request, and shorter
/// than the time after which another replica takes the change over.
const MAY_ARRIVE: Duration = Duration::from_secs(25);
const MAY_ARRIVE_MS: Millis = 25 * SECOND_MS;
/// The interval of the heartbeat while the abort waits.
const HEARTBEAT_MS: Millis = 5 * SECOND_MS;

/// The result of an abort.
#[derive(Clone, Debug)]
pub(crate) struct Aborted {
    /// The change as it was.
    pub(crate) before: SubscriptionChange,
    /// It now; none if it was aborted before.
    pub(crate) after: Option<SubscriptionChange>,
}

impl SubscriptionChanges {
    /// Aborts the change in progress of an account. Repeating the call returns the aborted change.
    ///
    /// The change first gets another holder, after which no replica asks Stripe for it. If Stripe was asked before, the
    /// request may still arrive for a while. Then the change is looked up: one that was made is finished, and not aborted.
    pub(crate) async fn abort(
        &self,
        account_id: &AccountId,
        requested_by: &str,
    ) -> Result<Aborted> {
        let Some(seen) = self.store.find_change(account_id).await? else {
            return Ok(Aborted {
                before: self.aborted_before(account_id).await?,
                after: None,
            });
        };
        // From here on times are reckoned from a new reading: this machine may have stood still since the last one.
        self.store.now_as_read().await?;
        let holder = self.new_holder();
        if !self.store.claim_change(&seen, &holder).await? {
            return Err(moved_on());
        }
        // Its holder may have asked since it was read. If something fails from here on, a replica goes on with the change.
        let change = self.store.get_change(account_id, seen.id).await?;
        if let Some(requested_at) = change.requested_at {
            self.wait_for_arrival(&change, requested_at).await?;
            self.check_not_made(&change).await?;
        }
        let why = if requested_by.is_empty() {
            "an admin aborted the change".to_owned()
        } else {
            format!("{requested_by} aborted the change")
        };
        let undone = self
            .store
            .undo_change(
                &change,
                (Step::Aborted, &why),
                self.sync.slots,
                self.store.now().await?,
            )
            .await?;
        if !undone {
            return Err(moved_on());
        }
        self.signals.send.wake();
        let after = self.store.get_change(account_id, change.id).await?;
        Ok(Aborted {
            before: change,
            after: Some(after),
        })
    }

    async fn aborted_before(&self, account_id: &AccountId) -> Result<SubscriptionChange> {
        self.store
            .find_account(account_id)
            .await?
            .ok_or_else(|| Error::AccountNotFound(account_id.to_string()))?;
        let last = self.store.last_change(account_id).await?;
        last.filter(|last| last.step == Step::Aborted)
            .ok_or_else(|| Error::NoChangeInProgress(account_id.to_string()))
    }

    /// Waits until the last request for a change has certainly arrived at Stripe, or never does.
    async fn wait_for_arrival(
        &self,
        change: &SubscriptionChange,
        requested_at: Millis,
    ) -> Result<()> {
        let (begun, mut renewed_at) = (Instant::now(), change.heartbeat_at);
        loop {
            let now = self.store.now().await?;
            let is_over = now.saturating_sub(requested_at) >= MAY_ARRIVE_MS;
            // None was sent since the claim, whatever clocks show.
            if is_over || begun.elapsed() >= MAY_ARRIVE {
                return Ok(());
            }
            if now.saturating_sub(renewed_at) >= HEARTBEAT_MS {
                if !self.store.claim_change(change, &change.holder).await? {
                    return Err(moved_on());
                }
                renewed_at = now;
            }
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                () = self.shutdown.cancelled() => return Err(Error::ShuttingDown),
            }
        }
    }

    /// Finishes a change that Stripe has made, and refuses the abort.
    async fn check_not_made(&self, change: &SubscriptionChange) -> Result<()> {
        let Some(requested) = RequestedChange::decode(&change.request) else {
            return Ok(());
        };
        self.stripe.read_turn().await;
        let found = self.stripe.find_subscription(&change.subscription).await;
        let found = found.map_err(|failure| match failure {
            // Its key may change, and then Stripe may show that it made the change.
            Failure::Denied(why) => Error::StripeUnavailable(why),
            failure => refused_or_unavailable(&failure),
        })?;
        let Some(made) = found.filter(|found| is_made(change, &requested, found)) else {
            return Ok(());
        };
        self.finish_with(change, &made).await?;
        Err(Error::SubscriptionNotChangeable(format!(
            "Stripe has made the change of subscription {}, so it cannot be aborted; it is done now",
            change.subscription
        )))
    }
}

fn moved_on() -> Error {
    let why = "the change has just moved on; repeat the call";
    Error::StripeUnavailable(why.to_owned())
}
