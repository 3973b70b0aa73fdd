//! The control endpoints below `/control/`: JSON both ways and no authentication, so they belong on loopback only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::billing::{self, advance_clock};
use crate::control_types::{
    BlockState, ClockChange, ClockState, CustomerSnapshot, LoggedRequest, MeterName, MeterSnapshot,
    NewCustomer, NewMeter, SettingsChange, Stats, StoredEvent, TotalSnapshot, Wait, Waited,
};
use crate::customers::{self, Customer};
use crate::faults::Fault;
use crate::ids;
use crate::meters::{Formula, Meter};
use crate::state::{App, State};

pub(crate) const MAX_WAIT_MS: u64 = 10 * 60 * 1_000;

type Control = Shared<Arc<App>>;

/// A refusal of a control call, as JSON with one sentence.
pub(crate) struct ControlFailure(pub(crate) StatusCode, pub(crate) String);

impl IntoResponse for ControlFailure {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

/// The routes below `/control`.
pub(crate) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/clock", get(clock).post(change_clock))
        .route("/customers", get(list_customers).post(create_customer))
        .route("/customers/{id}", delete(delete_customer))
        .route("/events", get(events))
        .route("/faults", get(faults).post(script).delete(clear_faults))
        .route("/blocks", get(blocks))
        .route("/blocks/release", post(release))
        .route("/meters", get(meters).post(create_meter))
        .route("/meters/deactivate", post(deactivate_meter))
        .route("/requests", get(requests))
        .route("/settings", get(settings).post(change_settings))
        .route("/stats", get(stats))
        .route("/totals", get(totals))
        .route("/wait", get(wait))
        .merge(billing::control::router())
        .fallback(|| async {
            ControlFailure(
                StatusCode::NOT_FOUND,
                "No such control endpoint.".to_owned(),
            )
        })
}

async fn clock(Shared(app): Control) -> Json<ClockState> {
    Json(app.read(clock_state))
}

async fn change_clock(
    Shared(app): Control,
    Json(change): Json<ClockChange>,
) -> Result<Json<ClockState>, ControlFailure> {
    app.update(|state| {
        // What is due by the old time is done before the clock moves: a step back would undo it otherwise.
        advance_clock::run_due_work(state);
        match (change.set_ms, change.advance_ms, change.real_offset_ms) {
            (Some(at_ms), None, None) => state.clock.freeze(at_ms),
            (None, Some(by_ms), None) => state.clock.advance(by_ms),
            (None, None, Some(offset_ms)) => state.clock.use_real_time(offset_ms),
            _ => {
                let hint = "Give exactly one of set_ms, advance_ms and real_offset_ms.";
                return Err(ControlFailure(StatusCode::BAD_REQUEST, hint.to_owned()));
            }
        }
        advance_clock::run_due_work(state);
        Ok(Json(clock_state(state)))
    })
}

fn clock_state(state: &State) -> ClockState {
    ClockState {
        now_ms: state.clock.now_ms(),
        frozen: state.clock.is_frozen(),
    }
}

async fn list_customers(Shared(app): Control) -> Json<Vec<CustomerSnapshot>> {
    Json(app.read(|state| {
        let snapshot = |customer: &Customer| CustomerSnapshot {
            id: customer.id.clone(),
            deleted: customer.deleted,
        };
        state.customers.newest_first().map(snapshot).collect()
    }))
}

async fn create_customer(
    Shared(app): Control,
    Json(new): Json<NewCustomer>,
) -> Result<Json<CustomerSnapshot>, ControlFailure> {
    app.update(|state| {
        if new.id.is_empty() || state.customers.contains(&new.id) {
            return Err(ControlFailure(
                StatusCode::CONFLICT,
                format!("The customer id \"{}\" is empty or taken.", new.id),
            ));
        }
        let customer = Customer::new(&new.id, state.clock.now_secs());
        state.customers.insert(&new.id, customer);
        Ok(Json(CustomerSnapshot {
            id: new.id,
            deleted: false,
        }))
    })
}

async fn delete_customer(
    Shared(app): Control,
    Path(id): Path<String>,
) -> Result<Json<CustomerSnapshot>, ControlFailure> {
    app.update(|state| {
        advance_clock::run_due_work(state);
        match state.customers.get(&id) {
            None => {
                return Err(ControlFailure(
                    StatusCode::NOT_FOUND,
                    format!("No such customer: {id}"),
                ));
            }
            // A customer that is deleted already stays so.
            Some(customer) if customer.deleted => {}
            Some(_) => {
                customers::remove(state, &id)
                    .map_err(|error| ControlFailure(StatusCode::CONFLICT, error.message))?;
            }
        }
        Ok(Json(CustomerSnapshot { id, deleted: true }))
    })
}

async fn meters(Shared(app): Control) -> Json<Vec<MeterSnapshot>> {
    Json(app.read(|state| state.meters.newest_first().map(meter_snapshot).collect()))
}

fn meter_snapshot(meter: &Meter) -> MeterSnapshot {
    MeterSnapshot {
        id: meter.id.clone(),
        event_name: meter.event_name.clone(),
        formula: meter.formula.name().to_owned(),
        active: meter.is_active(),
    }
}

async fn create_meter(
    Shared(app): Control,
    Json(new): Json<NewMeter>,
) -> Result<Json<MeterSnapshot>, ControlFailure> {
    let formula = new.formula.as_deref().unwrap_or("sum");
    let Some(formula) = Formula::parse(formula) else {
        return Err(ControlFailure(
            StatusCode::BAD_REQUEST,
            format!("No such formula: {formula}"),
        ));
    };
    app.update(|state| {
        let id = new.id.unwrap_or_else(ids::meter);
        if state.meters.contains(&id) || state.active_meter(&new.event_name).is_some() {
            let taken = format!(
                "The meter id {id} or the event name {} is taken.",
                new.event_name
            );
            return Err(ControlFailure(StatusCode::CONFLICT, taken));
        }
        let meter = Meter::new(&id, &new.event_name, formula, state.clock.now_secs());
        let snapshot = meter_snapshot(&meter);
        state.add_meter(meter);
        Ok(Json(snapshot))
    })
}

async fn deactivate_meter(
    Shared(app): Control,
    Json(name): Json<MeterName>,
) -> Result<Json<MeterSnapshot>, ControlFailure> {
    app.update(|state| {
        let now = state.clock.now_secs();
        let id = state
            .active_meter(&name.event_name)
            .map(|meter| meter.id.clone())
            .unwrap_or_default();
        match state.meters.get_mut(&id) {
            Some(meter) => {
                meter.deactivate(now);
                Ok(Json(meter_snapshot(meter)))
            }
            None => Err(ControlFailure(
                StatusCode::NOT_FOUND,
                format!("No active meter for {}.", name.event_name),
            )),
        }
    })
}

async fn events(Shared(app): Control) -> Json<Vec<StoredEvent>> {
    Json(app.read(|state| {
        let events = state.events.iter().map(|event| StoredEvent {
            identifier: event.identifier.clone(),
            event_name: event.event_name.clone(),
            customer: event.customer.clone(),
            value: event.value,
            timestamp: event.timestamp,
            received_at_ms: event.received_at_ms,
            cancelled: event.cancelled,
        });
        events.collect()
    }))
}

async fn totals(Shared(app): Control) -> Json<Vec<TotalSnapshot>> {
    Json(app.read(|state| {
        let mut totals: BTreeMap<(&str, &str), i64> = BTreeMap::new();
        for event in state.events.iter().filter(|event| !event.cancelled) {
            let total = totals
                .entry((&event.customer, &event.event_name))
                .or_default();
            *total = total.saturating_add(event.value);
        }
        let snapshots = totals
            .into_iter()
            .map(|((customer, event_name), total)| TotalSnapshot {
                customer: customer.to_owned(),
                event_name: event_name.to_owned(),
                total,
            });
        snapshots.collect()
    }))
}

async fn requests(Shared(app): Control) -> Json<Vec<LoggedRequest>> {
    Json(app.read(|state| state.log.iter().cloned().collect()))
}

async fn stats(Shared(app): Control) -> Json<Stats> {
    Json(app.read(|state| Stats {
        events: u64::try_from(state.events.len()).unwrap_or(u64::MAX),
        ..state.stats.clone()
    }))
}

async fn faults(Shared(app): Control) -> Json<Vec<Fault>> {
    Json(app.read(|state| state.faults.pending().cloned().collect()))
}

async fn script(Shared(app): Control, Json(fault): Json<Fault>) -> Json<Value> {
    app.update(|state| state.faults.script(fault));
    done()
}

async fn clear_faults(Shared(app): Control) -> Json<Value> {
    app.update(|state| state.faults.clear());
    done()
}

async fn blocks(Shared(app): Control) -> Json<Vec<BlockState>> {
    Json(app.read(|state| {
        state
            .faults
            .blocks()
            .map(|(name, blocked)| BlockState {
                name: name.to_owned(),
                blocked,
            })
            .collect()
    }))
}

async fn release(
    Shared(app): Control,
    Json(block): Json<BlockState>,
) -> Result<Json<Value>, ControlFailure> {
    if app.update(|state| state.faults.release(&block.name)) {
        return Ok(done());
    }
    Err(ControlFailure(
        StatusCode::NOT_FOUND,
        format!("No fault was scripted with the block \"{}\".", block.name),
    ))
}

async fn settings(Shared(app): Control) -> Json<SettingsChange> {
    Json(app.read(|state| SettingsChange {
        summary_delay_ms: u64::try_from(state.summary_delay_ms).ok(),
        events_per_sec: Some(state.rate_limit.per_sec()),
        latency_ms: u64::try_from(state.latency.as_millis()).ok(),
        summarize_empty_ranges: Some(state.summarize_empty_ranges),
        bare_error_codes: Some(state.bare_error_codes),
    }))
}

async fn change_settings(Shared(app): Control, Json(change): Json<SettingsChange>) -> Json<Value> {
    app.update(|state| {
        if let Some(delay_ms) = change.summary_delay_ms {
            state.summary_delay_ms = i64::try_from(delay_ms).unwrap_or(i64::MAX);
        }
        if let Some(per_sec) = change.events_per_sec {
            state.rate_limit.set_per_sec(per_sec);
        }
        if let Some(latency_ms) = change.latency_ms {
            state.latency = Duration::from_millis(latency_ms);
        }
        if let Some(summarize) = change.summarize_empty_ranges {
            state.summarize_empty_ranges = summarize;
        }
        if let Some(bare) = change.bare_error_codes {
            state.bare_error_codes = bare;
        }
    });
    done()
}

async fn wait(Shared(app): Control, Query(wait): Query<Wait>) -> Json<Waited> {
    let timeout = Duration::from_millis(wait.timeout_ms.unwrap_or(5_000).min(MAX_WAIT_MS));
    let progress = |state: &State| Waited {
        reached: false,
        events: state.events.len(),
        requests: state.log.count(wait.path.as_deref()),
        blocked: wait
            .block
            .as_deref()
            .map_or(0, |block| state.faults.blocked(block)),
    };
    let reached = app.wait_until(|state| {
        let progress = progress(state);
        wait.events.is_none_or(|n| progress.events >= n)
            && wait.requests.is_none_or(|n| progress.requests >= n)
            && wait.blocked.is_none_or(|n| progress.blocked >= n)
    });
    let reached = tokio::time::timeout(timeout, reached)
        .await
        .unwrap_or(false);
    Json(Waited {
        reached,
        ..app.read(progress)
    })
}

fn done() -> Json<Value> {
    Json(json!({ "done": true }))
}
