//! The whole account at a glance: every subscription that has not ended, and whether a customer is there.
//!
//! For looking, not for billing: lists are cut at a limit, which the answer tells.

use stripe::StripeRequest as _;
use stripe_billing::{Subscription, SubscriptionItem, subscription::ListSubscription};
use stripe_core::customer::{RetrieveCustomer, RetrieveCustomerReturned};

use super::{
    Failure, Stripe,
    catalog::{CatalogPrice, Listed, PAGE_SIZE, read_pages, read_price},
    failure, is_missing,
};

/// How many subscriptions of the Stripe account are looked through.
pub(crate) const SUBSCRIPTIONS_READ: usize = 10_000;

/// A subscription that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SurveyedSubscription {
    /// `sub_...`
    pub(crate) id: String,
    /// `cus_...`
    pub(crate) customer: String,
    /// Whether it is in the classic billing mode.
    pub(crate) is_classic: bool,
    /// The prices of its items.
    pub(crate) prices: Vec<CatalogPrice>,
    /// Whether these are all of its items.
    pub(crate) is_whole: bool,
}

/// Whether a customer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It is.
    There,
    /// It was deleted.
    Deleted,
    /// Nobody of that id was ever there, in this mode of this account.
    Unknown,
}

impl Stripe {
    /// The subscriptions that have not ended.
    pub(crate) async fn survey_subscriptions(
        &self,
    ) -> Result<Listed<SurveyedSubscription>, Failure> {
        let page = |after: Option<String>| {
            let mut query = ListSubscription::new().limit(PAGE_SIZE);
            if let Some(after) = after {
                query = query.starting_after(after);
            }
            async move { query.customize().send(&self.client).await }
        };
        let read = |subscription: Subscription| {
            let is_over = ["canceled", "incomplete_expired", "incomplete"]
                .contains(&subscription.status.as_str());
            (!is_over).then(|| read_subscription(subscription))
        };
        let all = read_pages(SUBSCRIPTIONS_READ, page, |one| one.id.to_string(), read).await?;
        Ok(Listed {
            items: all.items.into_iter().flatten().collect(),
            is_whole: all.is_whole,
        })
    }

    /// Whether a customer is there.
    pub(crate) async fn find_customer(&self, id: &str) -> Result<Presence, Failure> {
        match RetrieveCustomer::new(id).send(&self.client).await {
            Ok(RetrieveCustomerReturned::Customer(_)) => Ok(Presence::There),
            Ok(RetrieveCustomerReturned::DeletedCustomer(_)) => Ok(Presence::Deleted),
            Err(error) if is_missing(&error) => Ok(Presence::Unknown),
            Err(error) => Err(failure(&error)),
        }
    }
}

fn read_subscription(subscription: Subscription) -> SurveyedSubscription {
    SurveyedSubscription {
        id: subscription.id.to_string(),
        customer: subscription.customer.into_id().to_string(),
        is_classic: subscription.billing_mode.type_.as_str() == "classic",
        is_whole: !subscription.items.has_more,
        prices: subscription
            .items
            .data
            .into_iter()
            .map(|item: SubscriptionItem| read_price(item.price))
            .collect(),
    }
}
