//! Changes to the items of a subscription, and the resulting invoice lines. Licensed items are prorated by the second.
//! A metered price that is removed is billed for its usage so far in the flexible mode, and not billed in the classic
//! mode. The item that replaces it, or the same item with another price, is used from then on: usage of before that
//! arrives later is on no invoice.

use super::Subscription;
use super::change_checks::check;
use super::change_request::{Behavior, Change, Proration};
use super::item::Item;
use crate::billing::calendar::Period;
use crate::billing::invoices::line::Line;
use crate::billing::invoices::{InvoiceDraft, issue};
use crate::billing::prices::{Price, price_of};
use crate::billing::state::Billing;
use crate::billing::usage::Visibility;
use crate::errors::StripeError;
use crate::ids;
use crate::metering::Metering;

/// Changes the items of a copy of a subscription and returns the resulting lines.
pub(crate) fn apply(
    billing: &mut Billing,
    metering: Metering<'_>,
    subscription: &mut Subscription,
    changes: Vec<Change>,
    proration: Proration,
) -> Result<Vec<Line>, StripeError> {
    check(&billing.prices, subscription, &changes, proration)?;
    let mut lines = Vec::new();
    for change in changes {
        let known = change.id.as_ref().and_then(|id| {
            let mut items = subscription.items.iter();
            items.position(|item| item.id == *id)
        });
        match known {
            None => {
                let price = price_of(&billing.prices, change.price.as_deref().unwrap_or_default())?;
                let period = subscription.period_of_new_item(&price, proration.at);
                let mut item = Item::new(&price, change.quantity, period, proration.at);
                item.metadata = change.metadata.applied_to(&item.metadata)?;
                lines.extend(prorate_added_item(subscription, &item, &price, proration));
                subscription.items.push(item);
            }
            Some(index) if change.deleted => {
                let item = subscription.items.remove(index);
                lines.extend(remove_item(
                    billing,
                    metering,
                    subscription,
                    &item,
                    proration,
                )?);
            }
            Some(index) => {
                let Some(mut item) = subscription.items.get(index).cloned() else {
                    continue;
                };
                lines.extend(change_item(
                    billing,
                    metering,
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
    billing: &mut Billing,
    metering: Metering<'_>,
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
    issue::create(billing, metering, subscription, draft)
}

/// Gives an item another price, quantity or metadata.
fn change_item(
    billing: &mut Billing,
    metering: Metering<'_>,
    subscription: &Subscription,
    item: &mut Item,
    change: Change,
    proration: Proration,
) -> Result<Vec<Line>, StripeError> {
    item.metadata = change.metadata.applied_to(&item.metadata)?;
    let new = change.price.unwrap_or_else(|| item.price.clone());
    let price = price_of(&billing.prices, &new)?;
    let quantity = change.quantity.or(item.quantity);
    let metered = price.meter().is_some();
    if new == item.price && (metered || quantity == item.quantity) {
        return Ok(Vec::new());
    }
    let mut lines: Vec<Line> = remove_item(billing, metering, subscription, item, proration)?
        .into_iter()
        .collect();
    let period = subscription.period_of_new_item(&price, proration.at);
    let fresh = Item::new(&price, quantity, period, proration.at);
    *item = Item {
        id: item.id.clone(),
        created: item.created,
        metadata: std::mem::take(&mut item.metadata),
        ..fresh
    };
    lines.extend(prorate_added_item(subscription, item, &price, proration));
    Ok(lines)
}

/// The charge for a new licensed item until the end of its period.
fn prorate_added_item(
    subscription: &Subscription,
    item: &Item,
    price: &Price,
    proration: Proration,
) -> Option<Line> {
    let is_free = subscription.free_reason().is_some();
    if price.meter().is_some() || proration.behavior == Behavior::None || is_free {
        return None;
    }
    let full = price
        .recurrence()
        .period_at(subscription.anchor, proration.at);
    let span = Period {
        start: proration.date,
        end: item.period.end,
    };
    let amount = item.fee_from(price, proration.date, full);
    Some(Line::proration(item, amount, span))
}

/// The last line of an item that is removed or changes its price: its usage so far, or the credit for an unused fee.
fn remove_item(
    billing: &mut Billing,
    metering: Metering<'_>,
    subscription: &Subscription,
    item: &Item,
    proration: Proration,
) -> Result<Option<Line>, StripeError> {
    let price = price_of(&billing.prices, &item.price)?;
    let Some(usage) = subscription.usage(item, &price, proration.at) else {
        if proration.behavior == Behavior::None || subscription.free_reason().is_some() {
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
    let free_reason = subscription.free_reason();
    let discard_reason = if free_reason.is_some() {
        free_reason
    } else if !subscription.flexible {
        Some("item_removed_in_classic_mode")
    } else if proration.behavior == Behavior::None {
        Some("item_removed_without_proration")
    } else {
        None
    };
    let visibility = Visibility::aggregated(metering);
    let line = Line::usage(usage.clone());
    let quantity = billing.make_final(usage, metering, visibility, discard_reason, proration.at);
    let line = Line {
        invoice_item: Some(ids::billing("ii_")),
        ..line.bill(&price, quantity)
    };
    let empty = line.quantity == 0 && line.amount == 0;
    Ok(Some(line).filter(|_| discard_reason.is_none() && !empty))
}
