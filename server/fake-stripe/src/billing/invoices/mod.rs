//! Invoices: drafts whose usage can still grow, then final and unchanged. `line` has the lines, `issue` creates and
//! finalizes invoices, `endpoints` is `/v1/invoices`.

pub(crate) mod endpoints;
pub(crate) mod issue;
pub(crate) mod line;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::line::Line;
use crate::billing::calendar::Period;
use crate::billing::prices::Price;
use crate::billing::products::Product;
use crate::billing::usage::Visibility;
use crate::list::Collection;
use crate::metering::Metering;

/// Stripe embeds this many lines; the rest is in the list of lines.
const EMBEDDED_LINES: usize = 10;

/// The status of an invoice. An invoice without an amount due is paid at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Draft,
    Open,
    Paid,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Draft => "draft",
            Status::Open => "open",
            Status::Paid => "paid",
        }
    }
}

/// An invoice of one subscription.
#[derive(Debug, Clone)]
pub(crate) struct Invoice {
    pub(crate) id: String,
    pub(crate) customer: String,
    pub(crate) subscription: String,
    pub(crate) currency: String,
    pub(crate) reason: &'static str,
    pub(crate) status: Status,
    pub(crate) created: i64,
    /// When the draft is finalized automatically.
    pub(crate) finalizes_at: Option<i64>,
    pub(crate) finalized_at: Option<i64>,
    pub(crate) number: Option<String>,
    pub(crate) period: Period,
    pub(crate) lines: Vec<Line>,
}

/// The content of an invoice to create.
#[derive(Debug)]
pub(crate) struct InvoiceDraft {
    pub(crate) lines: Vec<Line>,
    pub(crate) period: Period,
    pub(crate) reason: &'static str,
    pub(crate) at: i64,
    /// Whether it stays a draft for the grace period, or is finalized at once.
    pub(crate) grace: bool,
}

impl Invoice {
    pub(crate) fn total(&self) -> i64 {
        self.lines
            .iter()
            .fold(0, |total, line| total.saturating_add(line.amount))
    }

    /// The amount due; zero if the total is negative.
    pub(crate) fn due(&self) -> i64 {
        self.total().max(0)
    }

    /// The invoice with its usage so far.
    pub(crate) fn measured(&self, metering: Metering<'_>, prices: &Collection<Price>) -> Invoice {
        let mut measured = self.clone();
        let visibility = Visibility::received(metering);
        for line in &mut measured.lines {
            let Some(usage) = &line.usage else { continue };
            let quantity = usage.measure(metering, visibility).max(0);
            line.quantity = quantity;
            if let Some(price) = prices.get(&line.price) {
                line.amount = price.scheme.amount(quantity);
            }
        }
        measured
    }

    /// The invoice as Stripe writes it, with the metadata of its subscription.
    pub(crate) fn json(
        &self,
        products: &Collection<Product>,
        prices: &Collection<Price>,
        metadata: Option<&BTreeMap<String, String>>,
    ) -> Value {
        let (total, due) = (self.total(), self.due());
        let paid = self.status == Status::Paid;
        let lines = self.lines_json(products, prices);
        let mut body = json!({
            "id": self.id,
            "object": "invoice",
            "amount_due": due,
            "amount_paid": 0,
            "amount_remaining": due,
            "attempted": paid,
            "auto_advance": self.finalizes_at.is_some(),
            "automatically_finalizes_at": self.finalizes_at,
            "billing_reason": self.reason,
            "created": self.created,
            "currency": self.currency,
            "customer": self.customer,
            "effective_at": self.finalized_at,
            "ending_balance": self.finalized_at.map(|_| total.min(0)),
            "lines": {
                "object": "list",
                "data": lines.get(..EMBEDDED_LINES).unwrap_or(&lines),
                "has_more": lines.len() > EMBEDDED_LINES,
                "url": format!("/v1/invoices/{}/lines", self.id),
            },
            "number": self.number,
            "parent": {
                "quote_details": null,
                "subscription_details": { "metadata": metadata, "subscription": self.subscription },
                "type": "subscription_details",
            },
            "period_end": self.period.end,
            "period_start": self.period.start,
            "status": self.status.name(),
            "status_transitions": {
                "finalized_at": self.finalized_at,
                "marked_uncollectible_at": null,
                "paid_at": self.finalized_at.filter(|_| paid),
                "voided_at": null,
            },
            "subtotal": total,
            "subtotal_excluding_tax": total,
            "total": total,
            "total_excluding_tax": total,
        });
        if let (Some(body), Value::Object(rest)) = (body.as_object_mut(), unmodelled_fields()) {
            body.extend(rest);
        }
        body
    }

    /// The lines as Stripe writes them.
    pub(crate) fn lines_json(
        &self,
        products: &Collection<Product>,
        prices: &Collection<Price>,
    ) -> Vec<Value> {
        self.lines
            .iter()
            .map(|line| {
                line.json(
                    &self.currency,
                    &self.id,
                    &self.subscription,
                    products,
                    prices,
                )
            })
            .collect()
    }
}

fn unmodelled_fields() -> Value {
    let mut body = json!({
        "account_country": "US",
        "account_name": null,
        "account_tax_ids": null,
        "amount_overpaid": 0,
        "amount_shipping": 0,
        "application": null,
        "attempt_count": 0,
        "automatic_tax": {
            "disabled_reason": null,
            "enabled": false,
            "liability": null,
            "provider": null,
            "status": null,
        },
        "collection_method": "charge_automatically",
        "custom_fields": null,
        "customer_account": null,
        "customer_address": null,
        "customer_email": null,
        "customer_name": null,
        "customer_phone": null,
        "customer_shipping": null,
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_payment_method": null,
        "default_source": null,
        "default_tax_rates": [],
        "description": null,
        "discounts": [],
        "due_date": null,
        "footer": null,
        "from_invoice": null,
        "hosted_invoice_url": null,
        "invoice_pdf": null,
        "issuer": { "type": "self" },
    });
    let rest = json!({
        "last_finalization_error": null,
        "latest_revision": null,
        "livemode": false,
        "metadata": {},
        "next_payment_attempt": null,
        "on_behalf_of": null,
        "payment_settings": {
            "default_mandate": null,
            "payment_method_options": null,
            "payment_method_types": null,
        },
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "receipt_number": null,
        "rendering": null,
        "shipping_cost": null,
        "shipping_details": null,
        "starting_balance": 0,
        "statement_descriptor": null,
        "test_clock": null,
        "total_discount_amounts": [],
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
        "webhooks_delivered_at": null,
    });
    if let (Some(body), Value::Object(rest)) = (body.as_object_mut(), rest) {
        body.extend(rest);
    }
    body
}
