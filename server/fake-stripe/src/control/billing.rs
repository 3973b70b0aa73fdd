//! Control endpoints for billing: catalog, subscriptions, invoices and discarded usage.

use axum::extract::State as Shared;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::Value;

use super::reply::{Control, ControlFailure, bad_request, id_taken};
use crate::billing::invoices::Invoice;
use crate::billing::prices;
use crate::billing::products::Product;
use crate::billing::subscriptions::Subscription;
use crate::billing::subscriptions::change_request::Change;
use crate::billing::subscriptions::create::{SubscriptionRequest, create_from};
use crate::billing::subscriptions::trial::{self, AtEnd};
use crate::control_types::billing::{
    BillingChange, DiscardedUsage, InvoiceLineSnapshot, InvoiceSnapshot, ItemSnapshot, NewPrice,
    NewSubscription, SubscriptionSnapshot,
};
use crate::errors::StripeError;
use crate::params::Params;
use crate::state::{BillingParts, SharedApp, State};

pub(super) fn router() -> Router<SharedApp> {
    Router::new()
        .route("/prices", post(create_price))
        .route(
            "/subscriptions",
            get(subscriptions).post(create_subscription),
        )
        .route("/invoices", get(invoices))
        .route("/discarded_usage", get(discarded_usage))
        .route("/billing", post(change_billing))
}

async fn create_price(
    Shared(app): Control,
    Json(new): Json<NewPrice>,
) -> Result<Json<Value>, ControlFailure> {
    app.update_to_now(|state| {
        if new.id.is_empty() || state.billing.prices.contains(&new.id) {
            return Err(id_taken("price", &new.id));
        }
        let product = Product::new(&new.product, &new.product, state.clock.now_secs());
        if !state.billing.products.contains(&new.product) {
            state.billing.products.insert(&new.product, product);
        }
        let params = Params::nest(&price_pairs(&new)).map_err(bad_request)?;
        let BillingParts {
            billing,
            metering,
            now,
            ..
        } = state.billing_parts();
        prices::create(
            &mut billing.prices,
            &mut billing.products,
            metering.meters,
            now,
            &new.id,
            params,
        )
        .map(Json)
        .map_err(bad_request)
    })
}

/// The price as parameters of `POST /v1/prices`, so that the same checks apply.
fn price_pairs(new: &NewPrice) -> Vec<(String, String)> {
    let or = |text: &str, other: &str| {
        if text.is_empty() {
            other.to_owned()
        } else {
            text.to_owned()
        }
    };
    let mut pairs = vec![
        ("product".to_owned(), new.product.clone()),
        ("currency".to_owned(), or(&new.currency, "usd")),
        ("recurring[interval]".to_owned(), or(&new.interval, "month")),
    ];
    if let Some(meter) = &new.meter {
        pairs.push(("recurring[usage_type]".to_owned(), "metered".to_owned()));
        pairs.push(("recurring[meter]".to_owned(), meter.clone()));
    }
    if let Some(key) = &new.lookup_key {
        pairs.push(("lookup_key".to_owned(), key.clone()));
    }
    let Some(mode) = &new.tiers_mode else {
        let unit = new
            .tiers
            .first()
            .map(|tier| tier.unit_amount_decimal.clone());
        pairs.push(("unit_amount_decimal".to_owned(), unit.unwrap_or_default()));
        return pairs;
    };
    pairs.push(("billing_scheme".to_owned(), "tiered".to_owned()));
    pairs.push(("tiers_mode".to_owned(), mode.clone()));
    for (index, tier) in new.tiers.iter().enumerate() {
        let up_to = tier
            .up_to
            .map_or("inf".to_owned(), |up_to| up_to.to_string());
        let unit = or(&tier.unit_amount_decimal, "0");
        pairs.push((format!("tiers[{index}][up_to]"), up_to));
        pairs.push((format!("tiers[{index}][unit_amount_decimal]"), unit));
        if let Some(flat) = tier.flat_amount {
            pairs.push((format!("tiers[{index}][flat_amount]"), flat.to_string()));
        }
    }
    pairs
}

async fn create_subscription(
    Shared(app): Control,
    Json(new): Json<NewSubscription>,
) -> Result<Json<SubscriptionSnapshot>, ControlFailure> {
    app.update_to_now(|state| {
        if new.id.is_empty() || state.billing.subscriptions.contains(&new.id) {
            return Err(id_taken("subscription", &new.id));
        }
        let at_trial_end = match new.missing_payment_method.as_deref() {
            None => AtEnd::default(),
            Some(name) => AtEnd::parse(name).ok_or_else(|| {
                bad_request(StripeError::invalid(format!(
                    "Invalid missing_payment_method: {name}"
                )))
            })?,
        };
        let items = new.prices.iter().enumerate().map(|(index, price)| Change {
            price: Some(price.clone()),
            quantity: new.quantities.get(index).copied().flatten(),
            ..Change::default()
        });
        let request = SubscriptionRequest {
            id: Some(new.id.clone()),
            customer: new.customer,
            items: items.collect(),
            anchor: new.anchor,
            trial_end: new.trial_end,
            at_trial_end,
            classic: new.classic,
            prorate: true,
            ..SubscriptionRequest::default()
        };
        if let Some(end) = new.trial_end {
            trial::check_end(end, state.clock.now_secs()).map_err(bad_request)?;
        }
        if request.items.is_empty() {
            return Err(bad_request(StripeError::missing_param("items")));
        }
        let BillingParts {
            billing,
            customers,
            metering,
            now,
        } = state.billing_parts();
        create_from(billing, metering, customers, now, request).map_err(bad_request)?;
        let created = state.billing.subscriptions.get(&new.id);
        created
            .map(|created| Json(subscription_snapshot(state, created)))
            .ok_or_else(|| id_taken("subscription", &new.id))
    })
}

async fn subscriptions(Shared(app): Control) -> Json<Vec<SubscriptionSnapshot>> {
    Json(app.update_to_now(|state| {
        let all = state.billing.subscriptions.newest_first();
        all.map(|one| subscription_snapshot(state, one)).collect()
    }))
}

fn subscription_snapshot(state: &State, subscription: &Subscription) -> SubscriptionSnapshot {
    let metering = state.metering();
    let items = subscription.items.iter().map(|item| ItemSnapshot {
        id: item.id.clone(),
        price: item.price.clone(),
        event_name: state
            .billing
            .prices
            .get(&item.price)
            .and_then(|price| price.meter())
            .map(|meter| metering.event_name(meter)),
        quantity: item.quantity,
        period_start: item.period.start,
        period_end: item.period.end,
    });
    SubscriptionSnapshot {
        id: subscription.id.clone(),
        customer: subscription.customer.clone(),
        status: subscription.status().to_owned(),
        anchor: subscription.anchor,
        flexible: subscription.flexible,
        cancel_at: subscription.cancel_at,
        ended_at: subscription.ended_at,
        items: items.collect(),
    }
}

async fn invoices(Shared(app): Control) -> Json<Vec<InvoiceSnapshot>> {
    Json(app.update_to_now(|state| {
        let all = state.billing.invoices.newest_first();
        let mut snapshots: Vec<InvoiceSnapshot> =
            all.map(|one| invoice_snapshot(state, one)).collect();
        snapshots.reverse();
        snapshots
    }))
}

fn invoice_snapshot(state: &State, invoice: &Invoice) -> InvoiceSnapshot {
    let metering = state.metering();
    let invoice = invoice.measured(metering, &state.billing.prices, &state.billing.balances);
    let lines = invoice.lines.iter().map(|line| InvoiceLineSnapshot {
        id: line.id.clone(),
        item: line.item.clone(),
        price: line.price.clone(),
        event_name: line.meter.as_ref().map(|meter| metering.event_name(meter)),
        quantity: line.quantity,
        amount: line.amount,
        period_start: line.period.start,
        period_end: line.period.end,
        proration: line.proration,
    });
    InvoiceSnapshot {
        id: invoice.id.clone(),
        customer: invoice.customer.clone(),
        subscription: invoice.subscription.clone(),
        status: invoice.status.name().to_owned(),
        billing_reason: invoice.reason.to_owned(),
        created: invoice.created,
        finalized_at: invoice.finalized_at,
        period_start: invoice.period.start,
        period_end: invoice.period.end,
        amount_due: invoice.due(),
        lines: lines.collect(),
    }
}

async fn discarded_usage(Shared(app): Control) -> Json<Vec<DiscardedUsage>> {
    Json(app.update_to_now(|state| {
        let mut all = Vec::new();
        for final_usage in &state.billing.final_usage {
            let discard_reason = final_usage
                .discard_reason
                .map(|reason| (reason, final_usage.quantity));
            let entries = [
                discard_reason,
                Some(("late", final_usage.late(state.metering()))),
            ];
            for (reason, quantity) in entries.into_iter().flatten() {
                if quantity == 0 {
                    continue;
                }
                let usage = &final_usage.usage;
                all.push(DiscardedUsage {
                    customer: usage.customer.clone(),
                    subscription: usage.subscription.clone(),
                    price: usage.price.clone(),
                    event_name: state.metering().event_name(&usage.meter),
                    quantity,
                    from: usage.from,
                    to: usage.to,
                    reason: reason.to_owned(),
                    at: final_usage.at,
                });
            }
        }
        all
    }))
}

async fn change_billing(Shared(app): Control, Json(change): Json<BillingChange>) -> Json<Value> {
    app.update_to_now(|state| {
        if let Some(secs) = change.grace_secs {
            state.billing.grace_secs = i64::try_from(secs).unwrap_or(i64::MAX);
        }
        if let Some(lag) = change.invoices_lag {
            state.billing.invoices_lag = lag;
        }
        if let Some(hide) = change.hide_quantities {
            state.billing.hides_quantities = hide;
        }
    });
    Json(Value::Null)
}
