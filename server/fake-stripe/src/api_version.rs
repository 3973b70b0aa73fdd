//! The headers `Stripe-Version` and `Stripe-Account`.
//!
//! Responses have the form of [`API_VERSION`] under every accepted version; the one rule here that depends on the version
//! is the default billing mode. Accepted are the releases that have this form but for additions: from basil, which moved
//! the billing period to the items, to endive. Older and later releases and previews are refused.

use axum::http::HeaderMap;

use crate::errors::StripeError;
use crate::settings::API_VERSION;

/// The release that moved billing periods to subscription items.
const OLDEST: &str = "2025-03-31";
/// The release that made the flexible billing mode the default.
const FLEXIBLE: &str = "2025-09-30";
/// The accepted releases; within one, later months only add to it.
const RELEASES: [&str; 4] = ["basil", "clover", "dahlia", "endive"];

/// The version of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ApiVersion {
    /// Whether a new subscription without `billing_mode` is in the classic mode.
    pub(crate) classic_by_default: bool,
}

impl ApiVersion {
    /// The version that a request asks for; without the header, that of the account.
    pub(crate) fn of(headers: &HeaderMap) -> Result<ApiVersion, StripeError> {
        let text = match headers.get("stripe-version") {
            None => API_VERSION,
            Some(value) => value.to_str().unwrap_or_default(),
        };
        let invalid = || {
            StripeError::invalid(format!(
                "Invalid Stripe API version: {text}. Versions look like {API_VERSION}."
            ))
        };
        let (date, release) = text.split_once('.').unwrap_or((text, ""));
        chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d")
            .ok()
            .filter(|_| date.len() == OLDEST.len())
            .ok_or_else(invalid)?;
        if date < OLDEST || release == "preview" || release.ends_with("_preview") {
            return Err(StripeError::unsupported(format!("Stripe-Version {text}")));
        }
        if !RELEASES.contains(&release) {
            // A later release may exist; an unnamed one of these years does not.
            return Err(if release.is_empty() {
                invalid()
            } else {
                StripeError::unsupported(format!("Stripe-Version {text}"))
            });
        }
        Ok(ApiVersion {
            classic_by_default: date < FLEXIBLE,
        })
    }
}

/// Connect is not modelled: a request on behalf of another account would change this one.
pub(crate) fn check_account(headers: &HeaderMap) -> Result<(), StripeError> {
    for name in ["Stripe-Account", "Stripe-Context"] {
        if headers.contains_key(name) {
            return Err(StripeError::unsupported(format!("the header {name}")));
        }
    }
    Ok(())
}
