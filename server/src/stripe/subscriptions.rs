//! Reads and changes subscriptions, and reads the customers and prices that they depend on.

use std::collections::HashMap;

use serde_json::Value;
use stripe::StripeRequest as _;
use stripe_billing::subscription::{
    CancelSubscription, ListSubscription, ListSubscriptionStatus, RetrieveSubscription,
    UpdateSubscription, UpdateSubscriptionItems, UpdateSubscriptionProrationBehavior,
};
use stripe_client_core::CustomizableStripeRequest;
use stripe_core::customer::{RetrieveCustomer, RetrieveCustomerReturned};
use stripe_product::price::RetrievePrice;

use super::{
    Failure, PAGE_SIZE, SUBSCRIPTION, Stripe, failure, from_secs, idempotent, is_not_found,
    object_list::{ListPage, Unreadable},
    timed,
    transport::RequestError,
};
use crate::{
    domain::{
        Millis,
        subscription_status::{BillingMode, SubscriptionStatus},
        window::Interval,
    },
    metrics,
};

/// The metadata key with the id of the last subscription change that this service made.
const CHANGE_KEY: &str = "usage_billing_change";

/// How to cancel a subscription now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CancelNow {
    /// Whether usage that is not invoiced yet is put on a last invoice.
    pub(crate) invoice_now: bool,
    /// Whether prepaid fees, such as seats, are credited.
    pub(crate) prorate: bool,
}

/// A subscription at Stripe.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(crate) id: String,
    pub(crate) customer: String,
    pub(crate) status: SubscriptionStatus,
    pub(crate) billing_mode: BillingMode,
    pub(crate) created: Millis,
    pub(crate) cancel_at: Option<Millis>,
    pub(crate) ended_at: Option<Millis>,
    /// The end of its trial, which may be over.
    pub(crate) trial_end: Option<Millis>,
    pub(crate) items: Vec<Item>,
    /// The id of the last subscription change that this service made.
    pub(crate) change: Option<String>,
}

/// An item of a subscription.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) price: Price,
    pub(crate) created: Millis,
    pub(crate) period: Interval,
}

/// The price of an item.
#[derive(Clone, Debug)]
pub(crate) struct Price {
    pub(crate) id: String,
    pub(crate) is_active: bool,
    /// Whether the tier that the total reaches sets the price of all units.
    pub(crate) is_volume: bool,
    /// The meter that it charges for; `None` for licensed prices, such as seats.
    pub(crate) meter: Option<String>,
    pub(crate) currency: String,
}

/// One page of subscriptions.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) subscriptions: Vec<Subscription>,
    /// Subscriptions that cannot be read.
    pub(crate) unreadable: Vec<Unreadable>,
    /// The start of the next page; `None` on the last one.
    pub(crate) next: Option<String>,
}

impl Subscription {
    /// Whether it bills, or may bill again.
    pub(crate) fn is_live(&self) -> bool {
        self.status.is_live()
    }
}

impl Stripe {
    /// One page of the subscriptions that have not ended.
    pub(crate) async fn list_subscriptions(&self, after: Option<&str>) -> Result<Page, Failure> {
        let mut query = ListSubscription::new().limit(PAGE_SIZE);
        if let Some(after) = after {
            query = query.starting_after(after);
        }
        self.page(query).await
    }

    /// The newest subscriptions of a customer, also ended ones. Empty if the customer does not exist.
    pub(crate) async fn subscriptions_of(&self, customer: &str) -> Result<Page, Failure> {
        let query = ListSubscription::new()
            .customer(customer)
            .status(ListSubscriptionStatus::All)
            .limit(PAGE_SIZE);
        match self.page(query).await {
            Err(Failure::NoCustomer(_)) => Ok(Page {
                subscriptions: Vec::new(),
                unreadable: Vec::new(),
                next: None,
            }),
            other => other,
        }
    }

    async fn page(&self, query: ListSubscription) -> Result<Page, Failure> {
        let client = self.client()?;
        let page: ListPage<stripe_shared::Subscription> = timed(
            "subscriptions",
            client.list_prepared(&query, SUBSCRIPTION, prepare),
        )
        .await
        .map_err(|error| failure(&error))?;
        Ok(Page {
            subscriptions: page.items.iter().map(subscription).collect(),
            unreadable: page.unreadable,
            next: page.next,
        })
    }

    /// A subscription, if it exists.
    pub(crate) async fn find_subscription(
        &self,
        id: &str,
    ) -> Result<Option<Subscription>, Failure> {
        let query = RetrieveSubscription::new(id);
        match timed("subscriptions", query.send(self.client()?)).await {
            Ok(found) if is_readable(&found, id) => Ok(Some(subscription(&found))),
            Err(error) if is_not_found(&error) => Ok(None),
            Ok(_) | Err(RequestError::Unreadable(_)) => Err(unreadable(id)),
            Err(error) => Err(failure(&error)),
        }
    }

    /// Whether a customer was deleted or never existed.
    pub(crate) async fn is_customer_deleted(&self, id: &str) -> Result<bool, Failure> {
        let query = RetrieveCustomer::new(id);
        match timed("customers", query.send(self.client()?)).await {
            Ok(RetrieveCustomerReturned::Customer(_)) => Ok(false),
            Ok(RetrieveCustomerReturned::DeletedCustomer(_)) => Ok(true),
            Err(error) if is_not_found(&error) => Ok(true),
            Err(error) => Err(failure(&error)),
        }
    }

    /// A price, if it exists.
    pub(crate) async fn find_price(&self, id: &str) -> Result<Option<Price>, Failure> {
        let query = RetrievePrice::new(id);
        match timed("prices", query.send(self.client()?)).await {
            Ok(found) => Ok(Some(price(&found))),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(failure(&error)),
        }
    }

    /// Cancels a subscription now.
    pub(crate) async fn cancel_now(
        &self,
        id: &str,
        how: CancelNow,
        request_key: &str,
    ) -> Result<Subscription, Failure> {
        let change = CancelSubscription::new(id)
            .invoice_now(how.invoice_now)
            .prorate(how.prorate)
            .customize();
        self.send_change(id, change, request_key).await
    }

    /// Makes a subscription end with its current period.
    pub(crate) async fn cancel_at_period_end(
        &self,
        id: &str,
        request_key: &str,
    ) -> Result<Subscription, Failure> {
        let change = UpdateSubscription::new(id)
            .cancel_at_period_end(true)
            .customize();
        self.send_change(id, change, request_key).await
    }

    /// An answer that cannot be read may follow a success.
    async fn send_change(
        &self,
        id: &str,
        change: CustomizableStripeRequest<stripe_shared::Subscription>,
        request_key: &str,
    ) -> Result<Subscription, Failure> {
        let change = change.request_strategy(idempotent(request_key)?);
        match timed("subscription_change", change.send(self.client()?)).await {
            Ok(changed) if is_readable(&changed, id) => Ok(subscription(&changed)),
            Ok(_) => Err(unreadable(id)),
            Err(error) => Err(failure(&error)),
        }
    }

    /// Removes items and adds prices in one request. Stripe invoices the usage of the removed items immediately.
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
            .customize();
        self.send_change(id, change, request_key).await
    }
}

/// Makes a subscription unreadable that has an item whose period ends before it starts: no time would be billed by it.
fn prepare(subscription: &mut Value) {
    let items = subscription.pointer_mut("/items/data");
    let items = items.and_then(Value::as_array_mut);
    for item in items.into_iter().flatten() {
        let time = |field: &str| item.get(field).and_then(Value::as_i64);
        let period = time("current_period_start").zip(time("current_period_end"));
        let is_reversed = period.is_some_and(|(start, end)| end < start);
        if let Some(item) = item.as_object_mut().filter(|_| is_reversed) {
            item.remove("current_period_end");
        }
    }
}

/// Whether an answer is the subscription that was asked for, with billing periods that can be stored.
fn is_readable(subscription: &stripe_shared::Subscription, id: &str) -> bool {
    let mut items = subscription.items.data.iter();
    subscription.id.as_str() == id
        && items.all(|item| item.current_period_start <= item.current_period_end)
}

/// The failure for a subscription that Stripe has, but not as it is expected. Counted.
fn unreadable(id: &str) -> Failure {
    metrics::stripe_unreadable(SUBSCRIPTION);
    Failure::unreadable(&format!("{SUBSCRIPTION} {id} cannot be read"))
}

fn subscription(from: &stripe_shared::Subscription) -> Subscription {
    let change = from.metadata.get(CHANGE_KEY).cloned();
    Subscription {
        id: from.id.to_string(),
        customer: from.customer.id().to_string(),
        status: SubscriptionStatus::parse(from.status.as_str()),
        billing_mode: BillingMode::parse(from.billing_mode.type_.as_str()),
        created: from_secs(from.created),
        cancel_at: from.cancel_at.map(from_secs),
        ended_at: from.ended_at.map(from_secs),
        trial_end: from.trial_end.map(from_secs),
        items: from.items.data.iter().map(item).collect(),
        change,
    }
}

fn item(from: &stripe_shared::SubscriptionItem) -> Item {
    Item {
        id: from.id.to_string(),
        price: price(&from.price),
        created: from_secs(from.created),
        period: Interval {
            start: from_secs(from.current_period_start),
            end: from_secs(from.current_period_end),
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_subscription_with_a_reversed_period_is_unreadable() {
        let with = |start: i64, end: i64| {
            json!({ "items": { "data": [
                { "current_period_start": 1, "current_period_end": 2 },
                { "current_period_start": start, "current_period_end": end },
            ] } })
        };
        let mut reversed = with(10, -1);
        prepare(&mut reversed);
        let items = &reversed["items"]["data"];
        assert_eq!(items[0]["current_period_end"], 2);
        assert_eq!(items[1], json!({ "current_period_start": 10 }));
        for whole in [
            with(10, 20),
            with(10, 10),
            json!({}),
            json!({ "items": 7 }),
            json!(null),
        ] {
            let mut prepared = whole.clone();
            prepare(&mut prepared);
            assert_eq!(prepared, whole);
        }
    }
}
