//! The items of subscriptions: one price each, with its period, its fee, and its JSON.

use serde_json::{Value, json};

use crate::billing::calendar::Period;
use crate::billing::money::share;
use crate::billing::prices::{Price, price_of};
use crate::errors::StripeError;
use crate::ids;
use crate::list::Collection;
use crate::metadata::Metadata;

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
    pub(crate) metadata: Metadata,
}

impl Item {
    /// A new item, used from now on.
    pub(crate) fn new(price: &Price, quantity: Option<i64>, period: Period, at: i64) -> Item {
        Item {
            id: ids::billing("si_"),
            price: price.id.clone(),
            quantity: price.meter().is_none().then(|| quantity.unwrap_or(1)),
            created: at,
            period,
            used_from: at,
            metadata: Metadata::new(),
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
            "price": price.json(),
            "subscription": subscription,
            "tax_rates": [],
        });
        if let (Some(quantity), Some(body)) = (self.quantity, body.as_object_mut()) {
            body.insert("quantity".to_owned(), json!(quantity));
        }
        Ok(body)
    }
}
