//! `/v1/subscription_items`: the items of a subscription, one by one.

use serde_json::{Value, json};

use super::item_changes::{self, Change, Proration};
use super::subscription_api::check_payment_params;
use super::subscription_json::item_json;
use super::subscriptions::{self, Subscription};
use crate::errors::StripeError;
use crate::list::Paging;
use crate::params::Params;
use crate::state::State;

pub(crate) fn list(state: &mut State, mut params: Params) -> Result<Value, StripeError> {
    let paging = Paging::take(&mut params)?;
    let id = params.required("subscription")?;
    params.finish()?;
    let subscription = find_subscription(state, &id)?;
    let all = subscription
        .items
        .iter()
        .map(|item| item_json(state, &id, item))
        .collect::<Result<Vec<Value>, StripeError>>()?;
    paging.page("subscription_item", "/v1/subscription_items", &all)
}

pub(crate) fn create(state: &mut State, mut params: Params) -> Result<Value, StripeError> {
    let id = params.required("subscription")?;
    let change = Change::take(&mut params)?;
    let proration = Proration::take(&mut params, state.clock.now_secs())?;
    check_payment_params(&mut params)?;
    params.finish()?;
    let subscription = find_subscription(state, &id)?;
    let changed = change_items(state, subscription, change, proration)?;
    match changed.items.last() {
        Some(item) => item_json(state, &id, item),
        None => Err(StripeError::missing_param("price")),
    }
}

pub(crate) fn retrieve(state: &mut State, id: &str, params: Params) -> Result<Value, StripeError> {
    params.finish()?;
    item_response(state, &subscription_of_item(state, id)?, id)
}

pub(crate) fn update(
    state: &mut State,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    let change = Change {
        id: Some(id.to_owned()),
        ..Change::take(&mut params)?
    };
    let proration = Proration::take(&mut params, state.clock.now_secs())?;
    check_payment_params(&mut params)?;
    params.finish()?;
    let subscription = subscription_of_item(state, id)?;
    let changed = change_items(state, subscription, change, proration)?;
    item_response(state, &changed, id)
}

pub(crate) fn delete(
    state: &mut State,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    let change = Change {
        id: Some(id.to_owned()),
        deleted: true,
        ..Change::default()
    };
    params.boolean("clear_usage")?;
    let proration = Proration::take(&mut params, state.clock.now_secs())?;
    check_payment_params(&mut params)?;
    params.finish()?;
    let subscription = subscription_of_item(state, id)?;
    change_items(state, subscription, change, proration)?;
    Ok(json!({ "id": id, "object": "subscription_item", "deleted": true }))
}

fn change_items(
    state: &mut State,
    mut subscription: Subscription,
    change: Change,
    proration: Proration,
) -> Result<Subscription, StripeError> {
    if subscription.is_canceled() {
        return Err(StripeError::refused(
            "A canceled subscription can only update its cancellation_details and metadata.",
        ));
    }
    let lines = item_changes::apply(state, &mut subscription, vec![change], proration)?;
    item_changes::bill(state, &mut subscription, lines, proration)?;
    let kind = "customer.subscription.updated";
    subscriptions::save(state, subscription.clone(), kind, proration.at)?;
    Ok(subscription)
}

/// The subscription that has an item.
fn subscription_of_item(state: &State, item: &str) -> Result<Subscription, StripeError> {
    state
        .billing
        .subscriptions
        .newest_first()
        .find(|one| one.items.iter().any(|one_item| one_item.id == item))
        .cloned()
        .ok_or_else(|| StripeError::no_such("subscription_item", item))
}

fn find_subscription(state: &State, id: &str) -> Result<Subscription, StripeError> {
    subscriptions::find(state, id).map_err(|error| error.status(400).param("subscription"))
}

fn item_response(
    state: &State,
    subscription: &Subscription,
    id: &str,
) -> Result<Value, StripeError> {
    match subscription.items.iter().find(|item| item.id == id) {
        Some(item) => item_json(state, &subscription.id, item),
        None => Err(StripeError::no_such("subscription_item", id)),
    }
}
