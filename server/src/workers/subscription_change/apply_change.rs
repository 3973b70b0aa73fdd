//! The steps of a change: when Stripe has the usage from before the boundary, it changes the subscription. If the
//! response to that request is lost, it reads the subscription to find the result.

use std::time::Duration;

use uuid::Uuid;

use super::{SubscriptionChanges, change::RequestedChange, drain::Drained};
use crate::{
    domain::{
        SECOND_MS,
        subscription_change::{Step, SubscriptionChange},
    },
    error::Result,
    planted_defects::{Defect, planted},
    stripe::{
        Failure,
        subscriptions::{CancelNow, Subscription},
    },
    workers::subscription_sync::{snapshot, sync::SyncError},
};

/// How often a change that waits is checked.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// How often Stripe is asked for a change that waits for it.
pub(super) const ASK_INTERVAL: Duration = Duration::from_secs(2);

/// How far a step of a change has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has ended, or another replica has it.
    Ended,
    /// It is checked again after this time.
    CheckAfter(Duration),
    /// It is unknown whether Stripe made the change. The request is repeated, with a backoff.
    Repeat,
}

impl SubscriptionChanges {
    /// Takes a change one step further.
    pub(super) async fn advance(&self, change: &mut SubscriptionChange) -> Result<Progress> {
        let Some(requested) = RequestedChange::decode(&change.request) else {
            let why = "the stored request cannot be read";
            return self.undo(change, Step::Undone, why).await;
        };
        if change.step == Step::Draining
            && let Some(progress) = self.drain(change).await?
        {
            return Ok(progress);
        }
        self.change_at_stripe(change, &requested).await
    }

    /// Checks whether Stripe's totals include all usage from before the boundary. If they do, the change is in its next
    /// step, and `None` is returned.
    ///
    /// A check that begins after the deadline ends the change, whatever Stripe shows: no replica may have worked on it for days, and
    /// usage since its boundary would be on another invoice than that of the period in which it happened, or on none.
    async fn drain(&self, change: &mut SubscriptionChange) -> Result<Option<Progress>> {
        let mut wait = ASK_INTERVAL;
        let is_late = change.is_overdue(self.store.now().await?);
        let why = match self.drain_progress(change).await {
            Ok(Drained::ShownAtStripe(..)) if is_late => {
                "Stripe shows all earlier usage, but the time to wait for that was over".to_owned()
            }
            Ok(Drained::ShownAtStripe(since, shown)) => {
                let begun = self.store.begin_changing(change, since, &shown);
                match begun.await? {
                    Some(true) => {
                        change.step = Step::Changing;
                        return Ok(None);
                    }
                    Some(false) => "earlier usage arrived late".to_owned(),
                    None => return Ok(Some(Progress::Ended)),
                }
            }
            Ok(Drained::NeedsDecision(reports)) => {
                let why = format!("an admin has to decide on {reports} reports first");
                return self.undo(change, Step::Undone, &why).await.map(Some);
            }
            Ok(Drained::NotYet(outstanding)) => {
                if outstanding.open > 0 {
                    self.store.close_counted_since(change).await?;
                    self.signals.send.wake();
                }
                if outstanding.waiting > 0 {
                    // Stripe was not asked.
                    wait = CHECK_INTERVAL;
                    format!("{} reports are not at Stripe yet", outstanding.waiting)
                } else {
                    let why = "Stripe does not show all earlier usage yet";
                    self.note_wait(change, why).await?;
                    why.to_owned()
                }
            }
            Err(error) => {
                let why = error.to_string();
                self.note_wait(change, &why).await?;
                why
            }
        };
        if change.is_overdue(self.store.now().await?) {
            return self.undo(change, Step::Undone, &why).await.map(Some);
        }
        Ok(Some(Progress::CheckAfter(wait)))
    }

    /// Stripe is asked once nothing waits here.
    async fn drain_progress(
        &self,
        change: &SubscriptionChange,
    ) -> std::result::Result<Drained, SyncError> {
        let boundary = change.boundary_at;
        let here = self
            .store
            .outstanding(&change.account_id, boundary, boundary);
        let here = here.await?;
        if planted(Defect::DrainLeftOut) {
            return Ok(Drained::ShownAtStripe(boundary, Vec::new()));
        }
        if here.waiting > 0 {
            return Ok(Drained::NotYet(here));
        }
        let meters = self.sync.meters().await?;
        let read_at = self.sync.read_at().await?;
        self.stripe.read_turn().await;
        let found = self.stripe.find_subscription(&change.subscription).await?;
        match found {
            Some(found) => {
                let snapshot = snapshot(&found, &meters, read_at);
                self.drained(change, &snapshot).await
            }
            None => Ok(Drained::ShownAtStripe(change.boundary_at, Vec::new())),
        }
    }

    /// Changes the subscription at Stripe.
    async fn change_at_stripe(
        &self,
        change: &mut SubscriptionChange,
        requested: &RequestedChange,
    ) -> Result<Progress> {
        // Stripe's times are whole seconds. The change must be in a later second than the events from before it; a
        // window that began inside a second gets the next second as its timestamp.
        let later = change
            .boundary_at
            .div_euclid(SECOND_MS)
            .saturating_add(2)
            .saturating_mul(SECOND_MS);
        let now = self.store.now().await?;
        if now < later {
            return Ok(Progress::CheckAfter(CHECK_INTERVAL));
        }
        if change.is_overdue(now) && !self.may_be_requested(change).await? {
            let why = "Stripe was not asked for the change in time";
            return self.undo(change, Step::Undone, why).await;
        }
        let was_requested = change.requested_at.is_some();
        match self.request_change(change, requested).await {
            Ok(changed) => self.finish_with(change, &changed).await,
            Err(Failure::Denied(why)) if !was_requested => {
                self.undo(change, Step::Refused, &why).await
            }
            // A rejected API key does not tell whether an earlier request was successful.
            Err(
                Failure::NotSent(why)
                | Failure::NoAnswer(why)
                | Failure::Unreadable(why)
                | Failure::Denied(why),
            ) => {
                tracing::warn!(change = %change.id, why, "it is unknown whether Stripe changed the subscription");
                self.note_wait(change, &why).await?;
                Ok(Progress::Repeat)
            }
            Err(failure) => self.undo(change, Step::Refused, failure.message()).await,
        }
    }

    /// Requests the change from Stripe, unless an earlier request was successful.
    async fn request_change(
        &self,
        change: &mut SubscriptionChange,
        requested: &RequestedChange,
    ) -> std::result::Result<Subscription, Failure> {
        let missing = || Failure::Refused("Stripe does not have the subscription".to_owned());
        self.stripe.read_turn().await;
        let found = self.stripe.find_subscription(&change.subscription).await?;
        let found = found.ok_or_else(missing)?;
        let id = change.id.to_string();
        // Stripe replays the first response to a key, so each request has a new one. The id of the change in the
        // metadata prevents a second change.
        let key = format!("change-{id}-{}", Uuid::now_v7());
        if is_made(change, requested, &found) {
            return Ok(found);
        }
        let answer = match requested {
            RequestedChange::Prices(_) if !found.is_live() => {
                let why = "the subscription ended before the change".to_owned();
                return Err(Failure::Refused(why));
            }
            RequestedChange::Prices(prices) => {
                let (removed, added) = self.items_to_replace(&found, prices).await?;
                self.note_request(change).await?;
                self.stripe
                    .change_items(&found.id, &removed, &added, &id, &key)
                    .await
            }
            RequestedChange::CancelNow {
                invoice_now,
                prorate,
            } => {
                self.note_request(change).await?;
                let how = CancelNow {
                    invoice_now: *invoice_now,
                    prorate: *prorate,
                };
                self.stripe.cancel_now(&found.id, how, &key).await
            }
            RequestedChange::CancelAtPeriodEnd => Ok(found),
        };
        match answer {
            Ok(changed) => Ok(changed),
            Err(failure) if failure.is_undecided() => Err(failure),
            // The rejected request may have been a repetition of one that was successful. If not, the refusal is final,
            // also that of a key which may read and not write.
            Err(refused) => {
                let now = self.stripe.find_subscription(&change.subscription).await?;
                now.filter(|now| is_made(change, requested, now))
                    .ok_or_else(|| Failure::Refused(refused.message().to_owned()))
            }
        }
    }

    /// Whether Stripe may have got a request for a change, also from its former holder after it was read here. That one sends
    /// none any more.
    async fn may_be_requested(&self, change: &mut SubscriptionChange) -> Result<bool> {
        if change.requested_at.is_none() {
            let stored = self.store.get_change(&change.account_id, change.id).await?;
            change.requested_at = stored.requested_at;
        }
        Ok(change.requested_at.is_some())
    }

    /// Records, immediately before each request for the change, that Stripe may get one. It gets none if the change was
    /// aborted, or belongs to another replica.
    async fn note_request(
        &self,
        change: &mut SubscriptionChange,
    ) -> std::result::Result<(), Failure> {
        let noted = self.store.set_change_requested(change).await;
        let now = noted.map_err(|error| Failure::NotSent(error.to_string()))?;
        let lost = || Failure::NotSent("another replica or an abort has the change".to_owned());
        change.requested_at = Some(now.ok_or_else(lost)?);
        Ok(())
    }

    /// Records why the change waits, for the doctor.
    async fn note_wait(&self, change: &mut SubscriptionChange, why: &str) -> Result<()> {
        if change.error.as_deref() != Some(why) {
            self.store.set_change_error(change, why).await?;
            change.error = Some(why.to_owned());
        }
        Ok(())
    }

    /// The items of the prices' meters that are removed, and the prices that are added.
    async fn items_to_replace(
        &self,
        found: &Subscription,
        prices: &[String],
    ) -> std::result::Result<(Vec<String>, Vec<String>), Failure> {
        let meters = self.sync.meters().await?;
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for price in prices {
            let of = self.stripe.find_price(price).await?;
            let meter = of.and_then(|of| of.meter);
            if meter
                .as_ref()
                .is_none_or(|meter| !meters.contains_key(meter))
            {
                let why = format!("price {price} no longer belongs to a configured meter");
                return Err(Failure::Refused(why));
            }
            let replaced = found
                .items
                .iter()
                .filter(|item| item.price.meter == meter && item.price.id != *price);
            removed.extend(replaced.map(|item| item.id.clone()));
            if found.items.iter().all(|item| item.price.id != *price) {
                added.push(price.clone());
            }
        }
        Ok((removed, added))
    }

    /// Records that Stripe made the change.
    pub(super) async fn finish_with(
        &self,
        change: &SubscriptionChange,
        changed: &Subscription,
    ) -> Result<Progress> {
        let meters = self.sync.meters().await.map_err(SyncError::from)?;
        let now = self.sync.changed_at().await?;
        let snapshot = snapshot(changed, &meters, now);
        self.store
            .finish_change(change, &snapshot, self.sync.slots, now)
            .await?;
        self.signals.send.wake();
        tracing::info!(account = %change.account_id, change = %change.id, kind = change.kind.name(), "the subscription was changed");
        Ok(Progress::Ended)
    }

    async fn undo(&self, change: &SubscriptionChange, step: Step, why: &str) -> Result<Progress> {
        tracing::warn!(account = %change.account_id, change = %change.id, why, "a change was not made; the subscription is as before");
        self.store
            .undo_change(
                change,
                (step, why),
                self.sync.slots,
                self.store.now().await?,
            )
            .await?;
        self.signals.send.wake();
        Ok(Progress::Ended)
    }
}

/// Whether a subscription, as read from Stripe, shows that the change was made.
pub(super) fn is_made(
    change: &SubscriptionChange,
    requested: &RequestedChange,
    found: &Subscription,
) -> bool {
    match requested {
        RequestedChange::Prices(_) => {
            found.change.as_deref() == Some(change.id.to_string().as_str())
        }
        _ => !found.is_live(),
    }
}
