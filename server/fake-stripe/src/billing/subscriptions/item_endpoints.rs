//! `/v1/subscription_items`: the items of a subscription, one by one.

use serde_json::{Value, json};

use super::change_request::{Change, Proration, check_payment_params};
use super::{Subscription, item_changes};
use crate::billing::prices::Price;
use crate::billing::state::Billing;
use crate::errors::StripeError;
use crate::list::{Collection, Paging};
use crate::metering::Metering;
use crate::params::Params;

pub(crate) fn list(billing: &Billing, mut params: Params) -> Result<Value, StripeError> {
    let paging = Paging::take(&mut params)?;
    let id = params.required("subscription")?;
    params.finish()?;
    let subscription = find_subscription(billing, &id)?;
    let all = subscription
        .items
        .iter()
        .map(|item| item.json(&billing.prices, &id))
        .collect::<Result<Vec<Value>, StripeError>>()?;
    paging.page("subscription_item", "/v1/subscription_items", &all)
}

pub(crate) fn create(
    billing: &mut Billing,
    metering: Metering<'_>,
    now: i64,
    mut params: Params,
) -> Result<Value, StripeError> {
    let id = params.required("subscription")?;
    let change = Change::take(&mut params)?;
    let proration = Proration::take(&mut params, now)?;
    check_payment_params(&mut params)?;
    params.finish()?;
    let subscription = find_subscription(billing, &id)?;
    let changed = change_items(billing, metering, subscription, change, proration)?;
    match changed.items.last() {
        Some(item) => item.json(&billing.prices, &id),
        None => Err(StripeError::missing_param("price")),
    }
}

pub(crate) fn retrieve(billing: &Billing, id: &str, params: Params) -> Result<Value, StripeError> {
    params.finish()?;
    item_response(&billing.prices, &subscription_of_item(billing, id)?, id)
}

pub(crate) fn update(
    billing: &mut Billing,
    metering: Metering<'_>,
    now: i64,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    let change = Change {
        id: Some(id.to_owned()),
        ..Change::take(&mut params)?
    };
    let proration = Proration::take(&mut params, now)?;
    check_payment_params(&mut params)?;
    params.finish()?;
    let subscription = subscription_of_item(billing, id)?;
    let changed = change_items(billing, metering, subscription, change, proration)?;
    item_response(&billing.prices, &changed, id)
}

pub(crate) fn delete(
    billing: &mut Billing,
    metering: Metering<'_>,
    now: i64,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    let change = Change {
        id: Some(id.to_owned()),
        deleted: true,
        ..Change::default()
    };
    params.boolean("clear_usage")?;
    let proration = Proration::take(&mut params, now)?;
    check_payment_params(&mut params)?;
    params.finish()?;
    let subscription = subscription_of_item(billing, id)?;
    change_items(billing, metering, subscription, change, proration)?;
    Ok(json!({ "id": id, "object": "subscription_item", "deleted": true }))
}

fn change_items(
    billing: &mut Billing,
    metering: Metering<'_>,
    mut subscription: Subscription,
    change: Change,
    proration: Proration,
) -> Result<Subscription, StripeError> {
    if subscription.is_canceled() {
        return Err(StripeError::refused(
            "A canceled subscription can only update its cancellation_details and metadata.",
        ));
    }
    let lines = item_changes::apply(
        billing,
        metering,
        &mut subscription,
        vec![change],
        proration,
    )?;
    item_changes::bill(billing, metering, &mut subscription, lines, proration)?;
    let kind = "customer.subscription.updated";
    billing.save_subscription(subscription.clone(), kind, proration.at)?;
    Ok(subscription)
}

/// The subscription that has an item.
fn subscription_of_item(billing: &Billing, item: &str) -> Result<Subscription, StripeError> {
    billing
        .subscriptions
        .newest_first()
        .find(|one| one.items.iter().any(|one_item| one_item.id == item))
        .cloned()
        .ok_or_else(|| StripeError::no_such("subscription_item", item))
}

fn find_subscription(billing: &Billing, id: &str) -> Result<Subscription, StripeError> {
    billing
        .subscription(id)
        .map_err(|error| error.status(400).param("subscription"))
}

fn item_response(
    prices: &Collection<Price>,
    subscription: &Subscription,
    id: &str,
) -> Result<Value, StripeError> {
    match subscription.items.iter().find(|item| item.id == id) {
        Some(item) => item.json(prices, &subscription.id),
        None => Err(StripeError::no_such("subscription_item", id)),
    }
}
