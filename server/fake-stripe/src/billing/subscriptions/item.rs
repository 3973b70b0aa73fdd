//! The items of subscriptions: one price each, with its period, its fee, and its JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::billing::calendar::Period;
use crate::billing::money::share;
use crate::billing::prices::{Price, price_of};
use crate::errors::StripeError;
use crate::ids;
use crate::list::Collection;

/// One price on a subscription.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) price: String,
    /// The quantity of a licensed price; `None` for a metered one.
    pub(crate) quantity: Option<i64>,
    pub(crate) created: i64,
    pub(crate) period: Period,
    /// The time from which usage is billed: the period's start, or later if the item was added or changed within it.
    pub(crate) used_from: i64,
    pub(crate) metadata: BTreeMap<String, String>,
}

impl Item {
    /// A new item. Its period is the one that contains `at`, counted from the anchor, and does not begin before `start`.
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

    /// The fee of a licensed item for a whole period.
    pub(crate) fn fee(&self, price: &Price) -> i64 {
        price.scheme.amount(self.quantity.unwrap_or(0))
    }

    /// The part of the fee from a moment to the period's end.
    pub(crate) fn fee_from(&self, price: &Price, at: i64, full: Period) -> i64 {
        let left = self.period.end.saturating_sub(at);
        share(self.fee(price), left, full.end.saturating_sub(full.start))
    }

    /// The item as Stripe writes it.
    pub(crate) fn json(
        &self,
        prices: &Collection<Price>,
        subscription: &str,
    ) -> Result<Value, StripeError> {
        let price = price_of(prices, &self.price)?;
        let mut body = json!({
            "id": self.id,
            "object": "subscription_item",
            "billing_thresholds": null,
            "created": self.created,
            "current_period_end": self.period.end,
            "current_period_start": self.period.start,
            "current_trial": null,
            "discounts": [],
            "metadata": self.metadata,
            "plan": price.plan_json(),
            "price": price.json(false),
            "subscription": subscription,
            "tax_rates": [],
        });
        if let (Some(quantity), Some(body)) = (self.quantity, body.as_object_mut()) {
            body.insert("quantity".to_owned(), json!(quantity));
        }
        Ok(body)
    }
}
