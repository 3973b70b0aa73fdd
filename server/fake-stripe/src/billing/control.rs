//! The control endpoints for billing, below `/control/`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::Value;

use super::invoices::Invoice;
use super::item_changes::Change;
use super::products::Product;
use super::snapshots::{
    BillingChange, Count, DeliverySnapshot, DiscardedUsage, InvoiceLineSnapshot, InvoiceSnapshot,
    ItemSnapshot, NewPrice, NewProduct, NewSubscription, NewThinEvent, NewWebhook,
    SubscriptionSnapshot, WebhookOptions, WebhookWait,
};
use super::subscription_api::{self, SubscriptionRequest};
use super::subscriptions::Subscription;
use super::usage::event_name;
use super::{advance_clock, prices, thin_events};
use crate::control::{ControlFailure, MAX_WAIT_MS};
use crate::errors::StripeError;
use crate::params::Params;
use crate::state::{App, State};

type Control = Shared<Arc<App>>;

/// The billing routes below `/control`.
pub(crate) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/products", post(create_product))
        .route("/prices", post(create_price))
        .route(
            "/subscriptions",
            get(subscriptions).post(create_subscription),
        )
        .route("/invoices", get(invoices))
        .route("/discarded_usage", get(discarded_usage))
        .route("/billing", post(change_billing))
        .route("/webhooks", post(register_webhook).delete(remove_webhooks))
        .route("/webhooks/options", post(set_webhook_options))
        .route("/webhooks/deliver", post(deliver_webhooks))
        .route("/webhooks/redeliver/{event}", post(redeliver_webhook))
        .route("/webhooks/deliveries", get(deliveries))
        .route("/webhooks/wait", get(wait_for_webhooks))
        .route("/thin_events", post(send_thin_event))
}

/// Works on what is snapshots once all that is due is done.
fn update_to_now<T>(app: &App, work: impl FnOnce(&mut State) -> T) -> T {
    app.update(|state| {
        advance_clock::run_due_work(state);
        work(state)
    })
}

fn bad_request(error: StripeError) -> ControlFailure {
    ControlFailure(StatusCode::BAD_REQUEST, error.message)
}

fn id_taken(what: &str, id: &str) -> ControlFailure {
    let message = format!("The {what} id \"{id}\" is empty or taken.");
    ControlFailure(StatusCode::CONFLICT, message)
}

async fn create_product(
    Shared(app): Control,
    Json(new): Json<NewProduct>,
) -> Result<Json<Value>, ControlFailure> {
    update_to_now(&app, |state| {
        if new.id.is_empty() || state.billing.products.contains(&new.id) {
            return Err(id_taken("product", &new.id));
        }
        let product = Product::new(&new.id, &new.name, state.clock.now_secs());
        state.billing.products.insert(&new.id, product);
        Ok(Json(Value::Null))
    })
}

async fn create_price(
    Shared(app): Control,
    Json(new): Json<NewPrice>,
) -> Result<Json<Value>, ControlFailure> {
    update_to_now(&app, |state| {
        if new.id.is_empty() || state.billing.prices.contains(&new.id) {
            return Err(id_taken("price", &new.id));
        }
        let product = Product::new(&new.product, &new.product, state.clock.now_secs());
        if !state.billing.products.contains(&new.product) {
            state.billing.products.insert(&new.product, product);
        }
        let params = Params::nest(&price_pairs(&new)).map_err(bad_request)?;
        prices::create_with_id(state, &new.id, params)
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
    update_to_now(&app, |state| {
        if new.id.is_empty() || state.billing.subscriptions.contains(&new.id) {
            return Err(id_taken("subscription", &new.id));
        }
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
            classic: new.classic,
            prorate: true,
            ..SubscriptionRequest::default()
        };
        if request.items.is_empty() {
            return Err(bad_request(StripeError::missing_param("items")));
        }
        subscription_api::create_from(state, request).map_err(bad_request)?;
        let created = state.billing.subscriptions.get(&new.id);
        created
            .map(|created| Json(subscription_snapshot(state, created)))
            .ok_or_else(|| id_taken("subscription", &new.id))
    })
}

async fn subscriptions(Shared(app): Control) -> Json<Vec<SubscriptionSnapshot>> {
    Json(update_to_now(&app, |state| {
        let all = state.billing.subscriptions.newest_first();
        all.map(|one| subscription_snapshot(state, one)).collect()
    }))
}

fn subscription_snapshot(state: &State, subscription: &Subscription) -> SubscriptionSnapshot {
    let items = subscription.items.iter().map(|item| ItemSnapshot {
        id: item.id.clone(),
        price: item.price.clone(),
        event_name: state
            .billing
            .prices
            .get(&item.price)
            .and_then(|price| price.meter())
            .map(|meter| event_name(state, meter)),
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
    Json(update_to_now(&app, |state| {
        let all = state.billing.invoices.newest_first();
        let mut snapshots: Vec<InvoiceSnapshot> =
            all.map(|one| invoice_snapshot(state, one)).collect();
        snapshots.reverse();
        snapshots
    }))
}

fn invoice_snapshot(state: &State, invoice: &Invoice) -> InvoiceSnapshot {
    let invoice = invoice.measured(state);
    let lines = invoice.lines.iter().map(|line| InvoiceLineSnapshot {
        item: line.item.clone(),
        price: line.price.clone(),
        event_name: line.meter.as_ref().map(|meter| event_name(state, meter)),
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
    Json(update_to_now(&app, |state| {
        let mut all = Vec::new();
        for final_usage in &state.billing.final_usage {
            let discard_reason = final_usage
                .discard_reason
                .map(|reason| (reason, final_usage.quantity));
            let entries = [discard_reason, Some(("late", final_usage.late(state)))];
            for (reason, quantity) in entries.into_iter().flatten() {
                if quantity == 0 {
                    continue;
                }
                let usage = &final_usage.usage;
                all.push(DiscardedUsage {
                    customer: usage.customer.clone(),
                    subscription: usage.subscription.clone(),
                    price: usage.price.clone(),
                    event_name: event_name(state, &usage.meter),
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
    update_to_now(&app, |state| {
        if let Some(secs) = change.grace_secs {
            state.billing.grace_secs = i64::try_from(secs).unwrap_or(i64::MAX);
        }
    });
    Json(Value::Null)
}

async fn register_webhook(Shared(app): Control, Json(new): Json<NewWebhook>) -> Json<Value> {
    app.update(|state| {
        let endpoints = &mut state.billing.webhooks.endpoints;
        endpoints.retain(|endpoint| endpoint.url != new.url);
        endpoints.push(new);
    });
    Json(Value::Null)
}

async fn remove_webhooks(Shared(app): Control) -> Json<Value> {
    app.update(|state| state.billing.webhooks.endpoints.clear());
    Json(Value::Null)
}

async fn set_webhook_options(Shared(app): Control, Json(new): Json<WebhookOptions>) -> Json<Value> {
    app.update(|state| state.billing.webhooks.options = new);
    Json(Value::Null)
}

async fn deliver_webhooks(Shared(app): Control) -> Json<Count> {
    let count = update_to_now(&app, |state| state.billing.webhooks.queue_withheld());
    Json(Count { count })
}

async fn redeliver_webhook(
    Shared(app): Control,
    Path(event): Path<String>,
) -> Result<Json<Value>, ControlFailure> {
    if app.update(|state| state.redeliver_event(&event)) {
        return Ok(Json(Value::Null));
    }
    let message = format!("No such event: {event}");
    Err(ControlFailure(StatusCode::NOT_FOUND, message))
}

async fn deliveries(Shared(app): Control) -> Json<Vec<DeliverySnapshot>> {
    Json(app.read(|state| state.billing.webhooks.deliveries.iter().cloned().collect()))
}

async fn wait_for_webhooks(Shared(app): Control, Query(wait): Query<WebhookWait>) -> Json<Count> {
    app.update(advance_clock::run_due_work);
    let timeout = Duration::from_millis(wait.timeout_ms.min(MAX_WAIT_MS));
    let reached = app.wait_until(|state| state.billing.webhooks.accepted >= wait.accepted);
    // The caller compares the returned count with the one it asked for.
    let _: Result<bool, _> = tokio::time::timeout(timeout, reached).await;
    let count = app.read(|state| state.billing.webhooks.accepted);
    Json(Count { count })
}

async fn send_thin_event(
    Shared(app): Control,
    Json(new): Json<NewThinEvent>,
) -> Result<Json<Value>, ControlFailure> {
    let sent = update_to_now(&app, |state| {
        thin_events::send(state, &new.kind, new.meter.as_deref())
    });
    let message = format!("No such thin event: {}", new.kind);
    sent.map(Json)
        .ok_or(ControlFailure(StatusCode::BAD_REQUEST, message))
}
