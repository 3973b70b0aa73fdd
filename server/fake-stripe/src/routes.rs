//! Routes below `/v1`.

use serde_json::Value;

use crate::errors::StripeError;
use crate::params::Params;
use crate::state::State;
use crate::{adjustments, billing_routes, customers, meter_events, meters, summaries};

/// Runs the endpoint of one request.
pub(crate) fn dispatch(
    state: &mut State,
    method: &str,
    path: &str,
    params: Params,
) -> Result<Value, StripeError> {
    let segments: Vec<&str> = path
        .strip_prefix("/v1/")
        .unwrap_or_default()
        .split('/')
        .collect();
    match (method, segments.as_slice()) {
        ("POST", ["customers"]) => customers::create(state, params),
        ("GET", ["customers"]) => customers::list(state, params),
        ("GET", ["customers", id]) if !id.is_empty() => customers::retrieve(state, id, params),
        ("POST", ["customers", id]) if !id.is_empty() => customers::update(state, id, params),
        ("DELETE", ["customers", id]) if !id.is_empty() => customers::delete(state, id, params),
        ("POST", ["billing", "meters"]) => meters::create(state, params),
        ("GET", ["billing", "meters"]) => meters::list(state, params),
        ("GET", ["billing", "meters", id]) if !id.is_empty() => meters::retrieve(state, id, params),
        ("POST", ["billing", "meters", id]) if !id.is_empty() => meters::update(state, id, params),
        ("POST", ["billing", "meters", id, "deactivate"]) => meters::deactivate(state, id, params),
        ("POST", ["billing", "meters", id, "reactivate"]) => meters::reactivate(state, id, params),
        ("GET", ["billing", "meters", id, "event_summaries"]) => summaries::list(state, id, params),
        ("POST", ["billing", "meter_events"]) => meter_events::create(state, params),
        ("POST", ["billing", "meter_event_adjustments"]) => adjustments::create(state, params),
        _ => billing_routes::dispatch(state, method, &segments, params)
            .unwrap_or_else(|| Err(StripeError::no_such_url(method, path))),
    }
}
