//! The endpoint of each path below `/v1`. Endpoints get the parts of the state that they read and change;
//! `billing_routes` has the paths of billing objects.

use serde_json::Value;

use crate::billing::subscriptions::cancellation;
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
        ("POST", ["customers"]) => customers::create(&mut state.customers, &state.clock, params),
        ("GET", ["customers"]) => customers::list(&state.customers, params),
        ("GET", ["customers", id]) if !id.is_empty() => {
            customers::retrieve(&state.customers, id, params)
        }
        ("POST", ["customers", id]) if !id.is_empty() => {
            customers::update(&mut state.customers, id, params)
        }
        ("DELETE", ["customers", id]) if !id.is_empty() => {
            params.finish()?;
            let parts = state.billing_parts();
            cancellation::delete_customer(
                parts.customers,
                parts.billing,
                parts.metering,
                parts.now,
                id,
            )
        }
        ("POST", ["billing", "meters"]) => meters::create(&mut state.meters, &state.clock, params),
        ("GET", ["billing", "meters"]) => meters::list(&state.meters, params),
        ("GET", ["billing", "meters", id]) if !id.is_empty() => {
            meters::retrieve(&mut state.meters, id, params)
        }
        ("POST", ["billing", "meters", id]) if !id.is_empty() => {
            meters::update(&mut state.meters, &state.clock, id, params)
        }
        ("POST", ["billing", "meters", id, "deactivate"]) => {
            meters::deactivate(&mut state.meters, &state.clock, id, params)
        }
        ("POST", ["billing", "meters", id, "reactivate"]) => {
            meters::reactivate(&mut state.meters, &state.clock, id, params)
        }
        ("GET", ["billing", "meters", id, "event_summaries"]) => summaries::list(
            state.metering(),
            &state.customers,
            state.summarize_empty_ranges,
            id,
            params,
        ),
        ("POST", ["billing", "meter_events"]) => meter_events::create(
            &mut state.events,
            &state.meters,
            &state.customers,
            &state.clock,
            params,
        ),
        ("POST", ["billing", "meter_event_adjustments"]) => {
            adjustments::create(&mut state.events, &state.clock, params)
        }
        _ => billing_routes::dispatch(state, method, &segments, params)
            .unwrap_or_else(|| Err(StripeError::no_such_url(method, path))),
    }
}
