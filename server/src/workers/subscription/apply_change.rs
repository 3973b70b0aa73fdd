//! Carrying a change out: usage from before is waited for at Stripe, then Stripe is told, and asked what became
//! of that where its answer is lost.

use std::time::Duration;

use super::{Subscriptions, change::RequestedChange, drain::Drained, snapshot, sync::SyncError};
use crate::{
    domain::SECOND_MS,
    error::{Error, Result},
    store::subscription_changes::{Step, SubscriptionChange},
    stripe::{
        Failure,
        subscriptions::{CancelNow, Subscription},
    },
};

/// How often is said that an change is worked on.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often is looked whether usage has arrived.
const LOOK: Duration = Duration::from_millis(200);
/// The longest pause between two tries to tell Stripe.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How many tries one replica makes to tell Stripe before it leaves the rest to whoever takes it up.
const TELL_TRIES: u32 = 20;

impl Subscriptions {
    /// Carries an change out, and says all the while that somebody does.
    pub(super) async fn run(&self, mut change: SubscriptionChange) -> Result<()> {
        let seen = change.clone();
        tokio::select! {
            carried_out = Box::pin(self.run_steps(&mut change)) => carried_out,
            () = self.keep_holding(&seen) => Ok(()),
        }
    }

    /// Ends when somebody else has taken the change over, or it has ended.
    async fn keep_holding(&self, change: &SubscriptionChange) {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            let now = self.clock.now();
            match self.store.hold_change(change, &change.holder, now).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(change = %change.id, %error, "could not say that a change goes on");
                }
            }
        }
    }

    async fn run_steps(&self, change: &mut SubscriptionChange) -> Result<()> {
        let Some(wanted) = RequestedChange::decode(&change.request) else {
            return self
                .undo(change, Step::Undone, "what was asked for cannot be read")
                .await;
        };
        if change.step == Step::Draining.name() {
            if !self.drain(change).await? {
                return Ok(());
            }
            Step::Changing.name().clone_into(&mut change.step);
        }
        self.tell(change, &wanted).await
    }

    /// Waits until Stripe shows what was used before the boundary; false where the change ended instead.
    async fn drain(&self, change: &SubscriptionChange) -> Result<bool> {
        let mut why = "Stripe does not show all usage from before it yet".to_owned();
        loop {
            if self.shutdown.is_cancelled() {
                return Err(Error::ShuttingDown);
            }
            match self.look_at_drain(change).await {
                Ok(Drained::ShownAtStripe(since, shown)) => {
                    let now = self.clock.now();
                    let begun = self
                        .store
                        .begin_changing(change, since, &shown, now)
                        .await?;
                    match begun {
                        Some(true) => return Ok(true),
                        Some(false) => "usage from before it came late".clone_into(&mut why),
                        None => return Ok(false),
                    }
                }
                Ok(Drained::Undecided(reports)) => {
                    let why = format!("an admin has to decide on {reports} reports first");
                    self.undo(change, Step::Undone, &why).await?;
                    return Ok(false);
                }
                Ok(Drained::NotYet(outstanding)) => {
                    if outstanding.open > 0 {
                        self.store.close_late(change).await?;
                        self.closed.notify_one();
                    }
                    if outstanding.waiting > 0 {
                        why = format!("{} reports are not at Stripe yet", outstanding.waiting);
                    }
                }
                Err(error) => why = error.to_string(),
            }
            let now = self.clock.now();
            if now >= change.deadline_at {
                self.undo(change, Step::Undone, &why).await?;
                return Ok(false);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look_at_drain(
        &self,
        change: &SubscriptionChange,
    ) -> std::result::Result<Drained, SyncError> {
        let meters = self.meters().await?;
        let found = self.stripe.find_subscription(&change.subscription).await?;
        match found {
            Some(found) => self.drained(change, &snapshot(&found, &meters)).await,
            None => Ok(Drained::ShownAtStripe(change.boundary_at, Vec::new())),
        }
    }

    /// Tells Stripe, and asks it what became of that where its answer is lost.
    async fn tell(&self, change: &SubscriptionChange, wanted: &RequestedChange) -> Result<()> {
        // Stripe counts in seconds: the change must not fall into the second of what was sent before it, and a
        // window that began within a second is sent with the next.
        let later = change
            .boundary_at
            .div_euclid(SECOND_MS)
            .saturating_add(2)
            .saturating_mul(SECOND_MS);
        while self.clock.now() < later && !self.shutdown.is_cancelled() {
            tokio::time::sleep(LOOK).await;
        }
        let mut pause = LOOK;
        for attempt in 0..TELL_TRIES {
            if self.shutdown.is_cancelled() {
                return Err(Error::ShuttingDown);
            }
            match self.tell_once(change, wanted, attempt).await {
                Ok(changed) => return self.finish_with(change, &changed).await,
                // A key that Stripe does not take says nothing of an earlier request either.
                Err(Failure::Unanswered(why) | Failure::Denied(why)) => {
                    tracing::warn!(change = %change.id, why, "Stripe did not say whether it changed the subscription");
                }
                Err(failure) => {
                    return self.undo(change, Step::Refused, failure.message()).await;
                }
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
        Ok(())
    }

    /// Looks whether it happened already, and asks for it where it did not.
    async fn tell_once(
        &self,
        change: &SubscriptionChange,
        wanted: &RequestedChange,
        attempt: u32,
    ) -> std::result::Result<Subscription, Failure> {
        let gone = || Failure::Refused("Stripe does not have the subscription".to_owned());
        let found = self.stripe.find_subscription(&change.subscription).await?;
        let found = found.ok_or_else(gone)?;
        let id = change.id.to_string();
        let key = format!("change-{id}-{}-{attempt}", self.clock.now());
        let answer = match wanted {
            RequestedChange::Prices(_) if found.change.as_deref() == Some(&id) => return Ok(found),
            _ if !found.is_live() => {
                return match wanted {
                    RequestedChange::Prices(_) => Err(Failure::Refused(
                        "the subscription ended in between".to_owned(),
                    )),
                    _ => Ok(found),
                };
            }
            RequestedChange::Prices(prices) => self.move_to(&found, prices, &id, &key).await,
            RequestedChange::CancelNow {
                invoice_now,
                prorate,
            } => {
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
            Err(Failure::Unanswered(why)) => Err(Failure::Unanswered(why)),
            // A violation may be about a second request, after the first one's answer was lost.
            Err(refused) => {
                let now = self.stripe.find_subscription(&change.subscription).await?;
                now.filter(|now| match wanted {
                    RequestedChange::Prices(_) => now.change.as_deref() == Some(&id),
                    _ => !now.is_live(),
                })
                .ok_or(refused)
            }
        }
    }

    /// Replaces the items of the prices' meters.
    async fn move_to(
        &self,
        found: &Subscription,
        prices: &[String],
        change: &str,
        key: &str,
    ) -> std::result::Result<Subscription, Failure> {
        let meters = self.meters().await?;
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for price in prices {
            let of = self.stripe.find_price(price).await?;
            let meter = of.and_then(|of| of.meter);
            if meter
                .as_ref()
                .is_none_or(|meter| !meters.contains_key(meter))
            {
                let why = format!("price {price} is not of a configured meter any more");
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
        self.stripe
            .change_items(&found.id, &removed, &added, change, key)
            .await
    }

    async fn finish_with(&self, change: &SubscriptionChange, changed: &Subscription) -> Result<()> {
        let meters = self.meters().await.map_err(SyncError::from)?;
        let snapshot = snapshot(changed, &meters);
        self.store
            .finish_change(change, &snapshot, self.options.slots, self.clock.now())
            .await?;
        self.closed.notify_one();
        tracing::info!(change = %change.id, kind = %change.kind, "the subscription was changed");
        Ok(())
    }

    async fn undo(&self, change: &SubscriptionChange, step: Step, why: &str) -> Result<()> {
        tracing::warn!(change = %change.id, why, "the subscription is left as it was");
        self.store
            .undo_change(change, (step, why), self.options.slots, self.clock.now())
            .await?;
        self.closed.notify_one();
        Ok(())
    }
}
