//! The lines of invoices: fees, prorations and usage, and their JSON.

use serde_json::{Value, json};

use crate::billing::calendar::Period;
use crate::billing::money::Cents;
use crate::billing::prices::Price;
use crate::billing::products::Product;
use crate::billing::subscriptions::item::Item;
use crate::billing::usage::Usage;
use crate::ids;
use crate::list::Collection;

/// One line. With `usage`, quantity and amount are measured again until the invoice is final.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) item: String,
    pub(crate) price: String,
    pub(crate) meter: Option<String>,
    pub(crate) quantity: i64,
    pub(crate) amount: i64,
    pub(crate) period: Period,
    pub(crate) proration: bool,
    /// The invoice item that it came from: a proration, or the usage of an item that was removed.
    pub(crate) invoice_item: Option<String>,
    pub(crate) usage: Option<Usage>,
}

impl Line {
    /// A fee, or a part of one.
    pub(crate) fn fee(item: &Item, amount: i64, period: Period) -> Line {
        Line {
            id: ids::billing("il_"),
            item: item.id.clone(),
            price: item.price.clone(),
            meter: None,
            quantity: item.quantity.unwrap_or(0),
            amount,
            period,
            proration: false,
            invoice_item: None,
            usage: None,
        }
    }

    /// A part of a fee, charged or credited.
    pub(crate) fn proration(item: &Item, amount: i64, period: Period) -> Line {
        Line {
            proration: true,
            invoice_item: Some(ids::billing("ii_")),
            ..Line::fee(item, amount, period)
        }
    }

    /// Usage that can still grow.
    pub(crate) fn usage(usage: Usage) -> Line {
        Line {
            id: ids::billing("il_"),
            item: usage.item.clone(),
            price: usage.price.clone(),
            meter: Some(usage.meter.clone()),
            quantity: 0,
            amount: 0,
            period: Period {
                start: usage.from,
                end: usage.to,
            },
            proration: false,
            invoice_item: None,
            usage: Some(usage),
        }
    }

    /// Makes usage final. A negative quantity is billed as zero.
    pub(crate) fn bill(mut self, price: &Price, quantity: i64) -> Line {
        self.quantity = quantity.max(0);
        self.amount = price.scheme.amount(self.quantity);
        self.usage = None;
        self
    }

    /// The line as Stripe writes it in this invoice.
    pub(crate) fn json(
        &self,
        currency: &str,
        invoice: &str,
        subscription: &str,
        products: &Collection<Product>,
        prices: &Collection<Price>,
    ) -> Value {
        let price = prices.get(&self.price);
        let product = price
            .map(|price| price.product.as_str())
            .unwrap_or_default();
        let name = products
            .get(product)
            .map(|product| product.name.as_str())
            .unwrap_or_default();
        let unit = price.and_then(|price| price.scheme.unit());
        json!({
            "id": self.id,
            "object": "line_item",
            "amount": self.amount,
            "currency": currency,
            "description": format!("{} × {name}", self.quantity),
            "discount_amounts": [],
            "discountable": !self.proration,
            "discounts": [],
            "invoice": invoice,
            "livemode": false,
            "metadata": {},
            "parent": {
                "invoice_item_details": null,
                "subscription_item_details": {
                    "invoice_item": self.invoice_item,
                    "proration": self.proration,
                    "proration_details": { "credited_items": null },
                    "subscription": subscription,
                    "subscription_item": self.item,
                },
                "type": "subscription_item_details",
            },
            "period": { "end": self.period.end, "start": self.period.start },
            "pretax_credit_amounts": [],
            "pricing": {
                "price_details": { "price": self.price, "product": product },
                "type": "price_details",
                "unit_amount_decimal": unit.map(|unit: Cents| unit.to_string()),
            },
            "quantity": self.quantity,
            "quantity_decimal": self.quantity.to_string(),
            "subscription": subscription,
            "subtotal": self.amount,
            "taxes": [],
        })
    }
}
