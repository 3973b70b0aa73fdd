//! Changing: another plan, or an end. Usage is at Stripe before its subscription changes, or nothing changes.
//!
//! An operation is a row that goes `draining` -> `changing` -> `done`, or `undone` from either. Each step is
//! recorded before it is taken, so whoever takes it up after a crash knows what may have happened.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Subscriptions, facts, follow::FollowError};
use crate::{
    error::{Error, Result},
    store::{
        close::Scope,
        operations::{NewOperation, Operation, OperationKind, Step},
    },
    stripe::{Failure, subscriptions::Subscription},
    usage::{Millis, SECOND_MS, account::Billing},
};

/// How often somebody who waits looks.
const LOOK: Duration = Duration::from_millis(200);
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
            return self.store.last_operation(account_id).await;
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
            holder: self.worker(),
            wait_ms: self.options.change_wait_ms,
        };
        let (begun, is_new) = self
            .store
            .begin_operation(&new, self.options.slots, || self.clock.now())
            .await?;
        let scope = Scope::Accounts(vec![account_id.to_owned()]);
        self.store.hurry(&scope, self.clock.now()).await?;
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
        let (now, worker) = (self.clock.now(), self.worker());
        if self.store.hold_operation(&operation, &worker, now).await? {
            tracing::warn!(operation = %operation.id, step = %operation.step, "a change that was left unfinished is taken up");
            operation.holder = worker;
            self.spawn(operation);
        }
        Ok(())
    }

    /// A name for one who works on an operation: on this replica there may be another, who stood still.
    fn worker(&self) -> String {
        format!("{}/{}", self.replica, Uuid::now_v7())
    }

    fn spawn(self: &Arc<Self>, operation: Operation) {
        let this = Arc::clone(self);
        let id = operation.id;
        self.tasks.spawn(async move {
            if let Err(error) = this.run(operation).await {
                tracing::warn!(operation = %id, %error, "a change stopped; it is taken up again");
            }
        });
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
