//! Invoices: drafts whose usage can still grow, then final and unchanged. `line` has the lines, `issue` creates and
//! finalizes invoices, `endpoints` and `outcomes` are `/v1/invoices`.

pub(crate) mod endpoints;
pub(crate) mod issue;
pub(crate) mod line;
pub(crate) mod outcomes;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::line::Line;
use crate::billing::calendar::Period;
use crate::billing::prices::Price;
use crate::billing::products::Product;
use crate::billing::usage::Visibility;
use crate::customer_balances::{AfterBalance, Balances, apply_balance};
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
    Uncollectible,
    Void,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Draft => "draft",
            Status::Open => "open",
            Status::Paid => "paid",
            Status::Uncollectible => "uncollectible",
            Status::Void => "void",
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
    /// When its status became the present one after it was open.
    pub(crate) ended_at: Option<i64>,
    /// The customer's balance before it is set off; that of now for a draft.
    pub(crate) starting_balance: i64,
    /// What finalizing it added to that balance.
    pub(crate) balance_change: i64,
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

    /// The total, set off against the customer's balance.
    pub(crate) fn after_balance(&self) -> AfterBalance {
        apply_balance(self.total(), self.starting_balance, &self.currency)
    }

    /// The amount due; zero if there is a credit, or where it is too small to be charged.
    pub(crate) fn due(&self) -> i64 {
        self.after_balance().due
    }

    /// Whether it may still be paid.
    pub(crate) fn is_unpaid(&self) -> bool {
        matches!(self.status, Status::Draft | Status::Open)
    }

    /// The invoice with its usage so far.
    pub(crate) fn measured(
        &self,
        metering: Metering<'_>,
        prices: &Collection<Price>,
        balances: &Balances,
    ) -> Invoice {
        let mut measured = self.clone();
        if self.status == Status::Draft {
            measured.starting_balance = balances.amount(&self.customer);
        }
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
        let total = self.total();
        let due = self.due();
        let ending_balance = self.starting_balance.saturating_add(self.balance_change);
        let paid = self.status == Status::Paid;
        let amount_paid = if paid { due } else { 0 };
        let ended = |status| self.ended_at.filter(|_| self.status == status);
        let lines = self.lines_json(products, prices);
        let mut body = json!({
            "id": self.id,
            "object": "invoice",
            "amount_due": due,
            "amount_paid": amount_paid,
            "amount_remaining": due.saturating_sub(amount_paid),
            "attempted": paid,
            "auto_advance": self.finalizes_at.is_some(),
            "automatically_finalizes_at": self.finalizes_at,
            "billing_reason": self.reason,
            "created": self.created,
            "currency": self.currency,
            "customer": self.customer,
            "effective_at": self.finalized_at,
            "ending_balance": self.finalized_at.map(|_| ending_balance),
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
                "marked_uncollectible_at": ended(Status::Uncollectible),
                "paid_at": ended(Status::Paid),
                "voided_at": ended(Status::Void),
            },
            "starting_balance": self.starting_balance,
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
