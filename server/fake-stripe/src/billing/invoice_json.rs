//! Invoices and their lines as Stripe writes them.

use serde_json::{Value, json};

use super::invoices::{Invoice, Line, Status};
use super::money::Cents;
use crate::state::State;

/// Stripe embeds this many lines; the rest is in the list of lines.
const EMBEDDED_LINES: usize = 10;

/// A draft is written with its usage so far.
pub(crate) fn invoice_json(state: &State, invoice: &Invoice) -> Value {
    let invoice = invoice.measured(state);
    let (total, due) = (invoice.total(), invoice.due());
    let paid = invoice.status == Status::Paid;
    let lines: Vec<Value> = invoice
        .lines
        .iter()
        .map(|line| line_json(state, &invoice, line))
        .collect();
    let metadata = state
        .billing
        .subscriptions
        .get(&invoice.subscription)
        .map(|subscription| &subscription.metadata);
    let mut body = json!({
        "id": invoice.id,
        "object": "invoice",
        "amount_due": due,
        "amount_paid": 0,
        "amount_remaining": due,
        "attempted": paid,
        "auto_advance": invoice.finalizes_at.is_some(),
        "automatically_finalizes_at": invoice.finalizes_at,
        "billing_reason": invoice.reason,
        "created": invoice.created,
        "currency": invoice.currency,
        "customer": invoice.customer,
        "effective_at": invoice.finalized_at,
        "ending_balance": invoice.finalized_at.map(|_| total.min(0)),
        "lines": {
            "object": "list",
            "data": lines.get(..EMBEDDED_LINES).unwrap_or(&lines),
            "has_more": lines.len() > EMBEDDED_LINES,
            "url": format!("/v1/invoices/{}/lines", invoice.id),
        },
        "number": invoice.number,
        "parent": {
            "quote_details": null,
            "subscription_details": { "metadata": metadata, "subscription": invoice.subscription },
            "type": "subscription_details",
        },
        "period_end": invoice.period.end,
        "period_start": invoice.period.start,
        "status": invoice.status.name(),
        "status_transitions": {
            "finalized_at": invoice.finalized_at,
            "marked_uncollectible_at": null,
            "paid_at": invoice.finalized_at.filter(|_| paid),
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

pub(crate) fn line_json(state: &State, invoice: &Invoice, line: &Line) -> Value {
    let price = state.billing.prices.get(&line.price);
    let product = price
        .map(|price| price.product.as_str())
        .unwrap_or_default();
    let name = state
        .billing
        .products
        .get(product)
        .map(|product| product.name.as_str())
        .unwrap_or_default();
    let unit = price.and_then(|price| price.scheme.unit());
    json!({
        "id": line.id,
        "object": "line_item",
        "amount": line.amount,
        "currency": invoice.currency,
        "description": format!("{} × {name}", line.quantity),
        "discount_amounts": [],
        "discountable": !line.proration,
        "discounts": [],
        "invoice": invoice.id,
        "livemode": false,
        "metadata": {},
        "parent": {
            "invoice_item_details": null,
            "subscription_item_details": {
                "invoice_item": line.invoice_item,
                "proration": line.proration,
                "proration_details": { "credited_items": null },
                "subscription": invoice.subscription,
                "subscription_item": line.item,
            },
            "type": "subscription_item_details",
        },
        "period": { "end": line.period.end, "start": line.period.start },
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": { "price": line.price, "product": product },
            "type": "price_details",
            "unit_amount_decimal": unit.map(|unit: Cents| unit.to_string()),
        },
        "quantity": line.quantity,
        "quantity_decimal": line.quantity.to_string(),
        "subscription": invoice.subscription,
        "subtotal": line.amount,
        "taxes": [],
    })
}
