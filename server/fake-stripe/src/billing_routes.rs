//! The endpoint of each path of the account, events, products, prices, subscriptions and invoices.

use serde_json::Value;

use crate::api_version::ApiVersion;
use crate::billing::invoices::{endpoints as invoice_endpoints, outcomes};
use crate::billing::subscriptions::{
    cancellation, create, endpoints as subscription_endpoints, item_endpoints, resume, update,
};
use crate::billing::{events, prices, products};
use crate::errors::StripeError;
use crate::params::Params;
use crate::state::{BillingParts, State};
use crate::{account, ids};

type Answer = Result<Value, StripeError>;

/// Runs the endpoint of one request; `None` for other paths.
pub(crate) fn dispatch(
    state: &mut State,
    method: &str,
    segments: &[&str],
    version: ApiVersion,
    params: Params,
) -> Option<Answer> {
    if segments.iter().any(|segment| segment.is_empty()) {
        return None;
    }
    let account_id = state.account_id.clone();
    let parts = state.billing_parts();
    match (method, segments) {
        ("GET", ["balance"]) => Some(account::balance(params)),
        ("GET", ["account"]) => Some(account::retrieve(&account_id, params)),
        ("GET", ["events"]) => Some(events::list(&parts.billing.events, parts.now, params)),
        ("GET", ["events", id]) => Some(events::retrieve(
            &parts.billing.events,
            parts.now,
            id,
            params,
        )),
        (_, ["products", rest @ ..]) => products(parts, method, rest, params),
        (_, ["prices", rest @ ..]) => prices(parts, method, rest, params),
        (_, ["subscriptions", rest @ ..]) => subscriptions(parts, method, rest, version, params),
        (_, ["subscription_items", rest @ ..]) => items(parts, method, rest, params),
        (_, ["invoices", rest @ ..]) => invoices(parts, method, rest, params),
        _ => None,
    }
}

fn products(
    parts: BillingParts<'_>,
    method: &str,
    rest: &[&str],
    params: Params,
) -> Option<Answer> {
    let BillingParts { billing, now, .. } = parts;
    let products = &mut billing.products;
    Some(match (method, rest) {
        ("POST", []) => products::create(products, now, params),
        ("GET", []) => products::list(products, params),
        ("GET", ["search"]) => products::find_by_query(products, params),
        ("GET", [id]) => products::retrieve(products, id, params),
        ("POST", [id]) => products::update(products, now, id, params),
        ("DELETE", [id]) => {
            let mut prices = billing.prices.newest_first();
            let has_prices = prices.any(|price| price.product == **id);
            products::delete(products, has_prices, id, params)
        }
        _ => return None,
    })
}

fn prices(parts: BillingParts<'_>, method: &str, rest: &[&str], params: Params) -> Option<Answer> {
    let BillingParts {
        billing,
        metering,
        now,
        ..
    } = parts;
    let prices = &mut billing.prices;
    Some(match (method, rest) {
        ("POST", []) => {
            let id = ids::billing("price_");
            let products = &mut billing.products;
            prices::create(prices, products, metering.meters, now, &id, params)
        }
        ("GET", []) => prices::list(prices, params),
        ("GET", ["search"]) => prices::find_by_query(prices, params),
        ("GET", [id]) => prices::retrieve(prices, id, params),
        ("POST", [id]) => prices::update(prices, id, params),
        _ => return None,
    })
}

fn subscriptions(
    parts: BillingParts<'_>,
    method: &str,
    rest: &[&str],
    version: ApiVersion,
    params: Params,
) -> Option<Answer> {
    let BillingParts {
        billing,
        customers,
        metering,
        now,
    } = parts;
    Some(match (method, rest) {
        ("POST", []) => create::create(billing, metering, customers, now, version, params),
        ("GET", []) => subscription_endpoints::list(billing, params),
        ("GET", ["search"]) => subscription_endpoints::find_by_query(billing, params),
        ("GET", [id]) => subscription_endpoints::retrieve(billing, id, params),
        ("POST", [id]) => update::update(billing, metering, now, id, version, params),
        ("DELETE", [id]) => cancellation::cancel(billing, metering, now, id, params),
        ("POST", [id, "resume"]) => resume::resume(billing, metering, now, id, version, params),
        ("POST", [id, "migrate"]) => subscription_endpoints::migrate(billing, now, id, params),
        _ => return None,
    })
}

fn items(parts: BillingParts<'_>, method: &str, rest: &[&str], params: Params) -> Option<Answer> {
    let BillingParts {
        billing,
        metering,
        now,
        ..
    } = parts;
    Some(match (method, rest) {
        ("POST", []) => item_endpoints::create(billing, metering, now, params),
        ("GET", []) => item_endpoints::list(billing, params),
        ("GET", [id]) => item_endpoints::retrieve(billing, id, params),
        ("POST", [id]) => item_endpoints::update(billing, metering, now, id, params),
        ("DELETE", [id]) => item_endpoints::delete(billing, metering, now, id, params),
        _ => return None,
    })
}

fn invoices(
    parts: BillingParts<'_>,
    method: &str,
    rest: &[&str],
    params: Params,
) -> Option<Answer> {
    let BillingParts {
        billing,
        metering,
        now,
        ..
    } = parts;
    Some(match (method, rest) {
        ("GET", []) => invoice_endpoints::list(billing, metering, params),
        ("POST", ["create_preview"]) => {
            invoice_endpoints::create_preview(billing, metering, params)
        }
        ("GET", [id]) => invoice_endpoints::retrieve(billing, metering, id, params),
        ("GET", [id, "lines"]) => invoice_endpoints::lines(billing, metering, id, params),
        ("POST", [id]) => outcomes::update(billing, metering, now, id, params),
        ("POST", [id, "pay"]) => outcomes::pay(billing, metering, now, id, params),
        ("POST", [id, "void"]) => outcomes::void(billing, metering, now, id, params),
        ("POST", [id, "mark_uncollectible"]) => {
            outcomes::mark_uncollectible(billing, metering, now, id, params)
        }
        ("POST", [id, "finalize"]) => outcomes::finalize(billing, metering, now, id, params),
        _ => return None,
    })
}
