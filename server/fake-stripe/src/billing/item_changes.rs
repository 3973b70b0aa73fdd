//! Changes to the items of a subscription, and what they cost: licensed items are prorated by the second; a metered
//! price that is removed is billed for its usage so far in the flexible mode, and not at all in the classic one.

use std::collections::BTreeMap;

use super::calendar::Period;
use super::invoices::{self, InvoiceDraft, Line};
use super::prices::Price;
use super::products::merge;
use super::subscriptions::{Item, Subscription, price_of};
use super::usage::Visibility;
use crate::errors::StripeError;
use crate::params::Params;
use crate::state::State;

/// One change: of the item with this id, or a new one where there is none.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) id: Option<String>,
    pub(crate) price: Option<String>,
    pub(crate) quantity: Option<i64>,
    pub(crate) deleted: bool,
    pub(crate) metadata: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behavior {
    None,
    Create,
    Invoice,
}

/// When a change takes effect, and whether it is prorated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proration {
    pub(crate) behavior: Behavior,
    /// From when licensed items are prorated.
    pub(crate) date: i64,
    pub(crate) at: i64,
}

impl Change {
    /// Takes what an item may be given anywhere.
    pub(crate) fn take(params: &mut Params) -> Result<Change, StripeError> {
        let quantity = params.integer("quantity")?;
        if quantity.is_some_and(|quantity| quantity < 0) {
            return Err(
                StripeError::invalid("Invalid non-negative integer").param(params.name("quantity"))
            );
        }
        Ok(Change {
            id: None,
            price: params.text("price")?,
            quantity,
            deleted: false,
            metadata: params.text_map("metadata")?,
        })
    }

    /// Takes an entry of `items` of an update.
    pub(crate) fn of_update(mut params: Params) -> Result<Change, StripeError> {
        let id = params.text("id")?;
        let deleted = params.boolean("deleted")?.unwrap_or(false);
        // The usage of a meter belongs to the customer: clearing an item's usage has no effect on it.
        params.boolean("clear_usage")?;
        let change = Change {
            id,
            deleted,
            ..Change::take(&mut params)?
        };
        params.finish()?;
        Ok(change)
    }
}

impl Proration {
    /// Takes `proration_behavior` and `proration_date`.
    pub(crate) fn take(params: &mut Params, at: i64) -> Result<Proration, StripeError> {
        let names = ["create_prorations", "none", "always_invoice"];
        let behavior = match params.one_of("proration_behavior", &names)? {
            Some("none") => Behavior::None,
            Some("always_invoice") => Behavior::Invoice,
            _ => Behavior::Create,
        };
        Ok(Proration {
            behavior,
            date: params.integer("proration_date")?.unwrap_or(at),
            at,
        })
    }
}

/// Changes the items of a copy of a subscription and returns the resulting lines.
pub(crate) fn apply(
    state: &mut State,
    subscription: &mut Subscription,
    changes: Vec<Change>,
    proration: Proration,
) -> Result<Vec<Line>, StripeError> {
    check(state, subscription, &changes, proration)?;
    let mut lines = Vec::new();
    for change in changes {
        let known = change.id.as_ref().and_then(|id| {
            let mut items = subscription.items.iter();
            items.position(|item| item.id == *id)
        });
        match known {
            None => {
                let price = price_of(state, change.price.as_deref().unwrap_or_default())?;
                let mut item = Item::new(
                    &price,
                    change.quantity,
                    subscription.anchor,
                    subscription.start_date,
                    proration.at,
                );
                merge(&mut item.metadata, change.metadata);
                lines.extend(prorate_added_item(
                    &item,
                    &price,
                    subscription.anchor,
                    proration,
                ));
                subscription.items.push(item);
            }
            Some(index) if change.deleted => {
                let item = subscription.items.remove(index);
                lines.extend(remove_item(state, subscription, &item, proration)?);
            }
            Some(index) => {
                let Some(mut item) = subscription.items.get(index).cloned() else {
                    continue;
                };
                lines.extend(change_item(
                    state,
                    subscription,
                    &mut item,
                    change,
                    proration,
                )?);
                if let Some(existing) = subscription.items.get_mut(index) {
                    *existing = item;
                }
            }
        }
    }
    Ok(lines)
}

/// Bills the lines of a change as its behavior says: on a separate invoice, or on the next one.
pub(crate) fn bill(
    state: &mut State,
    subscription: &mut Subscription,
    lines: Vec<Line>,
    proration: Proration,
) -> Result<(), StripeError> {
    subscription.pending.extend(lines);
    if proration.behavior != Behavior::Invoice {
        return Ok(());
    }
    let draft = InvoiceDraft {
        lines: std::mem::take(&mut subscription.pending),
        period: Period {
            start: proration.at,
            end: proration.at,
        },
        reason: "subscription_update",
        at: proration.at,
        grace: false,
    };
    invoices::create(state, subscription, draft)
}

/// Gives an item another price, quantity or metadata.
fn change_item(
    state: &mut State,
    subscription: &Subscription,
    item: &mut Item,
    change: Change,
    proration: Proration,
) -> Result<Vec<Line>, StripeError> {
    merge(&mut item.metadata, change.metadata);
    let new = change.price.unwrap_or_else(|| item.price.clone());
    let price = price_of(state, &new)?;
    let quantity = change.quantity.or(item.quantity);
    let metered = price.meter().is_some();
    if new == item.price && (metered || quantity == item.quantity) {
        return Ok(Vec::new());
    }
    let mut lines: Vec<Line> = remove_item(state, subscription, item, proration)?
        .into_iter()
        .collect();
    let fresh = Item::new(
        &price,
        quantity,
        subscription.anchor,
        subscription.start_date,
        proration.at,
    );
    *item = Item {
        id: item.id.clone(),
        created: item.created,
        metadata: std::mem::take(&mut item.metadata),
        ..fresh
    };
    lines.extend(prorate_added_item(
        item,
        &price,
        subscription.anchor,
        proration,
    ));
    Ok(lines)
}

/// The charge for a new licensed item until the end of its period.
fn prorate_added_item(
    item: &Item,
    price: &Price,
    anchor: i64,
    proration: Proration,
) -> Option<Line> {
    if price.meter().is_some() || proration.behavior == Behavior::None {
        return None;
    }
    let full = price.recurrence().period_at(anchor, proration.at);
    let span = Period {
        start: proration.date,
        end: item.period.end,
    };
    let amount = item.fee_from(price, proration.date, full);
    Some(Line::proration(item, amount, span))
}

/// The last line of an item that is removed or changes its price: its usage so far, or the credit for an unused fee.
fn remove_item(
    state: &mut State,
    subscription: &Subscription,
    item: &Item,
    proration: Proration,
) -> Result<Option<Line>, StripeError> {
    let price = price_of(state, &item.price)?;
    let Some(usage) = subscription.usage(item, &price, proration.at) else {
        if proration.behavior == Behavior::None {
            return Ok(None);
        }
        let full = price
            .recurrence()
            .period_at(subscription.anchor, item.period.start);
        let span = Period {
            start: proration.date,
            end: item.period.end,
        };
        let rest = item.fee_from(&price, proration.date, full);
        return Ok(Some(Line::proration(item, rest.saturating_neg(), span)));
    };
    let discard_reason = if !subscription.flexible {
        Some("item_removed_in_classic_mode")
    } else if proration.behavior == Behavior::None {
        Some("item_removed_without_proration")
    } else {
        None
    };
    let visibility = Visibility::aggregated(state);
    let line = Line::usage(usage.clone());
    let quantity = usage.make_final(state, visibility, discard_reason, proration.at);
    let line = Line {
        invoice_item: Some(crate::ids::billing("ii_")),
        ..line.bill(&price, quantity)
    };
    let empty = line.quantity == 0 && line.amount == 0;
    Ok(Some(line).filter(|_| discard_reason.is_none() && !empty))
}

/// Validates all changes before anything is changed.
fn check(
    state: &State,
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
            removed.push(price_of(state, &item.price)?);
            if let Some(place) = remaining.iter().position(|price| *price == item.price) {
                remaining.remove(place);
            }
        }
        let keeps_price = existing.is_some_and(|item| change.price.as_ref() == Some(&item.price));
        if let (false, false, Some(id)) = (change.deleted, keeps_price, &change.price) {
            let price = usable(state, id, &subscription.currency, &param("price"))?;
            added.push(price);
            remaining.push(id);
        } else if existing.is_none() {
            return Err(StripeError::missing_param(&param("price")));
        }
        let id = change.price.as_ref().or(existing.map(|item| &item.price));
        let metered = id
            .and_then(|id| state.billing.prices.get(id)?.meter())
            .is_some();
        if metered && change.quantity.is_some() {
            return Err(
                StripeError::refused("You cannot set the quantity for metered plans.")
                    .param(param("quantity")),
            );
        }
    }
    check_outcome(subscription, &remaining, &removed, &added, proration)
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
    state: &State,
    id: &str,
    currency: &str,
    param: &str,
) -> Result<Price, StripeError> {
    let price = state.billing.prices.get(id).ok_or_else(|| {
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
