//! Control endpoints for scripted faults and blocks, the request log, counters, and waits.

use std::time::Duration;

use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::Value;

use super::reply::{Control, ControlFailure, MAX_WAIT_MS, done};
use crate::control_types::{BlockState, LoggedRequest, Stats, Wait, Waited};
use crate::fault::Fault;
use crate::state::{SharedApp, State};

pub(super) fn router() -> Router<SharedApp> {
    Router::new()
        .route("/faults", get(faults).post(script).delete(clear_faults))
        .route("/blocks", get(blocks))
        .route("/blocks/release", post(release))
        .route("/requests", get(requests))
        .route("/stats", get(stats))
        .route("/wait", get(wait))
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

async fn requests(Shared(app): Control) -> Json<Vec<LoggedRequest>> {
    Json(app.read(|state| state.log.iter().cloned().collect()))
}

async fn stats(Shared(app): Control) -> Json<Stats> {
    Json(app.read(|state| Stats {
        events: u64::try_from(state.events.len()).unwrap_or(u64::MAX),
        duplicates_refused: state.events.duplicates_refused,
        ..state.stats.clone()
    }))
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
