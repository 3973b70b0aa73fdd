//! Carrying a change out: usage from before is waited for at Stripe, then Stripe is told, and asked what became
//! of that where its answer is lost.

use std::time::Duration;

use super::{Subscriptions, change::Wanted, drain::Drained, facts, follow::FollowError};
use crate::{
    error::{Error, Result},
    store::operations::{Operation, Step},
    stripe::{
        Failure,
        subscriptions::{CancelNow, Subscription},
    },
    usage::SECOND_MS,
};

/// How often is said that an operation is worked on.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often is looked whether usage has arrived.
const LOOK: Duration = Duration::from_millis(200);
/// The longest pause between two tries to tell Stripe.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How many tries one replica makes to tell Stripe before it leaves the rest to whoever takes it up.
const TELL_TRIES: u32 = 20;

impl Subscriptions {
    /// Carries an operation out, and says all the while that somebody does.
    pub(super) async fn run(&self, mut operation: Operation) -> Result<()> {
        let seen = operation.clone();
        tokio::select! {
            carried_out = Box::pin(self.carry_out(&mut operation)) => carried_out,
            () = self.keep_holding(&seen) => Ok(()),
        }
    }

    /// Ends when somebody else has taken the operation over, or it has ended.
    async fn keep_holding(&self, operation: &Operation) {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            let now = self.clock.now();
            match self
                .store
                .hold_operation(operation, &operation.holder, now)
                .await
            {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(operation = %operation.id, %error, "could not say that a change goes on");
                }
            }
        }
    }

    async fn carry_out(&self, operation: &mut Operation) -> Result<()> {
        let Some(wanted) = Wanted::decode(&operation.request) else {
            return self
                .undo(operation, Step::Undone, "what was asked for cannot be read")
                .await;
        };
        if operation.step == Step::Draining.name() {
            if !self.drain(operation).await? {
                return Ok(());
            }
            Step::Changing.name().clone_into(&mut operation.step);
        }
        self.tell(operation, &wanted).await
    }

    /// Waits until Stripe shows what was used before the boundary; false where the operation ended instead.
    async fn drain(&self, operation: &Operation) -> Result<bool> {
        let mut why = "Stripe does not show all usage from before it yet".to_owned();
        loop {
            if self.shutdown.is_cancelled() {
                return Err(Error::ShuttingDown);
            }
            match self.look_at_drain(operation).await {
                Ok(Drained::Shown(since, shown)) => {
                    let now = self.clock.now();
                    let begun = self
                        .store
                        .begin_changing(operation, since, &shown, now)
                        .await?;
                    match begun {
                        Some(true) => return Ok(true),
                        Some(false) => "usage from before it came late".clone_into(&mut why),
                        None => return Ok(false),
                    }
                }
                Ok(Drained::Undecided(reports)) => {
                    let why = format!("an admin has to decide on {reports} reports first");
                    self.undo(operation, Step::Undone, &why).await?;
                    return Ok(false);
                }
                Ok(Drained::NotYet(outstanding)) => {
                    if outstanding.open > 0 {
                        self.store.close_late(operation).await?;
                        self.closed.notify_one();
                    }
                    if outstanding.waiting > 0 {
                        why = format!("{} reports are not at Stripe yet", outstanding.waiting);
                    }
                }
                Err(error) => why = error.to_string(),
            }
            let now = self.clock.now();
            if now >= operation.deadline_at {
                self.undo(operation, Step::Undone, &why).await?;
                return Ok(false);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look_at_drain(
        &self,
        operation: &Operation,
    ) -> std::result::Result<Drained, FollowError> {
        let meters = self.meters().await?;
        let found = self
            .stripe
            .find_subscription(&operation.subscription)
            .await?;
        match found {
            Some(found) => self.drained(operation, &facts(&found, &meters)).await,
            None => Ok(Drained::Shown(operation.boundary_at, Vec::new())),
        }
    }

    /// Tells Stripe, and asks it what became of that where its answer is lost.
    async fn tell(&self, operation: &Operation, wanted: &Wanted) -> Result<()> {
        // Stripe counts in seconds: the change must not fall into the second of what was sent before it, and a
        // window that began within a second is sent with the next.
        let later = operation
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
            match self.tell_once(operation, wanted, attempt).await {
                Ok(changed) => return self.finish_with(operation, &changed).await,
                // A key that Stripe does not take says nothing of an earlier request either.
                Err(Failure::Unanswered(why) | Failure::Denied(why)) => {
                    tracing::warn!(operation = %operation.id, why, "Stripe did not say whether it changed the subscription");
                }
                Err(failure) => {
                    return self.undo(operation, Step::Refused, failure.message()).await;
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
        operation: &Operation,
        wanted: &Wanted,
        attempt: u32,
    ) -> std::result::Result<Subscription, Failure> {
        let gone = || Failure::Refused("Stripe does not have the subscription".to_owned());
        let found = self
            .stripe
            .find_subscription(&operation.subscription)
            .await?;
        let found = found.ok_or_else(gone)?;
        let id = operation.id.to_string();
        let key = format!("change-{id}-{}-{attempt}", self.clock.now());
        let answer = match wanted {
            Wanted::Prices(_) if found.operation.as_deref() == Some(&id) => return Ok(found),
            _ if !found.is_live() => {
                return match wanted {
                    Wanted::Prices(_) => Err(Failure::Refused(
                        "the subscription ended in between".to_owned(),
                    )),
                    _ => Ok(found),
                };
            }
            Wanted::Prices(prices) => self.move_to(&found, prices, &id, &key).await,
            Wanted::CancelNow {
                invoice_now,
                prorate,
            } => {
                let how = CancelNow {
                    invoice_now: *invoice_now,
                    prorate: *prorate,
                };
                self.stripe.cancel_now(&found.id, how, &key).await
            }
            Wanted::CancelAtPeriodEnd => Ok(found),
        };
        match answer {
            Ok(changed) => Ok(changed),
            Err(Failure::Unanswered(why)) => Err(Failure::Unanswered(why)),
            // A refusal may be about a second request, after the first one's answer was lost.
            Err(refused) => {
                let now = self
                    .stripe
                    .find_subscription(&operation.subscription)
                    .await?;
                now.filter(|now| match wanted {
                    Wanted::Prices(_) => now.operation.as_deref() == Some(&id),
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
        operation: &str,
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
            .change_items(&found.id, &removed, &added, operation, key)
            .await
    }

    async fn finish_with(&self, operation: &Operation, changed: &Subscription) -> Result<()> {
        let meters = self.meters().await.map_err(FollowError::from)?;
        let facts = facts(changed, &meters);
        self.store
            .finish_operation(operation, &facts, self.options.slots, self.clock.now())
            .await?;
        self.closed.notify_one();
        tracing::info!(operation = %operation.id, kind = %operation.kind, "the subscription was changed");
        Ok(())
    }

    async fn undo(&self, operation: &Operation, step: Step, why: &str) -> Result<()> {
        tracing::warn!(operation = %operation.id, why, "the subscription is left as it was");
        self.store
            .undo_operation(operation, (step, why), self.options.slots, self.clock.now())
            .await?;
        self.closed.notify_one();
        Ok(())
    }
}
