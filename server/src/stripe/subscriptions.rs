//! Subscriptions at Stripe: read as plain snapshot, and changed.

use std::collections::HashMap;

use stripe::{IdempotencyKey, RequestStrategy, StripeRequest as _};
use stripe_billing::subscription::{
    CancelSubscription, ListSubscription, ListSubscriptionStatus, RetrieveSubscription,
    UpdateSubscription, UpdateSubscriptionItems, UpdateSubscriptionProrationBehavior,
};
use stripe_core::customer::{RetrieveCustomer, RetrieveCustomerReturned};
use stripe_product::price::RetrievePrice;

use super::{Failure, Stripe, failure, is_missing, seconds, timed};
use crate::domain::{Millis, window::Interval};

/// Subscriptions on one page: the most that Stripe gives.
const PAGE: i64 = 100;
/// The metadata key that says which change changed a subscription last.
const CHANGE_KEY: &str = "usage_billing_change";

/// What is asked of a subscription that is to be cancelled at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CancelNow {
    /// Whether usage that is not charged yet goes on a last invoice.
    pub(crate) invoice_now: bool,
    /// Whether what was paid ahead, such as seats, is credited.
    pub(crate) prorate: bool,
}

/// A subscription as Stripe has it.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(crate) id: String,
    pub(crate) customer: String,
    /// Such as `active` or `canceled`.
    pub(crate) status: String,
    /// `flexible` or `classic`.
    pub(crate) billing_mode: String,
    pub(crate) created: Millis,
    pub(crate) cancel_at: Option<Millis>,
    pub(crate) ended_at: Option<Millis>,
    pub(crate) items: Vec<Item>,
    /// The change of ours that changed it last.
    pub(crate) change: Option<String>,
}

/// A price of a subscription, and since when.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) price: Price,
    pub(crate) created: Millis,
    pub(crate) period: Interval,
}

/// How something is charged.
#[derive(Clone, Debug)]
pub(crate) struct Price {
    pub(crate) id: String,
    pub(crate) is_active: bool,
    /// Whether all units cost what the tier that is reached says.
    pub(crate) is_volume: bool,
    /// The meter that is charged for; none for licensed prices, such as seats.
    pub(crate) meter: Option<String>,
    pub(crate) currency: String,
}

/// One page of subscriptions.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) subscriptions: Vec<Subscription>,
    /// Where the next page begins.
    pub(crate) next: Option<String>,
}

impl Subscription {
    /// Whether it bills, or may bill again.
    pub(crate) fn is_live(&self) -> bool {
        !matches!(
            self.status.as_str(),
            "canceled" | "incomplete_expired" | "incomplete"
        )
    }
}

impl Stripe {
    /// One page of the subscriptions that have not ended.
    pub(crate) async fn list_subscriptions(&self, after: Option<&str>) -> Result<Page, Failure> {
        let mut query = ListSubscription::new().limit(PAGE);
        if let Some(after) = after {
            query = query.starting_after(after);
        }
        self.page(query).await
    }

    /// The newest subscriptions of a customer, ended ones too; none for a customer that does not exist.
    pub(crate) async fn subscriptions_of(
        &self,
        customer: &str,
    ) -> Result<Vec<Subscription>, Failure> {
        let query = ListSubscription::new()
            .customer(customer)
            .status(ListSubscriptionStatus::All)
            .limit(PAGE);
        match self.page(query).await {
            Ok(page) => Ok(page.subscriptions),
            Err(Failure::NoCustomer(_)) => Ok(Vec::new()),
            Err(failure) => Err(failure),
        }
    }

    async fn page(&self, query: ListSubscription) -> Result<Page, Failure> {
        let page = timed("subscriptions", query.send(&self.client))
            .await
            .map_err(|error| failure(&error))?;
        let next = page
            .data
            .last()
            .filter(|_| page.has_more)
            .map(|last| last.id.to_string());
        Ok(Page {
            subscriptions: page.data.iter().map(subscription).collect(),
            next,
        })
    }

    /// A subscription, if there is one.
    pub(crate) async fn find_subscription(
        &self,
        id: &str,
    ) -> Result<Option<Subscription>, Failure> {
        let query = RetrieveSubscription::new(id);
        match timed("subscriptions", query.send(&self.client)).await {
            Ok(found) => Ok(Some(subscription(&found))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failure(&error)),
        }
    }

    /// Whether a customer was deleted, or never was.
    pub(crate) async fn is_customer_gone(&self, id: &str) -> Result<bool, Failure> {
        let query = RetrieveCustomer::new(id);
        match timed("customers", query.send(&self.client)).await {
            Ok(RetrieveCustomerReturned::Customer(_)) => Ok(false),
            Ok(RetrieveCustomerReturned::DeletedCustomer(_)) => Ok(true),
            Err(error) if is_missing(&error) => Ok(true),
            Err(error) => Err(failure(&error)),
        }
    }

    /// A price, if there is one.
    pub(crate) async fn find_price(&self, id: &str) -> Result<Option<Price>, Failure> {
        let query = RetrievePrice::new(id);
        match timed("prices", query.send(&self.client)).await {
            Ok(found) => Ok(Some(price(&found))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failure(&error)),
        }
    }

    /// Ends a subscription now.
    pub(crate) async fn cancel_now(
        &self,
        id: &str,
        how: CancelNow,
        request_key: &str,
    ) -> Result<Subscription, Failure> {
        let change = CancelSubscription::new(id)
            .invoice_now(how.invoice_now)
            .prorate(how.prorate)
            .customize()
            .request_strategy(once(request_key)?);
        timed("subscription_change", change.send(&self.client))
            .await
            .map(|changed| subscription(&changed))
            .map_err(|error| failure(&error))
    }

    /// Has a subscription end with its present period, or not.
    pub(crate) async fn cancel_at_period_end(
        &self,
        id: &str,
        request_key: &str,
    ) -> Result<Subscription, Failure> {
        let change = UpdateSubscription::new(id)
            .cancel_at_period_end(true)
            .customize()
            .request_strategy(once(request_key)?);
        timed("subscription_change", change.send(&self.client))
            .await
            .map(|changed| subscription(&changed))
            .map_err(|error| failure(&error))
    }

    /// Removes items and adds prices in one step; what was used of the old ones is invoiced at once.
    pub(crate) async fn change_items(
        &self,
        id: &str,
        remove: &[String],
        add: &[String],
        change: &str,
        request_key: &str,
    ) -> Result<Subscription, Failure> {
        let removed = remove.iter().map(|item| {
            let mut change = UpdateSubscriptionItems::new();
            change.id = Some(item.clone());
            change.deleted = Some(true);
            change
        });
        let added = add.iter().map(|price| {
            let mut change = UpdateSubscriptionItems::new();
            change.price = Some(price.clone());
            change
        });
        let items: Vec<UpdateSubscriptionItems> = removed.chain(added).collect();
        let metadata = HashMap::from([(CHANGE_KEY.to_owned(), change.to_owned())]);
        let change = UpdateSubscription::new(id)
            .items(items)
            .metadata(metadata)
            .proration_behavior(UpdateSubscriptionProrationBehavior::AlwaysInvoice)
            .customize()
            .request_strategy(once(request_key)?);
        timed("subscription_change", change.send(&self.client))
            .await
            .map(|changed| subscription(&changed))
            .map_err(|error| failure(&error))
    }
}

fn once(request_key: &str) -> Result<RequestStrategy, Failure> {
    IdempotencyKey::new(request_key)
        .map(RequestStrategy::Idempotent)
        .map_err(|error| Failure::Refused(error.to_string()))
}

fn subscription(from: &stripe_shared::Subscription) -> Subscription {
    let change = from.metadata.get(CHANGE_KEY).cloned();
    Subscription {
        id: from.id.to_string(),
        customer: from.customer.id().to_string(),
        status: from.status.to_string(),
        billing_mode: from.billing_mode.type_.to_string(),
        created: seconds(from.created),
        cancel_at: from.cancel_at.map(seconds),
        ended_at: from.ended_at.map(seconds),
        items: from.items.data.iter().map(item).collect(),
        change,
    }
}

fn item(from: &stripe_shared::SubscriptionItem) -> Item {
    Item {
        id: from.id.to_string(),
        price: price(&from.price),
        created: seconds(from.created),
        period: Interval {
            start: seconds(from.current_period_start),
            end: seconds(from.current_period_end),
        },
    }
}

fn price(from: &stripe_shared::Price) -> Price {
    let is_volume = from
        .tiers_mode
        .as_ref()
        .is_some_and(|mode| mode.as_str() == "volume");
    let recurring = from.recurring.as_ref();
    Price {
        id: from.id.to_string(),
        is_active: from.active,
        is_volume,
        meter: recurring.and_then(|recurring| recurring.meter.clone()),
        currency: from.currency.to_string(),
    }
}
