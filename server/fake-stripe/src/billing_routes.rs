//! Routes of products, prices, subscriptions, invoices and events.

use serde_json::{Value, json};

use crate::billing::{
    cancellation, events, invoice_api, preview, prices, products, subscription_api,
    subscription_items, subscription_update,
};
use crate::errors::StripeError;
use crate::params::Params;
use crate::state::State;

type Answer = Result<Value, StripeError>;

/// `None` where the path is none of these.
pub(crate) fn dispatch(
    state: &mut State,
    method: &str,
    segments: &[&str],
    params: Params,
) -> Option<Answer> {
    if segments.iter().any(|segment| segment.is_empty()) {
        return None;
    }
    Some(match (method, segments) {
        ("GET", ["balance"]) => balance(params),
        ("GET", ["account"]) => account(params),
        ("GET", ["events"]) => events::list(state, params),
        ("GET", ["events", id]) => events::retrieve(state, id, params),
        (_, ["products", rest @ ..]) => return products(state, method, rest, params),
        (_, ["prices", rest @ ..]) => return prices(state, method, rest, params),
        (_, ["subscriptions", rest @ ..]) => return subscriptions(state, method, rest, params),
        (_, ["subscription_items", rest @ ..]) => {
            return items(state, method, rest, params);
        }
        (_, ["invoices", rest @ ..]) => return invoices(state, method, rest, params),
        _ => return None,
    })
}

fn products(state: &mut State, method: &str, rest: &[&str], params: Params) -> Option<Answer> {
    Some(match (method, rest) {
        ("POST", []) => products::create(state, params),
        ("GET", []) => products::list(state, params),
        ("GET", ["search"]) => products::find_by_query(state, params),
        ("GET", [id]) => products::retrieve(state, id, params),
        ("POST", [id]) => products::update(state, id, params),
        ("DELETE", [id]) => products::delete(state, id, params),
        _ => return None,
    })
}

fn prices(state: &mut State, method: &str, rest: &[&str], params: Params) -> Option<Answer> {
    Some(match (method, rest) {
        ("POST", []) => prices::create(state, params),
        ("GET", []) => prices::list(state, params),
        ("GET", ["search"]) => prices::find_by_query(state, params),
        ("GET", [id]) => prices::retrieve(state, id, params),
        ("POST", [id]) => prices::update(state, id, params),
        _ => return None,
    })
}

fn subscriptions(state: &mut State, method: &str, rest: &[&str], params: Params) -> Option<Answer> {
    Some(match (method, rest) {
        ("POST", []) => subscription_api::create(state, params),
        ("GET", []) => subscription_api::list(state, params),
        ("GET", ["search"]) => subscription_api::find_by_query(state, params),
        ("GET", [id]) => subscription_api::retrieve(state, id, params),
        ("POST", [id]) => subscription_update::update(state, id, params),
        ("DELETE", [id]) => cancellation::cancel(state, id, params),
        ("POST", [id, "migrate"]) => subscription_api::migrate(state, id, params),
        _ => return None,
    })
}

fn items(state: &mut State, method: &str, rest: &[&str], params: Params) -> Option<Answer> {
    Some(match (method, rest) {
        ("POST", []) => subscription_items::create(state, params),
        ("GET", []) => subscription_items::list(state, params),
        ("GET", [id]) => subscription_items::retrieve(state, id, params),
        ("POST", [id]) => subscription_items::update(state, id, params),
        ("DELETE", [id]) => subscription_items::delete(state, id, params),
        _ => return None,
    })
}

fn invoices(state: &mut State, method: &str, rest: &[&str], params: Params) -> Option<Answer> {
    Some(match (method, rest) {
        ("GET", []) => invoice_api::list(state, params),
        ("POST", ["create_preview"]) => preview::create(state, params),
        ("GET", [id]) => invoice_api::retrieve(state, id, params),
        ("GET", [id, "lines"]) => invoice_api::lines(state, id, params),
        ("POST", [id, "finalize"]) => invoice_api::finalize(state, id, params),
        _ => return None,
    })
}

/// Always zero. Callers use this endpoint to check an API key and its mode.
fn balance(params: Params) -> Answer {
    params.finish()?;
    let nothing = json!([{ "amount": 0, "currency": "usd", "source_types": { "card": 0 } }]);
    Ok(json!({
        "object": "balance",
        "available": nothing,
        "livemode": false,
        "pending": nothing,
    }))
}

fn account(params: Params) -> Answer {
    params.finish()?;
    Ok(json!({
        "id": "acct_sandbox",
        "object": "account",
        "charges_enabled": true,
        "country": "US",
        "default_currency": "usd",
        "details_submitted": true,
        "email": null,
        "metadata": {},
        "payouts_enabled": true,
        "type": "standard",
    }))
}
