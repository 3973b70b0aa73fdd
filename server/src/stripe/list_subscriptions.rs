//! All live subscriptions of the Stripe account, and whether a customer exists: for the command `doctor`, and for
//! links.
//!
//! Lists are read up to a limit, and the result says whether it is complete. Billing does not depend on them.

use stripe_billing::{Subscription, SubscriptionItem, subscription::ListSubscription};
use stripe_core::customer::{RetrieveCustomer, RetrieveCustomerReturned};

use super::{
    Failure, PAGE_SIZE, SUBSCRIPTION, Stripe,
    catalog::{BoundedList, CatalogPrice, read_pages, read_price},
    failure, is_not_found,
    object_list::{ListPage, Unreadable},
    timed,
};
use crate::domain::subscription_status::{BillingMode, SubscriptionStatus};

/// Subscriptions of the Stripe account that are read.
pub(crate) const MAX_SUBSCRIPTIONS: usize = 10_000;

/// A subscription that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiveSubscription {
    /// `sub_...`
    pub(crate) id: String,
    /// `cus_...`
    pub(crate) customer: String,
    pub(crate) billing_mode: BillingMode,
    /// The prices of its items.
    pub(crate) prices: Vec<CatalogPrice>,
    /// Whether these are all its items.
    pub(crate) is_complete: bool,
}

/// Whether a customer exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It exists.
    Exists {
        /// Whether it belongs to a test clock: then lists leave it and its subscriptions out, but those of one customer.
        has_test_clock: bool,
    },
    /// It was deleted.
    Deleted,
    /// The account has no customer with this id, in the mode of the key.
    NotFound,
}

impl Stripe {
    /// The subscriptions that have not ended.
    pub(crate) async fn list_live_subscriptions(
        &self,
    ) -> Result<BoundedList<LiveSubscription>, Failure> {
        let client = self.client()?;
        let page = |after: Option<String>| {
            let mut query = ListSubscription::new().limit(PAGE_SIZE);
            if let Some(after) = after {
                query = query.starting_after(after);
            }
            async move { client.list(&query, SUBSCRIPTION).await }
        };
        let all = read_pages(MAX_SUBSCRIPTIONS, page, read_live).await?;
        Ok(BoundedList {
            items: all.items.into_iter().flatten().collect(),
            is_complete: all.is_complete,
            unreadable: all.unreadable,
        })
    }

    /// A page of the subscriptions that have not ended, the newest first, after the one with an id. Also returns those that
    /// cannot be read, and the id after which the next page begins.
    pub(crate) async fn live_subscriptions_after(
        &self,
        after: Option<&str>,
        limit: i64,
    ) -> Result<(Vec<LiveSubscription>, Vec<Unreadable>, Option<String>), Failure> {
        let mut query = ListSubscription::new().limit(limit.min(PAGE_SIZE));
        if let Some(after) = after {
            query = query.starting_after(after);
        }
        let page = self.client()?.list(&query, SUBSCRIPTION).await;
        let page: ListPage<Subscription> = page.map_err(|error| failure(&error))?;
        let live = page.items.into_iter().filter_map(read_live);
        Ok((live.collect(), page.unreadable, page.next))
    }

    /// The subscriptions of a customer that have not ended, the newest: also of one that the list of all leaves out.
    pub(crate) async fn live_subscriptions_of(
        &self,
        customer: &str,
    ) -> Result<BoundedList<LiveSubscription>, Failure> {
        let query = ListSubscription::new().customer(customer).limit(PAGE_SIZE);
        let page = self.client()?.list(&query, SUBSCRIPTION).await;
        let page = page.map_err(|error| failure(&error))?;
        Ok(BoundedList {
            items: page.items.into_iter().filter_map(read_live).collect(),
            is_complete: page.next.is_none(),
            unreadable: page.unreadable,
        })
    }

    /// Whether a customer exists.
    pub(crate) async fn find_customer(&self, id: &str) -> Result<Presence, Failure> {
        let query = RetrieveCustomer::new(id);
        match timed("customers", query.send(self.client()?)).await {
            Ok(RetrieveCustomerReturned::Customer(found)) => Ok(Presence::Exists {
                has_test_clock: found.test_clock.is_some(),
            }),
            Ok(RetrieveCustomerReturned::DeletedCustomer(_)) => Ok(Presence::Deleted),
            Err(error) if is_not_found(&error) => Ok(Presence::NotFound),
            Err(error) => Err(failure(&error)),
        }
    }
}

/// None of one that has ended, or that has not begun because its first invoice is not paid.
fn read_live(subscription: Subscription) -> Option<LiveSubscription> {
    let status = SubscriptionStatus::parse(subscription.status.as_str());
    status.is_live().then(|| LiveSubscription {
        id: subscription.id.to_string(),
        customer: subscription.customer.into_id().to_string(),
        billing_mode: BillingMode::parse(subscription.billing_mode.type_.as_str()),
        is_complete: !subscription.items.has_more,
        prices: subscription
            .items
            .data
            .into_iter()
            .map(|item: SubscriptionItem| read_price(item.price))
            .collect(),
    })
}
