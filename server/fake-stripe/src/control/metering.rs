//! Control endpoints for customers, meters and meter events.

use std::collections::BTreeMap;

use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};

use super::reply::{Control, ControlFailure};
use crate::billing::subscriptions::cancellation;
use crate::control_types::{
    CustomerSnapshot, MeterName, MeterSnapshot, NewCustomer, NewMeter, StoredEvent, TotalSnapshot,
};
use crate::customers::Customer;
use crate::ids;
use crate::meters::{self, Formula, Meter};
use crate::state::SharedApp;

pub(super) fn router() -> Router<SharedApp> {
    Router::new()
        .route("/customers", get(list_customers).post(create_customer))
        .route("/customers/{id}", delete(delete_customer))
        .route("/events", get(events))
        .route("/meters", get(list_meters).post(create_meter))
        .route("/meters/deactivate", post(deactivate_meter))
        .route("/totals", get(totals))
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
        let mut customer = Customer::new(&new.id, state.clock.now_secs());
        customer.test_clock = new.test_clock;
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
    app.update_to_now(|state| {
        match state.customers.get(&id) {
            None => {
                return Err(ControlFailure(
                    StatusCode::NOT_FOUND,
                    format!("No such customer: {id}"),
                ));
            }
            // Deleting a deleted customer changes nothing.
            Some(customer) if customer.deleted => {}
            Some(_) => {
                let parts = state.billing_parts();
                cancellation::delete_customer(
                    parts.customers,
                    parts.billing,
                    parts.metering,
                    parts.now,
                    &id,
                )
                .map_err(|error| ControlFailure(StatusCode::CONFLICT, error.message))?;
            }
        }
        Ok(Json(CustomerSnapshot { id, deleted: true }))
    })
}

async fn list_meters(Shared(app): Control) -> Json<Vec<MeterSnapshot>> {
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
    let window = match new.event_time_window.as_deref() {
        None => None,
        Some("day") => Some("day"),
        Some("hour") => Some("hour"),
        Some(other) => {
            return Err(ControlFailure(
                StatusCode::BAD_REQUEST,
                format!("No such event_time_window: {other}"),
            ));
        }
    };
    app.update(|state| {
        let id = new.id.unwrap_or_else(ids::meter);
        if state.meters.contains(&id) || meters::active(&state.meters, &new.event_name).is_some() {
            let taken = format!(
                "The meter id {id} or the event name {} is taken.",
                new.event_name
            );
            return Err(ControlFailure(StatusCode::CONFLICT, taken));
        }
        let mut meter = Meter::new(&id, &new.event_name, formula, state.clock.now_secs());
        meter.event_time_window = window;
        let snapshot = meter_snapshot(&meter);
        state.meters.insert(&meter.id.clone(), meter);
        Ok(Json(snapshot))
    })
}

async fn deactivate_meter(
    Shared(app): Control,
    Json(name): Json<MeterName>,
) -> Result<Json<MeterSnapshot>, ControlFailure> {
    app.update(|state| {
        let now = state.clock.now_secs();
        let id = meters::active(&state.meters, &name.event_name)
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
