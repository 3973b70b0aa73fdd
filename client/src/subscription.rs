//! Subscriptions: what Stripe says of an account's, and how it is changed.

use crate::{
    Account, Error, Period, proto,
    wire::{self, non_empty},
};
use chrono::{DateTime, Utc};
use proto::cancel_subscription_request::When;

/// What Stripe last said of the subscription that an account follows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subscription {
    /// `sub_...`
    pub id: String,
    /// As Stripe names it, such as `active` or `canceled`.
    pub status: String,
    /// `flexible` or `classic`.
    pub billing_mode: String,
    /// The billing periods that are known, the latest first.
    pub periods: Vec<BillingPeriod>,
    /// When it is known to end.
    pub cancel_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// When Stripe was last asked.
    pub synced_at: Option<DateTime<Utc>>,
}

/// What a subscription's item charges for in one billing period.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BillingPeriod {
    /// The subscription item, `si_...`.
    pub item: String,
    /// The price, `price_...`.
    pub price: String,
    /// What is charged for.
    pub meter: String,
    /// From when until when.
    pub period: Period,
    /// The invoice, where there is one.
    pub invoice: Option<String>,
    /// Where the invoice is.
    pub invoice_state: InvoiceState,
}

/// Where the invoice of a billing period is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvoiceState {
    /// It does not exist, or nobody has seen it.
    Unknown,
    /// Usage of its period still joins it.
    Draft,
    /// It never changes any more.
    Final,
    /// A state that this version of the client does not know, by its number.
    Unrecognised(i32),
}

/// A change of a subscription that was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionChange {
    /// A UUID of version 7.
    pub id: String,
    /// The subscription, `sub_...`.
    pub subscription: String,
    /// Usage before it is charged the old way, usage from it on the new way.
    pub boundary: DateTime<Utc>,
    /// When it was done.
    pub finished_at: Option<DateTime<Utc>>,
    /// Who asked for it first.
    pub requested_by: String,
}

/// What came of changing a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changed {
    /// The change; none where nothing had to be changed, or where it waits for the period's end.
    pub change: Option<SubscriptionChange>,
    /// The account as it is now.
    pub account: Account,
}

/// Moves an account's subscription to other volume-tiered prices, now.
///
/// ```
/// use usage_client::ChangePlan;
///
/// let change = ChangePlan::new("acct_42", "price_1MoBy5").requested_by("billing-admin");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing changes before it is sent"]
pub struct ChangePlan {
    account_id: String,
    prices: Vec<String>,
    requested_by: String,
}

impl ChangePlan {
    /// To this price; the item of the same meter is removed.
    pub fn new(account_id: impl Into<String>, price: impl Into<String>) -> Self {
        Self {
            account_id: account_id.into(),
            prices: vec![price.into()],
            requested_by: String::new(),
        }
    }

    /// And to this price of another meter.
    pub fn price(mut self, price: impl Into<String>) -> Self {
        self.prices.push(price.into());
        self
    }

    /// Who asks, for the record.
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

/// Cancels an account's subscription, now or at the end of its period.
///
/// ```
/// use usage_client::CancelSubscription;
///
/// let now = CancelSubscription::now("acct_42").prorate(true);
/// let later = CancelSubscription::at_period_end("acct_43");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing changes before it is sent"]
pub struct CancelSubscription {
    account_id: String,
    when: When,
    requested_by: String,
}

impl CancelSubscription {
    /// At once; usage that is not charged yet goes on a last invoice.
    pub fn now(account_id: impl Into<String>) -> Self {
        Self {
            account_id: account_id.into(),
            when: When::Now(proto::CancelNow::default()),
            requested_by: String::new(),
        }
    }

    /// With the present period; usage until then is billed as ever.
    pub fn at_period_end(account_id: impl Into<String>) -> Self {
        Self {
            when: When::AtPeriodEnd(proto::CancelAtPeriodEnd {}),
            ..Self::now(account_id)
        }
    }

    /// Whether usage that is not charged yet goes on a last invoice: it does unless this says no, which is
    /// refused where there is such usage. Only for an end at once.
    pub fn invoice_now(mut self, invoice_now: bool) -> Self {
        if let When::Now(now) = &mut self.when {
            now.invoice_now = Some(invoice_now);
        }
        self
    }

    /// Whether what was paid ahead, such as seats, is credited. Only for an end at once.
    pub fn prorate(mut self, prorate: bool) -> Self {
        if let When::Now(now) = &mut self.when {
            now.prorate = prorate;
        }
        self
    }

    /// Who asks, for the record.
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
