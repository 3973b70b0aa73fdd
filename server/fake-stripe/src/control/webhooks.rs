//! Control endpoints for webhooks: their endpoints, options and deliveries, and thin events.

use std::time::Duration;

use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::Value;

use super::reply::{Control, ControlFailure, MAX_WAIT_MS};
use crate::billing::thin_events;
use crate::control_types::billing::{
    Count, DeliverySnapshot, NewThinEvent, NewWebhook, WebhookOptions, WebhookWait,
};
use crate::state::{SharedApp, State};

pub(super) fn router() -> Router<SharedApp> {
    Router::new()
        .route("/webhooks", post(register_webhook).delete(remove_webhooks))
        .route("/webhooks/options", post(set_webhook_options))
        .route("/webhooks/deliver", post(deliver_webhooks))
        .route("/webhooks/redeliver/{event}", post(redeliver_webhook))
        .route("/webhooks/deliveries", get(deliveries))
        .route("/webhooks/wait", get(wait_for_webhooks))
        .route("/thin_events", post(send_thin_event))
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
    let count = app.update_to_now(|state| state.billing.webhooks.queue_withheld());
    Json(Count { count })
}

async fn redeliver_webhook(
    Shared(app): Control,
    Path(event): Path<String>,
) -> Result<Json<Value>, ControlFailure> {
    if app.update(|state| state.billing.redeliver_event(&event)) {
        return Ok(Json(Value::Null));
    }
    let message = format!("No such event: {event}");
    Err(ControlFailure(StatusCode::NOT_FOUND, message))
}

async fn deliveries(Shared(app): Control) -> Json<Vec<DeliverySnapshot>> {
    Json(app.read(|state| state.billing.webhooks.deliveries.iter().cloned().collect()))
}

async fn wait_for_webhooks(Shared(app): Control, Query(wait): Query<WebhookWait>) -> Json<Count> {
    app.update(State::run_due_work);
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
    let sent = app.update_to_now(|state| {
        thin_events::send(
            &mut state.billing.webhooks,
            &state.clock,
            &new.kind,
            new.meter.as_deref(),
        )
    });
    let message = format!("No such thin event: {}", new.kind);
    sent.map(Json)
        .ok_or(ControlFailure(StatusCode::BAD_REQUEST, message))
}
