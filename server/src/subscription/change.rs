//! Changing: another plan, or an end. Usage is at Stripe before its subscription changes, or nothing changes.
//!
//! An operation is a row that goes `draining` -> `changing` -> `done`, or `undone` from either. Each step is
//! recorded before it is taken, so whoever takes it up after a crash knows what may have happened.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{Subscriptions, drain::Drained, facts, follow::FollowError};
use crate::{
    error::{Error, Result},
    store::{
        close::Scope,
        operations::{NewOperation, Operation, OperationKind, Step},
    },
    stripe::{
        Failure,
        subscriptions::{CancelNow, Subscription},
    },
    usage::{Millis, SECOND_MS, account::Billing, refusal::Refusal, subscription::Facts},
};

/// How often somebody who waits looks.
const LOOK: Duration = Duration::from_millis(200);
/// The longest pause between two tries to tell Stripe.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How many tries one replica makes to tell Stripe before it leaves the rest to whoever takes it up.
const TELL_TRIES: u32 = 20;
/// How long a caller waits beyond the draining.
const TELL_WAIT_MS: Millis = 60 * SECOND_MS;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// These prices from now on.
    Prices(Vec<String>),
    /// An end now.
    CancelNow {
        /// Whether usage goes on a last invoice.
        invoice_now: bool,
        /// Whether what was paid ahead is credited.
        prorate: bool,
    },
    /// An end with the present period.
    CancelAtPeriodEnd,
}

impl Wanted {
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

    fn decode(text: &str) -> Option<Self> {
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

impl From<FollowError> for Error {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::Stripe(failure) => Self::StripeUnavailable(failure.message().to_owned()),
            FollowError::Store(error) => error,
        }
    }
}

impl Subscriptions {
    /// Does to an account's subscription what is wanted; answers the operation, if one was needed.
    pub(crate) async fn change(
        self: &Arc<Self>,
        account_id: &str,
        wanted: Wanted,
        requested_by: String,
    ) -> Result<Option<Operation>> {
        if let Some(under_way) = self.store.find_operation(account_id).await? {
            return self.join(under_way, &wanted).await.map(Some);
        }
        let account = self
            .store
            .find_account(account_id)
            .await?
            .ok_or_else(|| Error::AccountNotFound(account_id.to_owned()))?;
        let cancels = !matches!(wanted, Wanted::Prices(_));
        if cancels && matches!(account.link.billing, Billing::Ended { .. }) {
            return Ok(self.store.last_operation(account_id).await?);
        }
        let (found, now_facts) = self.living(account_id, &account.link.billing).await?;
        if wanted == Wanted::CancelAtPeriodEnd {
            self.cancel_at_period_end(account_id, &found).await?;
            return Ok(None);
        }
        let kind = match &wanted {
            Wanted::Prices(prices) => {
                if self.check_prices(&found, &now_facts, prices).await? {
                    return Ok(None);
                }
                OperationKind::ChangePlan
            }
            _ => OperationKind::Cancel,
        };
        self.check_usage(account_id, &now_facts, &wanted).await?;
        let new = NewOperation {
            account_id: account_id.to_owned(),
            kind,
            request: wanted.encode(),
            requested_by,
            subscription: found.id.clone(),
            holder: self.replica.clone(),
            wait_ms: self.options.change_wait_ms,
        };
        let begun = self
            .store
            .begin_operation(&new, self.options.slots, || self.clock.now())
            .await?;
        let scope = Scope::Accounts(vec![account_id.to_owned()]);
        self.store.hurry(&scope, self.clock.now()).await?;
        self.closed.notify_one();
        if begun.holder == self.replica {
            self.spawn(begun.clone());
        }
        self.join(begun, &wanted).await.map(Some)
    }

    /// The subscription that an account follows, while it lives.
    async fn living(&self, account_id: &str, billing: &Billing) -> Result<(Subscription, Facts)> {
        let unfit = |why: &str| Error::SubscriptionUnfit(format!("account {account_id:?} {why}"));
        let facts = self
            .look_up(billing)
            .await?
            .filter(|facts| facts.is_live)
            .ok_or_else(|| {
                unfit("follows no living subscription that bills for a configured meter")
            })?;
        let found = self
            .stripe
            .find_subscription(&facts.subscription)
            .await
            .map_err(FollowError::from)?
            .ok_or_else(|| unfit("follows a subscription that Stripe does not have"))?;
        self.apply(account_id, &facts).await?;
        Ok((found, facts))
    }

    /// Checks that Stripe can move the subscription to these prices; whether it has them already.
    async fn check_prices(
        &self,
        found: &Subscription,
        now_facts: &Facts,
        prices: &[String],
    ) -> Result<bool> {
        let unfit = |why: String| Err(Error::SubscriptionUnfit(why));
        if now_facts.billing_mode != "flexible" {
            return unfit(format!(
                "subscription {} is in the billing mode {:?}, in which Stripe does not bill the usage of an item that is removed; migrate it to `flexible` first",
                found.id, now_facts.billing_mode
            ));
        }
        let meters = self.meters().await.map_err(FollowError::from)?;
        let currency = found.items.first().map(|item| item.price.currency.clone());
        let mut of_meters = HashSet::new();
        for id in prices {
            let price = self
                .stripe
                .find_price(id)
                .await
                .map_err(FollowError::from)?;
            let Some(price) = price else {
                let text = format!("price {id:?} does not exist at Stripe");
                return Err(Refusal::invalid("prices", text).into());
            };
            let Some(meter) = price.meter.as_ref().and_then(|meter| meters.get(meter)) else {
                return unfit(format!(
                    "price {id} is not of a configured meter; change licensed items at Stripe"
                ));
            };
            if !price.is_active {
                return unfit(format!("price {id} is archived"));
            }
            if !price.is_volume {
                return unfit(format!(
                    "price {id} is not volume-tiered; every price of a plan family must be"
                ));
            }
            if currency
                .as_ref()
                .is_some_and(|currency| *currency != price.currency)
            {
                return unfit(format!(
                    "price {id} is in {}, the subscription is not",
                    price.currency
                ));
            }
            if !of_meters.insert(meter.clone()) {
                return unfit(format!("two of the prices are of the meter {meter:?}"));
            }
        }
        let replaced: Vec<_> = found
            .items
            .iter()
            .filter(|item| {
                let meter = item
                    .price
                    .meter
                    .as_ref()
                    .and_then(|meter| meters.get(meter));
                meter.is_some_and(|meter| of_meters.contains(meter))
            })
            .collect();
        if let Some(item) = replaced.iter().find(|item| !item.price.is_volume) {
            return unfit(format!(
                "item {} of subscription {} has the price {}, which is not volume-tiered: Stripe cannot move a subscription from there to a volume price",
                item.id, found.id, item.price.id
            ));
        }
        let has: HashSet<&str> = replaced.iter().map(|item| item.price.id.as_str()).collect();
        let wanted: HashSet<&str> = prices.iter().map(String::as_str).collect();
        Ok(has == wanted && replaced.len() == prices.len())
    }

    /// Refuses what would lose usage.
    async fn check_usage(&self, account_id: &str, facts: &Facts, wanted: &Wanted) -> Result<()> {
        let now = self.clock.now();
        let since = self.charging_since(facts, now);
        let until_now = now.saturating_add(1);
        let outstanding = self.store.outstanding(account_id, since, until_now).await?;
        if outstanding.undecided > 0 {
            return Err(Error::UsageUndecided {
                account_id: account_id.to_owned(),
                reports: outstanding.undecided,
            });
        }
        let discards = matches!(wanted, Wanted::CancelNow { invoice_now, .. } if !invoice_now);
        if discards && self.store.has_billable_usage(account_id, since).await? {
            return Err(Error::SubscriptionUnfit(format!(
                "account {account_id:?} has usage in its present period that is not charged yet, which Stripe throws away without invoice_now; leave invoice_now out, or cancel at the period's end"
            )));
        }
        Ok(())
    }

    async fn cancel_at_period_end(&self, account_id: &str, found: &Subscription) -> Result<()> {
        let key = format!("cancel-at-end-{}-{}", found.id, self.clock.now());
        let changed = self
            .stripe
            .cancel_at_period_end(&found.id, &key)
            .await
            .map_err(|failure| refused_or_unavailable(&failure))?;
        let meters = self.meters().await.map_err(FollowError::from)?;
        self.apply(account_id, &facts(&changed, &meters)).await?;
        Ok(())
    }

    /// Waits for an operation that is under way, where it is the one that is wanted.
    async fn join(&self, operation: Operation, wanted: &Wanted) -> Result<Operation> {
        if operation.request != wanted.encode() {
            return Err(Error::ChangeUnderWay(operation.account_id));
        }
        let until = self
            .clock
            .now()
            .saturating_add(self.options.change_wait_ms)
            .saturating_add(TELL_WAIT_MS);
        loop {
            let seen = self
                .store
                .get_operation(&operation.account_id, operation.id)
                .await?;
            if seen.step == Step::Done.name() {
                return Ok(seen);
            }
            let why = || seen.error.clone().unwrap_or_default();
            if seen.step == Step::Refused.name() {
                return Err(Error::SubscriptionUnfit(why()));
            }
            if seen.step == Step::Undone.name() {
                return Err(Error::ChangeTimedOut(why()));
            }
            if self.clock.now() >= until {
                let why = "the change goes on; ask again";
                return Err(Error::StripeUnavailable(why.to_owned()));
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.shutdown.cancelled() => return Err(Error::ShuttingDown),
            }
        }
    }

    /// Takes up an operation that nobody works on any more.
    pub(super) async fn take_up(self: &Arc<Self>, mut operation: Operation) -> Result<()> {
        let now = self.clock.now();
        if self
            .store
            .hold_operation(&operation, &self.replica, now)
            .await?
        {
            tracing::warn!(operation = %operation.id, step = %operation.step, "a change that was left unfinished is taken up");
            operation.holder.clone_from(&self.replica);
            self.spawn(operation);
        }
        Ok(())
    }

    fn spawn(self: &Arc<Self>, operation: Operation) {
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Err(error) = this.run(&operation).await {
                tracing::warn!(operation = %operation.id, %error, "a change stopped; it is taken up again");
            }
        });
    }

    async fn run(&self, operation: &Operation) -> Result<()> {
        let Some(wanted) = Wanted::decode(&operation.request) else {
            return self
                .undo(operation, Step::Undone, "what was asked for cannot be read")
                .await;
        };
        if operation.step == Step::Draining.name() && !self.drain(operation).await? {
            return Ok(());
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
                Ok(Drained::Shown) => break,
                Ok(Drained::Undecided(reports)) => {
                    let why = format!("an admin has to decide on {reports} reports first");
                    self.undo(operation, Step::Undone, &why).await?;
                    return Ok(false);
                }
                Ok(Drained::NotYet(outstanding)) => {
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
            if !self
                .store
                .hold_operation(operation, &self.replica, now)
                .await?
            {
                return Ok(false);
            }
            tokio::time::sleep(LOOK).await;
        }
        self.store.begin_changing(operation, self.clock.now()).await
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
            None => Ok(Drained::Shown),
        }
    }

    /// Tells Stripe, and asks it what became of that where its answer is lost.
    async fn tell(&self, operation: &Operation, wanted: &Wanted) -> Result<()> {
        // Stripe counts in seconds: the change must not fall into the second of what was sent before it.
        let next_second = operation
            .boundary_at
            .div_euclid(SECOND_MS)
            .saturating_add(1)
            .saturating_mul(SECOND_MS);
        while self.clock.now() < next_second && !self.shutdown.is_cancelled() {
            tokio::time::sleep(LOOK).await;
        }
        let mut pause = LOOK;
        for attempt in 0..TELL_TRIES {
            if self.shutdown.is_cancelled() {
                return Err(Error::ShuttingDown);
            }
            match self.tell_once(operation, wanted, attempt).await {
                Ok(changed) => return self.finish_with(operation, &changed).await,
                Err(Failure::Unanswered(why)) => {
                    tracing::warn!(operation = %operation.id, why, "Stripe did not say whether it changed the subscription");
                }
                Err(failure) => {
                    return self.undo(operation, Step::Refused, failure.message()).await;
                }
            }
            let now = self.clock.now();
            if !self
                .store
                .hold_operation(operation, &self.replica, now)
                .await?
            {
                return Ok(());
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
            Wanted::Prices(prices) => {
                let meters = self.meters().await?;
                let mut removed = Vec::new();
                let mut added = Vec::new();
                for price in prices {
                    let of = self.stripe.find_price(price).await?;
                    let meter = of.and_then(|of| of.meter);
                    removed.extend(
                        found
                            .items
                            .iter()
                            .filter(|item| item.price.meter == meter && item.price.id != *price)
                            .filter(|item| {
                                item.price
                                    .meter
                                    .as_ref()
                                    .is_some_and(|meter| meters.contains_key(meter))
                            })
                            .map(|item| item.id.clone()),
                    );
                    if found.items.iter().all(|item| item.price.id != *price) {
                        added.push(price.clone());
                    }
                }
                self.stripe
                    .change_items(&found.id, &removed, &added, &id, &key)
                    .await
            }
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

fn refused_or_unavailable(failure: &Failure) -> Error {
    match failure {
        Failure::Unanswered(why) => Error::StripeUnavailable(why.clone()),
        other => Error::SubscriptionUnfit(other.message().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_survives_a_crash() {
        for wanted in [
            Wanted::Prices(vec!["price_1".to_owned(), "price_2".to_owned()]),
            Wanted::CancelNow {
                invoice_now: true,
                prorate: false,
            },
        ] {
            assert_eq!(Wanted::decode(&wanted.encode()), Some(wanted));
        }
        assert_eq!(Wanted::decode("{}"), None);
    }
}
