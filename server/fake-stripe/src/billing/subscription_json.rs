//! Subscriptions and their items as Stripe writes them.

use serde_json::{Value, json};

use super::subscriptions::{Item, Subscription, price_of};
use crate::errors::StripeError;
use crate::state::State;

/// What the fake Stripe does not model has the value of a fresh subscription.
pub(crate) fn subscription_json(
    state: &State,
    subscription: &Subscription,
) -> Result<Value, StripeError> {
    let items = subscription
        .items
        .iter()
        .map(|item| item_json(state, &subscription.id, item))
        .collect::<Result<Vec<Value>, StripeError>>()?;
    let mut billing_mode = json!({
        "flexible": subscription.flexible.then(|| json!({ "proration_discounts": "included" })),
        "type": if subscription.flexible { "flexible" } else { "classic" },
    });
    if let (Some(at), Some(mode)) = (subscription.mode_updated_at, billing_mode.as_object_mut()) {
        mode.insert("updated_at".to_owned(), json!(at));
    }
    let mut body = json!({
        "id": subscription.id,
        "object": "subscription",
        "billing_cycle_anchor": subscription.anchor,
        "billing_mode": billing_mode,
        "cancel_at": subscription.cancel_at,
        "cancel_at_period_end": subscription.cancel_at_period_end,
        "canceled_at": subscription.canceled_at,
        "cancellation_details": {
            "comment": subscription.comment,
            "feedback": subscription.feedback,
            "feedback_option": null,
            "reason": subscription.canceled_at.map(|_| "cancellation_requested"),
        },
        "created": subscription.created,
        "currency": subscription.currency,
        "customer": subscription.customer,
        "description": subscription.description,
        "ended_at": subscription.ended_at,
        "items": {
            "object": "list",
            "data": items,
            "has_more": false,
            "url": format!("/v1/subscription_items?subscription={}", subscription.id),
        },
        "latest_invoice": subscription.latest_invoice,
        "metadata": subscription.metadata,
        "start_date": subscription.start_date,
        "status": subscription.status(),
    });
    if let (Some(body), Value::Object(rest)) = (body.as_object_mut(), unmodelled_fields()) {
        body.extend(rest);
    }
    Ok(body)
}

fn unmodelled_fields() -> Value {
    json!({
        "application": null,
        "application_fee_percent": null,
        "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null },
        "billing_cycle_anchor_config": null,
        "billing_schedules": [],
        "billing_thresholds": null,
        "collection_method": "charge_automatically",
        "customer_account": null,
        "days_until_due": null,
        "default_payment_method": null,
        "default_source": null,
        "default_tax_rates": [],
        "discounts": [],
        "invoice_settings": {
            "account_tax_ids": null,
            "custom_fields": null,
            "description": null,
            "footer": null,
            "issuer": { "type": "self" },
        },
        "livemode": false,
        "managed_payments": { "enabled": false },
        "next_pending_invoice_item_invoice": null,
        "on_behalf_of": null,
        "pause_collection": null,
        "payment_settings": {
            "payment_method_options": null,
            "payment_method_types": null,
            "save_default_payment_method": "off",
        },
        "pending_invoice_item_interval": null,
        "pending_setup_intent": null,
        "pending_update": null,
        "schedule": null,
        "test_clock": null,
        "transfer_data": null,
        "trial_end": null,
        "trial_settings": {
            "end_behavior": { "billing_cycle_anchor": null, "missing_payment_method": "create_invoice" },
        },
        "trial_start": null,
    })
}

pub(crate) fn item_json(
    state: &State,
    subscription: &str,
    item: &Item,
) -> Result<Value, StripeError> {
    let price = price_of(state, &item.price)?;
    let mut body = json!({
        "id": item.id,
        "object": "subscription_item",
        "billing_thresholds": null,
        "created": item.created,
        "current_period_end": item.period.end,
        "current_period_start": item.period.start,
        "current_trial": null,
        "discounts": [],
        "metadata": item.metadata,
        "plan": price.plan_json(),
        "price": price.json(false),
        "subscription": subscription,
        "tax_rates": [],
    });
    if let (Some(quantity), Some(body)) = (item.quantity, body.as_object_mut()) {
        body.insert("quantity".to_owned(), json!(quantity));
    }
    Ok(body)
}
