//! What a subscription and its items are, and when they are due.

use std::collections::BTreeMap;

use serde_json::Value;

use super::calendar::Period;
use super::invoices::Line;
use super::money::share;
use super::prices::Price;
use super::subscription_json::subscription_json;
use super::usage::Usage;
use crate::errors::StripeError;
use crate::ids;
use crate::state::State;

/// One price on a subscription.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) price: String,
    /// Of a licensed price; a metered one has none.
    pub(crate) quantity: Option<i64>,
    pub(crate) created: i64,
    pub(crate) period: Period,
    /// From when usage is billed: the period's start, or later if the item was added or changed within it.
    pub(crate) used_from: i64,
    pub(crate) metadata: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Subscription {
    pub(crate) id: String,
    pub(crate) customer: String,
    pub(crate) currency: String,
    pub(crate) created: i64,
    pub(crate) start_date: i64,
    pub(crate) anchor: i64,
    pub(crate) flexible: bool,
    /// When it was migrated to the flexible mode.
    pub(crate) mode_updated_at: Option<i64>,
    pub(crate) cancel_at: Option<i64>,
    pub(crate) cancel_at_period_end: bool,
    pub(crate) canceled_at: Option<i64>,
    pub(crate) ended_at: Option<i64>,
    pub(crate) comment: Option<String>,
    pub(crate) feedback: Option<&'static str>,
    pub(crate) description: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) items: Vec<Item>,
    /// Lines for the next invoice: prorations, and the usage of removed items.
    pub(crate) pending: Vec<Line>,
    pub(crate) latest_invoice: Option<String>,
}

impl Item {
    /// A new item from a moment on, whose period is the one that the anchor puts this moment in.
    pub(crate) fn new(
        price: &Price,
        quantity: Option<i64>,
        anchor: i64,
        start: i64,
        at: i64,
    ) -> Item {
        let aligned = price.recurrence().period_at(anchor, at);
        Item {
            id: ids::billing("si_"),
            price: price.id.clone(),
            quantity: price.meter().is_none().then(|| quantity.unwrap_or(1)),
            created: at,
            period: Period {
                start: aligned.start.max(start),
                end: aligned.end,
            },
            used_from: at,
            metadata: BTreeMap::new(),
        }
    }

    /// What is owed for a whole period of a licensed item.
    pub(crate) fn fee(&self, price: &Price) -> i64 {
        price.scheme.amount(self.quantity.unwrap_or(0))
    }

    /// The part of the fee from a moment to the period's end.
    pub(crate) fn fee_from(&self, price: &Price, at: i64, full: Period) -> i64 {
        let left = self.period.end.saturating_sub(at);
        share(self.fee(price), left, full.end.saturating_sub(full.start))
    }
}

impl Subscription {
    pub(crate) fn is_canceled(&self) -> bool {
        self.ended_at.is_some()
    }

    pub(crate) fn status(&self) -> &'static str {
        if self.is_canceled() {
            "canceled"
        } else {
            "active"
        }
    }

    /// The next period end or cancellation.
    pub(crate) fn next_due(&self) -> Option<i64> {
        if self.is_canceled() {
            return None;
        }
        let period_end = self.items.iter().map(|item| item.period.end).min();
        [period_end, self.cancel_at].into_iter().flatten().min()
    }

    /// The end of the item period that ends last.
    pub(crate) fn last_period_end(&self) -> Option<i64> {
        self.items.iter().map(|item| item.period.end).max()
    }

    /// The usage of an item up to a moment, where its price is metered.
    pub(crate) fn usage(&self, item: &Item, price: &Price, to: i64) -> Option<Usage> {
        Some(Usage {
            customer: self.customer.clone(),
            subscription: self.id.clone(),
            item: item.id.clone(),
            price: item.price.clone(),
            meter: price.meter()?.to_owned(),
            from: item.used_from,
            to,
        })
    }
}

/// The price of an existing item; prices are never removed.
pub(crate) fn price_of(state: &State, id: &str) -> Result<Price, StripeError> {
    state.billing.prices.get(id).cloned().ok_or_else(|| {
        StripeError::refused(format!("No such price: '{id}'"))
            .code("resource_missing")
            .param("items[0][price]")
    })
}

/// A copy of a subscription to work on; [`super::Billing::save_subscription`] writes it back, so that a refusal changes nothing.
pub(crate) fn find(state: &State, id: &str) -> Result<Subscription, StripeError> {
    state
        .billing
        .subscriptions
        .get(id)
        .cloned()
        .ok_or_else(|| StripeError::no_such("subscription", id))
}

/// Stores a changed subscription and records the event.
pub(crate) fn save(
    state: &mut State,
    subscription: Subscription,
    kind: &'static str,
    at: i64,
) -> Result<Value, StripeError> {
    let before = state
        .billing
        .subscriptions
        .get(&subscription.id)
        .cloned()
        .and_then(|existing| subscription_json(state, &existing).ok());
    let body = subscription_json(state, &subscription)?;
    state.billing.save_subscription(subscription);
    if before.as_ref() == Some(&body) {
        return Ok(body);
    }
    let previous = before
        .filter(|_| kind == "customer.subscription.updated")
        .map(|before| changed(&before, &body));
    state.record_event(kind, at, &body, previous.as_ref());
    Ok(body)
}

/// The top-level attributes that differ, as they were.
fn changed(before: &Value, after: &Value) -> Value {
    let attributes = before.as_object().into_iter().flatten();
    attributes
        .filter(|(name, value)| after.get(name) != Some(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect::<serde_json::Map<String, Value>>()
        .into()
}
