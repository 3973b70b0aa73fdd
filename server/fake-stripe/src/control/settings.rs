//! Control endpoints for the clock and the settings that may change while the fake Stripe runs.

use std::time::Duration;

use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;

use super::reply::{Control, ControlFailure, done};
use crate::control_types::{ClockChange, ClockState, SettingsChange};
use crate::state::{SharedApp, State};

pub(super) fn router() -> Router<SharedApp> {
    Router::new()
        .route("/clock", get(clock).post(change_clock))
        .route("/settings", get(settings).post(change_settings))
}

async fn clock(Shared(app): Control) -> Json<ClockState> {
    Json(app.read(clock_state))
}

async fn change_clock(
    Shared(app): Control,
    Json(change): Json<ClockChange>,
) -> Result<Json<ClockState>, ControlFailure> {
    // Work that is due by the old time is done first: the new time may be earlier.
    app.update_to_now(|state| {
        match (change.set_ms, change.advance_ms, change.real_offset_ms) {
            (Some(at_ms), None, None) => state.clock.freeze(at_ms),
            (None, Some(by_ms), None) => state.clock.advance(by_ms),
            (None, None, Some(offset_ms)) => state.clock.use_real_time(offset_ms),
            _ => {
                let hint = "Give exactly one of set_ms, advance_ms and real_offset_ms.";
                return Err(ControlFailure(StatusCode::BAD_REQUEST, hint.to_owned()));
            }
        }
        state.run_due_work();
        Ok(Json(clock_state(state)))
    })
}

fn clock_state(state: &State) -> ClockState {
    ClockState {
        now_ms: state.clock.now_ms(),
        frozen: state.clock.is_frozen(),
    }
}

async fn settings(Shared(app): Control) -> Json<SettingsChange> {
    Json(app.read(|state| SettingsChange {
        summary_delay_ms: u64::try_from(state.summary_delay_ms).ok(),
        events_per_sec: Some(state.rate_limit.per_sec()),
        latency_ms: u64::try_from(state.latency.as_millis()).ok(),
        summarize_empty_ranges: Some(state.summarize_empty_ranges),
        bare_error_codes: Some(state.events.bare_error_codes),
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
            state.events.bare_error_codes = bare;
        }
    });
    done()
}
