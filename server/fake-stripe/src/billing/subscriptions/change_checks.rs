//! Validation of changes to subscription items, before any item is changed.

use super::Subscription;
use super::change_request::{Change, Proration};
use super::item::Item;
use crate::billing::prices::{Price, price_of};
use crate::errors::StripeError;
use crate::list::Collection;

/// Stripe's limit; the message of its error is not documented.
const MAX_ITEMS: usize = 20;

/// Validates all changes before anything is changed.
pub(crate) fn check(
    prices: &Collection<Price>,
    subscription: &Subscription,
    changes: &[Change],
    proration: Proration,
) -> Result<(), StripeError> {
    let mut remaining: Vec<&str> = subscription
        .items
        .iter()
        .map(|item| item.price.as_str())
        .collect();
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    for (index, change) in changes.iter().enumerate() {
        let param = |name: &str| format!("items[{index}][{name}]");
        let existing = match &change.id {
            None => None,
            Some(id) => Some(
                subscription
                    .items
                    .iter()
                    .find(|item| item.id == *id)
                    .ok_or_else(|| {
                        StripeError::refused(format!("No such subscription item: '{id}'"))
                            .code("resource_missing")
                            .param(param("id"))
                    })?,
            ),
        };
        let drops_price = change.deleted || change.price.is_some();
        if let Some(item) =
            existing.filter(|item| drops_price && change.price.as_ref() != Some(&item.price))
        {
            removed.push(price_of(prices, &item.price)?);
            if let Some(place) = remaining.iter().position(|price| *price == item.price) {
                remaining.remove(place);
            }
        }
        let keeps_price = existing.is_some_and(|item| change.price.as_ref() == Some(&item.price));
        if let (false, false, Some(id)) = (change.deleted, keeps_price, &change.price) {
            let price = usable(prices, id, &subscription.currency, &param("price"))?;
            added.push(price);
            remaining.push(id);
        } else if existing.is_none() {
            return Err(StripeError::missing_param(&param("price")));
        }
        let id = change.price.as_ref().or(existing.map(|item| &item.price));
        let metered = id.and_then(|id| prices.get(id)?.meter()).is_some();
        if metered && change.quantity.is_some() {
            return Err(
                StripeError::refused("You cannot set the quantity for metered plans.")
                    .param(param("quantity")),
            );
        }
    }
    let all: Vec<&Price> = remaining.iter().filter_map(|id| prices.get(id)).collect();
    check_intervals(subscription.flexible, &all)?;
    check_outcome(subscription, &remaining, &removed, &added, proration)
}

/// Only the flexible mode has items of several intervals.
pub(crate) fn check_intervals(flexible: bool, prices: &[&Price]) -> Result<(), StripeError> {
    let mut recurrences = prices.iter().map(|price| price.recurrence());
    let first = recurrences.next();
    if flexible || recurrences.all(|one| Some(one) == first) {
        return Ok(());
    }
    Err(StripeError::refused(
        "Currently, all prices on a subscription must have the same `recurring.interval` and \
         `recurring.interval_count`.",
    )
    .param("items"))
}

fn check_outcome(
    subscription: &Subscription,
    remaining: &[&str],
    removed: &[Price],
    added: &[Price],
    proration: Proration,
) -> Result<(), StripeError> {
    if remaining.is_empty() {
        return Err(
            StripeError::refused("A subscription must have at least one active plan.")
                .param("items"),
        );
    }
    if remaining.len() > MAX_ITEMS {
        return Err(StripeError::refused(format!(
            "A subscription can have at most {MAX_ITEMS} items, and would have {}.",
            remaining.len()
        ))
        .param("items"));
    }
    let duplicate = remaining.iter().enumerate().find(|(index, price)| {
        remaining
            .get(index.saturating_add(1)..)
            .unwrap_or_default()
            .contains(price)
    });
    if let Some((_, price)) = duplicate {
        return Err(StripeError::refused(format!(
            "Cannot add multiple subscription items with the same plan: {price}"
        ))
        .param("items"));
    }
    let flat = |price: &&Price| price.meter().is_some() && !price.scheme.is_volume();
    let volume = |price: &&Price| price.meter().is_some() && price.scheme.is_volume();
    if let (Some(from), Some(to)) = (removed.iter().find(flat), added.iter().find(volume)) {
        return Err(StripeError::refused(format!(
            "The subscription cannot be moved from the price {} to the price {}: a metered price that is not \
             volume-tiered cannot be replaced by one that is.",
            from.id, to.id
        ))
        .param("items"));
    }
    let within = |item: &Item| (item.period.start..=item.period.end).contains(&proration.date);
    if proration.date != proration.at && !subscription.items.iter().any(within) {
        return Err(StripeError::refused(
            "The proration date must be within the current billing period.",
        )
        .param("proration_date"));
    }
    Ok(())
}

/// A price that can be put on a subscription.
pub(crate) fn usable(
    prices: &Collection<Price>,
    id: &str,
    currency: &str,
    param: &str,
) -> Result<Price, StripeError> {
    let price = prices.get(id).ok_or_else(|| {
        StripeError::refused(format!("No such price: '{id}'"))
            .code("resource_missing")
            .param(param)
    })?;
    let message = if !price.active {
        "The price specified is inactive. This field only accepts active prices."
    } else if price.recurring.is_none() {
        "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`."
    } else if !currency.is_empty() && price.currency != currency {
        "The price specified has another currency than the subscription."
    } else {
        return Ok(price.clone());
    };
    Err(StripeError::refused(message).param(param))
}
