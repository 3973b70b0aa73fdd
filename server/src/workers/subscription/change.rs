//! Changing: another plan, or an end. Usage is at Stripe before its subscription changes, or nothing changes.
//!
//! An change is a row that goes `drain` -> `changing` -> `done`, or `undone` from either. Each step is
//! recorded before it is taken, so whoever takes it up after a crash knows what may have happened.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Subscriptions, snapshot, sync::SyncError};
use crate::{
    domain::{Millis, SECOND_MS, account::Billing},
    error::{Error, Result},
    store::{
        close::Scope,
        subscription_changes::{ChangeKind, NewChange, Step, SubscriptionChange},
    },
    stripe::{Failure, subscriptions::Subscription},
};

/// How often somebody who waits looks.
const LOOK: Duration = Duration::from_millis(200);
/// How long a caller waits beyond the drain.
const TELL_WAIT_MS: Millis = 60 * SECOND_MS;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestedChange {
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

impl From<SyncError> for Error {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Stripe(failure) => Self::StripeUnavailable(failure.message().to_owned()),
            SyncError::Store(error) => error,
        }
    }
}

impl Subscriptions {
    /// Does to an account's subscription what is wanted; answers the change, if one was needed.
    pub(crate) async fn change(
        self: &Arc<Self>,
        account_id: &str,
        wanted: RequestedChange,
        requested_by: String,
    ) -> Result<Option<SubscriptionChange>> {
        if let Some(under_way) = self.store.find_change(account_id).await? {
            return self.join(under_way, &wanted).await.map(Some);
        }
        let account = self
            .store
            .find_account(account_id)
            .await?
            .ok_or_else(|| Error::AccountNotFound(account_id.to_owned()))?;
        let cancels = !matches!(wanted, RequestedChange::Prices(_));
        if cancels && matches!(account.link.billing, Billing::Ended { .. }) {
            return self.store.last_change(account_id).await;
        }
        let (found, live_snapshot) = self.live(account_id, &account.link.billing).await?;
        if wanted == RequestedChange::CancelAtPeriodEnd {
            self.cancel_at_period_end(account_id, &found).await?;
            return Ok(None);
        }
        let kind = match &wanted {
            RequestedChange::Prices(prices) => {
                if self.check_prices(&found, &live_snapshot, prices).await? {
                    return Ok(None);
                }
                ChangeKind::ChangePlan
            }
            _ => ChangeKind::Cancel,
        };
        self.check_usage(account_id, &live_snapshot, &wanted)
            .await?;
        let new = NewChange {
            account_id: account_id.to_owned(),
            kind,
            request: wanted.encode(),
            requested_by,
            subscription: found.id.clone(),
            holder: self.worker(),
            wait_ms: self.options.change_wait_ms,
        };
        let (begun, is_new) = self
            .store
            .begin_change(&new, self.options.slots, || self.clock.now())
            .await?;
        let scope = Scope::Accounts(vec![account_id.to_owned()]);
        self.store.retry_now(&scope, self.clock.now()).await?;
        self.closed.notify_one();
        if is_new {
            self.spawn(begun.clone());
        }
        self.join(begun, &wanted).await.map(Some)
    }

    async fn cancel_at_period_end(&self, account_id: &str, found: &Subscription) -> Result<()> {
        let key = format!("cancel-at-end-{}-{}", found.id, self.clock.now());
        let changed = self
            .stripe
            .cancel_at_period_end(&found.id, &key)
            .await
            .map_err(|failure| refused_or_unavailable(&failure))?;
        let meters = self.meters().await.map_err(SyncError::from)?;
        self.apply(account_id, &snapshot(&changed, &meters)).await?;
        Ok(())
    }

    /// Waits for an change that is under way, where it is the one that is wanted.
    async fn join(
        &self,
        change: SubscriptionChange,
        wanted: &RequestedChange,
    ) -> Result<SubscriptionChange> {
        if change.request != wanted.encode() {
            return Err(Error::ChangeUnderWay(change.account_id));
        }
        let until = self
            .clock
            .now()
            .saturating_add(self.options.change_wait_ms)
            .saturating_add(TELL_WAIT_MS);
        loop {
            let seen = self.store.get_change(&change.account_id, change.id).await?;
            if seen.step == Step::Done.name() {
                return Ok(seen);
            }
            let why = || seen.error.clone().unwrap_or_default();
            if seen.step == Step::Refused.name() {
                return Err(Error::SubscriptionNotChangeable(why()));
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

    /// Takes up an change that nobody works on any more.
    pub(super) async fn take_up(self: &Arc<Self>, mut change: SubscriptionChange) -> Result<()> {
        let (now, worker) = (self.clock.now(), self.worker());
        if self.store.hold_change(&change, &worker, now).await? {
            tracing::warn!(change = %change.id, step = %change.step, "a change that was left unfinished is taken up");
            change.holder = worker;
            self.spawn(change);
        }
        Ok(())
    }

    /// A name for one who works on an change: on this replica there may be another, who stood still.
    fn worker(&self) -> String {
        format!("{}/{}", self.replica, Uuid::now_v7())
    }

    fn spawn(self: &Arc<Self>, change: SubscriptionChange) {
        let this = Arc::clone(self);
        let id = change.id;
        self.tasks.spawn(async move {
            if let Err(error) = this.run(change).await {
                tracing::warn!(change = %id, %error, "a change stopped; it is taken up again");
            }
        });
    }
}

fn refused_or_unavailable(failure: &Failure) -> Error {
    match failure {
        Failure::Unanswered(why) => Error::StripeUnavailable(why.clone()),
        other => Error::SubscriptionNotChangeable(other.message().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_survives_a_crash() {
        for wanted in [
            RequestedChange::Prices(vec!["price_1".to_owned(), "price_2".to_owned()]),
            RequestedChange::CancelNow {
                invoice_now: true,
                prorate: false,
            },
        ] {
            assert_eq!(RequestedChange::decode(&wanted.encode()), Some(wanted));
        }
        assert_eq!(RequestedChange::decode("{}"), None);
    }
}
