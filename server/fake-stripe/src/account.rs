//! `/v1/account` and `/v1/balance`: objects which callers use to check an API key, its account and its mode.

use serde_json::{Value, json};

use crate::errors::StripeError;
use crate::params::Params;

/// The balance, which is always zero.
pub(crate) fn balance(params: Params) -> Result<Value, StripeError> {
    params.finish()?;
    let nothing = json!([{ "amount": 0, "currency": "usd", "source_types": { "card": 0 } }]);
    Ok(json!({
        "object": "balance",
        "available": nothing,
        "livemode": false,
        "pending": nothing,
    }))
}

/// The account.
pub(crate) fn retrieve(id: &str, params: Params) -> Result<Value, StripeError> {
    params.finish()?;
    Ok(json!({
        "id": id,
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
