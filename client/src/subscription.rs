//! Subscriptions of accounts, and changes of them.

use crate::{
    Account, Error, Period, proto,
    wire::{self, non_empty},
};
use chrono::{DateTime, Utc};
use proto::cancel_subscription_request::When;

/// An account's Stripe subscription as last read from Stripe.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subscription {
    /// The subscription's id, `sub_...`.
    pub id: String,
    /// Stripe's `status`, such as `active` or `canceled`.
    pub status: String,
    /// Stripe's `billing_mode`: `flexible` or `classic`.
    pub billing_mode: String,
    /// The known billing periods of its metered items, newest first.
    pub periods: Vec<BillingPeriod>,
    /// When it is scheduled to end.
    pub cancel_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// When it was last read from Stripe.
    pub synced_at: Option<DateTime<Utc>>,
}

/// One billing period of one metered subscription item.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BillingPeriod {
    /// The subscription item's id, `si_...`.
    pub item: String,
    /// The price's id, `price_...`.
    pub price: String,
    /// The meter that the price charges for.
    pub meter: String,
    /// The start and end of the billing period.
    pub period: Period,
    /// The invoice's id, if there is one.
    pub invoice: Option<String>,
    /// The state of its invoice.
    pub invoice_state: InvoiceState,
}

/// The state of a billing period's invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvoiceState {
    /// It does not exist yet or was not read from Stripe yet.
    Unknown,
    /// It still takes usage of its billing period.
    Draft,
    /// It no longer changes.
    Final,
    /// A state that this version of the client does not know, by its number.
    Unrecognised(i32),
}

/// A change of a subscription that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionChange {
    /// The change's id, a UUIDv7.
    pub id: String,
    /// The subscription's id, `sub_...`.
    pub subscription: String,
    /// Usage before this time is charged as before the change, usage from it on as after the change.
    pub boundary: DateTime<Utc>,
    /// When the change ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Who first requested it.
    pub requested_by: String,
}

/// The result of changing a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changed {
    /// The change; none if nothing had to change, or for a cancellation at the end of the period.
    pub change: Option<SubscriptionChange>,
    /// The account after the call.
    pub account: Account,
}

/// Switches an account's subscription to other volume-tiered prices, immediately.
///
/// ```
/// use usage_client::ChangePlan;
///
/// let change = ChangePlan::new("acct_42", "price_1MoBy5").requested_by("billing-admin");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing changes until it is sent"]
pub struct ChangePlan {
    account_id: String,
    prices: Vec<String>,
    requested_by: String,
}

impl ChangePlan {
    /// Switches to this price, which replaces the item of the same meter.
    pub fn new(account_id: impl Into<String>, price: impl Into<String>) -> Self {
        Self {
            account_id: account_id.into(),
            prices: vec![price.into()],
            requested_by: String::new(),
        }
    }

    /// Also switches to this price of another meter.
    pub fn price(mut self, price: impl Into<String>) -> Self {
        self.prices.push(price.into());
        self
    }

    /// Who requests the change, kept for the record; at most 128 characters.
    pub fn requested_by(mut self, requested_by: impl Into<String>) -> Self {
        self.requested_by = requested_by.into();
        self
    }

    pub(crate) fn into_wire(self) -> proto::ChangePlanRequest {
        proto::ChangePlanRequest {
            account_id: self.account_id,
            prices: self.prices,
            requested_by: self.requested_by,
        }
    }
}

/// Cancels an account's subscription, immediately or at the end of its billing period.
///
/// ```
/// use usage_client::CancelSubscription;
///
/// let now = CancelSubscription::now("acct_42").prorate(true);
/// let later = CancelSubscription::at_period_end("acct_43");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing changes until it is sent"]
pub struct CancelSubscription {
    account_id: String,
    when: When,
    requested_by: String,
}

impl CancelSubscription {
    /// Cancels immediately. Usage that was not invoiced yet goes on a final invoice.
    pub fn now(account_id: impl Into<String>) -> Self {
        Self {
            account_id: account_id.into(),
            when: When::Now(proto::CancelNow::default()),
            requested_by: String::new(),
        }
    }

    /// Cancels at the end of the current billing period. Usage until then is billed as usual.
    pub fn at_period_end(account_id: impl Into<String>) -> Self {
        Self {
            when: When::AtPeriodEnd(proto::CancelAtPeriodEnd {}),
            ..Self::now(account_id)
        }
    }

    /// Whether usage that was not invoiced yet goes on a final invoice; true by default. False is rejected if there is
    /// such usage. Only for an immediate cancellation.
    pub fn invoice_now(mut self, invoice_now: bool) -> Self {
        if let When::Now(now) = &mut self.when {
            now.invoice_now = Some(invoice_now);
        }
        self
    }

    /// Whether items that were paid in advance, such as seats, are credited for the remaining time. Only for an immediate
    /// cancellation.
    pub fn prorate(mut self, prorate: bool) -> Self {
        if let When::Now(now) = &mut self.when {
            now.prorate = prorate;
        }
        self
    }

    /// Who requests the change, kept for the record; at most 128 characters.
    pub fn requested_by(mut self, requested_by: impl Into<String>) -> Self {
        self.requested_by = requested_by.into();
        self
    }

    pub(crate) fn into_wire(self) -> proto::CancelSubscriptionRequest {
        proto::CancelSubscriptionRequest {
            account_id: self.account_id,
            when: Some(self.when),
            requested_by: self.requested_by,
        }
    }
}

/// Aborts the change of an account's subscription that is in progress: one that waits, or is stuck.
///
/// ```
/// use usage_client::AbortSubscriptionChange;
///
/// let abort = AbortSubscriptionChange::new("acct_42").requested_by("billing-admin");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is aborted until it is sent"]
pub struct AbortSubscriptionChange {
    account_id: String,
    requested_by: String,
}

impl AbortSubscriptionChange {
    /// Aborts the change of this account's subscription.
    pub fn new(account_id: impl Into<String>) -> Self {
        Self {
            account_id: account_id.into(),
            requested_by: String::new(),
        }
    }

    /// Who aborts it, kept for the record; at most 128 characters.
    pub fn requested_by(mut self, requested_by: impl Into<String>) -> Self {
        self.requested_by = requested_by.into();
        self
    }

    pub(crate) fn into_wire(self) -> proto::AbortSubscriptionChangeRequest {
        proto::AbortSubscriptionChangeRequest {
            account_id: self.account_id,
            requested_by: self.requested_by,
        }
    }
}

impl Subscription {
    pub(crate) fn from_wire(wire: proto::Subscription) -> Result<Self, Error> {
        let periods = wire.periods.into_iter().map(BillingPeriod::from_wire);
        Ok(Self {
            id: wire.subscription,
            status: wire.status,
            billing_mode: wire.billing_mode,
            periods: periods.collect::<Result<_, _>>()?,
            cancel_at: wire::optional_time(wire.cancel_at, "subscription.cancel_at")?,
            ended_at: wire::optional_time(wire.ended_at, "subscription.ended_at")?,
            synced_at: wire::optional_time(wire.synced_at, "subscription.synced_at")?,
        })
    }
}

impl BillingPeriod {
    fn from_wire(wire: proto::BillingPeriod) -> Result<Self, Error> {
        Ok(Self {
            invoice_state: match wire.invoice_state() {
                _ if proto::InvoiceState::try_from(wire.invoice_state).is_err() => {
                    InvoiceState::Unrecognised(wire.invoice_state)
                }
                proto::InvoiceState::Unspecified => InvoiceState::Unknown,
                proto::InvoiceState::Draft => InvoiceState::Draft,
                proto::InvoiceState::Final => InvoiceState::Final,
            },
            item: wire.item,
            price: wire.price,
            meter: wire.meter,
            period: wire::required_period(wire.period, "subscription.periods.period")?,
            invoice: non_empty(wire.invoice),
        })
    }
}

impl Changed {
    pub(crate) fn from_wire(
        change: Option<proto::SubscriptionChange>,
        account: Option<proto::Account>,
    ) -> Result<Self, Error> {
        let change = change.map(|change| {
            Ok::<_, Error>(SubscriptionChange {
                id: change.id,
                subscription: change.subscription,
                boundary: wire::required_time(change.boundary, "change.boundary")?,
                finished_at: wire::optional_time(change.finished_at, "change.finished_at")?,
                requested_by: change.requested_by,
            })
        });
        Ok(Self {
            change: change.transpose()?,
            account: Account::from_wire(account)?,
        })
    }
}
