//! The argument and the replies that all control endpoints share.

use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::errors::StripeError;
use crate::state::SharedApp;

/// The longest wait, in milliseconds.
pub(super) const MAX_WAIT_MS: u64 = 10 * 60 * 1_000;

pub(super) type Control = Shared<SharedApp>;

/// An error of a control endpoint: a status, and JSON with one sentence.
pub(super) struct ControlFailure(pub(super) StatusCode, pub(super) String);

impl IntoResponse for ControlFailure {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

pub(super) fn bad_request(error: StripeError) -> ControlFailure {
    ControlFailure(StatusCode::BAD_REQUEST, error.message)
}

pub(super) fn id_taken(what: &str, id: &str) -> ControlFailure {
    let message = format!("The {what} id \"{id}\" is empty or taken.");
    ControlFailure(StatusCode::CONFLICT, message)
}

pub(super) fn done() -> Json<Value> {
    Json(json!({ "done": true }))
}
