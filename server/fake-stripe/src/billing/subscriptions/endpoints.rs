//! `/v1/subscriptions`: retrieve, list, search, migrate.

use serde_json::Value;

use super::Subscription;
use super::change_request::billing_mode;
use crate::billing::state::Billing;
use crate::errors::StripeError;
use crate::list::{Created, Paging};
use crate::params::Params;
use crate::search::{Fields, search};

pub(crate) fn retrieve(billing: &Billing, id: &str, params: Params) -> Result<Value, StripeError> {
    params.finish()?;
    billing.subscription(id)?.json(&billing.prices)
}

pub(crate) fn list(billing: &Billing, mut params: Params) -> Result<Value, StripeError> {
    let paging = Paging::take(&mut params)?;
    let customer = params.text("customer")?;
    let price = params.text("price")?;
    let status = params.one_of(
        "status",
        &[
            "active",
            "all",
            "canceled",
            "ended",
            "incomplete",
            "incomplete_expired",
            "past_due",
            "paused",
            "trialing",
            "unpaid",
        ],
    )?;
    let created = Created::take(&mut params)?;
    params.finish()?;
    let has_status = |one: &&Subscription| match status {
        None => !one.is_canceled(),
        Some("all") => true,
        Some("ended") => one.is_canceled(),
        Some(status) => one.status() == status,
    };
    let has_price =
        |one: &Subscription, wanted: &String| one.items.iter().any(|item| item.price == *wanted);
    let all = billing
        .subscriptions
        .newest_first()
        .filter(has_status)
        // Those of test clocks are only in the lists of their customers.
        .filter(|one| match &customer {
            Some(wanted) => one.customer == *wanted,
            None => one.test_clock.is_none(),
        })
        .filter(|one| price.as_ref().is_none_or(|wanted| has_price(one, wanted)))
        .filter(|one| created.contains(one.created))
        .map(|one| one.json(&billing.prices))
        .collect::<Result<Vec<Value>, StripeError>>()?;
    paging.page("subscription", "/v1/subscriptions", &all)
}

/// The fields that subscriptions can be searched by.
const SEARCHED: Fields = Fields {
    resource: "subscriptions",
    tokens: &["status"],
    texts: &[],
    numbers: &["canceled_at", "created"],
};

/// The search by Stripe's query language.
pub(crate) fn find_by_query(billing: &Billing, params: Params) -> Result<Value, StripeError> {
    let all = billing
        .subscriptions
        .newest_first()
        .map(|one| one.json(&billing.prices))
        .collect::<Result<Vec<Value>, StripeError>>()?;
    search(params, &SEARCHED, &all)
}

/// Migrates from the classic to the flexible billing mode; the reverse is not possible.
pub(crate) fn migrate(
    billing: &mut Billing,
    now: i64,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    let mode =
        billing_mode(&mut params)?.ok_or_else(|| StripeError::missing_param("billing_mode"))?;
    params.finish()?;
    let mut subscription = billing.subscription(id)?;
    let refuse = |message: &str| Err(StripeError::refused(message).param("billing_mode[type]"));
    if mode != "flexible" {
        return refuse("A subscription can only be migrated to the flexible billing mode.");
    }
    if subscription.is_canceled() {
        return refuse("A canceled subscription cannot be migrated.");
    }
    if subscription.flexible {
        return refuse("The subscription already uses the flexible billing mode.");
    }
    subscription.flexible = true;
    subscription.mode_updated_at = Some(now);
    billing.save_subscription(subscription, "customer.subscription.updated", now)
}
