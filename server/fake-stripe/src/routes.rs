//! The endpoint of each path below `/v1`. Endpoints get the parts of the state that they read and change;
//! `billing_routes` has the paths of billing objects.

use serde_json::Value;

use crate::api_version::ApiVersion;
use crate::billing::subscriptions::cancellation;
use crate::errors::StripeError;
use crate::expand::{Expansion, Objects};
use crate::params::Params;
use crate::state::State;
use crate::unsupported_paths::is_unsupported;
use crate::{adjustments, billing_routes, customers, meter_events, meters, parameters, summaries};

/// Checks the parameters of one request, runs its endpoint, and expands its answer.
pub(crate) fn answer(
    state: &mut State,
    method: &str,
    path: &str,
    version: ApiVersion,
    mut params: Params,
) -> Result<Value, StripeError> {
    if is_unsupported(method, path) {
        return Err(StripeError::unsupported(format!("{method} {path}")));
    }
    if !parameters::is_listed(method, path) {
        return Err(StripeError::no_such_url(method, path));
    }
    parameters::check(method, path, &params)?;
    let expansion = Expansion::take(&mut params, method, path)?;
    let mut body = dispatch(state, method, path, version, params)?;
    let objects = Objects {
        customers: &state.customers,
        billing: &state.billing,
        metering: state.metering(),
    };
    expansion.apply(&mut body, objects);
    Ok(body)
}

fn dispatch(
    state: &mut State,
    method: &str,
    path: &str,
    version: ApiVersion,
    params: Params,
) -> Result<Value, StripeError> {
    let segments: Vec<&str> = path
        .strip_prefix("/v1/")
        .unwrap_or_default()
        .split('/')
        .collect();
    match (method, segments.as_slice()) {
        ("POST", ["customers"]) => {
            let balances = &state.billing.balances;
            customers::create(&mut state.customers, balances, &state.clock, params)
        }
        ("GET", ["customers"]) => {
            customers::list(&state.customers, &state.billing.balances, params)
        }
        ("GET", ["customers", id]) if !id.is_empty() => {
            customers::retrieve(&state.customers, &state.billing.balances, id, params)
        }
        ("POST", ["customers", id]) if !id.is_empty() => {
            customers::update(&mut state.customers, &state.billing.balances, id, params)
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
            version,
            params,
        ),
        ("POST", ["billing", "meter_event_adjustments"]) => {
            adjustments::create(&mut state.events, &state.clock, params)
        }
        _ => billing_routes::dispatch(state, method, &segments, version, params)
            .unwrap_or_else(|| Err(StripeError::no_such_url(method, path))),
    }
}
