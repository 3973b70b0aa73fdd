//! The headers `Stripe-Version` and `Stripe-Account`.
//!
//! Responses have the form of [`API_VERSION`] under every accepted version; what here depends on the version are the rules
//! in [`ApiVersion`]. Accepted are the releases whose responses have this form but for additions: from basil, which moved
//! the billing period to the items, to endive. Older and later releases and previews are refused. Within a release every
//! date is accepted, since a later month only adds to it and Stripe does not list the months to come.

use axum::http::HeaderMap;

use crate::errors::StripeError;
use crate::settings::API_VERSION;

/// The accepted releases and their first days.
const RELEASES: [(&str, &str); 4] = [
    ("basil", "2025-03-31"),
    ("clover", "2025-09-30"),
    ("dahlia", "2026-03-25"),
    ("endive", "2026-09-30"),
];
/// Since then the flexible billing mode is the default.
const FLEXIBLE: &str = "2025-09-30";
/// Since then a meter event's value has at most 15 digits.
const SHORT_VALUES: &str = "2026-04-22";
/// Since then the change of a subscription's anchor is an object with a `type`; before, it was that type.
const TYPED_ANCHORS: &str = "2026-09-30";

/// The version of one request: the rules that differ between versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ApiVersion {
    /// Whether a new subscription without `billing_mode` is in the classic mode.
    pub(crate) classic_by_default: bool,
    /// Whether a meter event's value may have more than 15 digits.
    pub(crate) long_values: bool,
    /// Whether `billing_cycle_anchor` of an update or resumption is an object with a `type`.
    pub(crate) typed_anchors: bool,
}

impl ApiVersion {
    /// The version that a request asks for; without the header, that of the account.
    pub(crate) fn of(headers: &HeaderMap) -> Result<ApiVersion, StripeError> {
        match headers.get("stripe-version") {
            None => ApiVersion::parse(API_VERSION),
            Some(value) => ApiVersion::parse(value.to_str().unwrap_or_default()),
        }
    }

    fn parse(text: &str) -> Result<ApiVersion, StripeError> {
        let invalid = || {
            StripeError::invalid(format!(
                "Invalid Stripe API version: {text}. Versions look like {API_VERSION}."
            ))
        };
        let unsupported = || StripeError::unsupported(format!("Stripe-Version {text}"));
        let (date, release) = text.split_once('.').unwrap_or((text, ""));
        chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d")
            .ok()
            .filter(|_| date.len() == FLEXIBLE.len())
            .ok_or_else(invalid)?;
        let started = RELEASES.iter().rev().find(|(_, first)| *first <= date);
        let Some((current, _)) = started else {
            return Err(unsupported());
        };
        if release == "preview" || release.ends_with("_preview") {
            return Err(unsupported());
        }
        if release != *current {
            // A later release may exist; a known one of other days or an unnamed one of these years does not.
            let is_known = RELEASES.iter().any(|(known, _)| *known == release);
            return Err(if release.is_empty() || is_known {
                invalid()
            } else {
                unsupported()
            });
        }
        Ok(ApiVersion {
            classic_by_default: date < FLEXIBLE,
            long_values: date < SHORT_VALUES,
            typed_anchors: date >= TYPED_ANCHORS,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_begin_with_their_versions() {
        for (text, classic_by_default, long_values, typed_anchors) in [
            ("2025-03-31.basil", true, true, false),
            ("2025-08-27.basil", true, true, false),
            ("2025-09-30.clover", false, true, false),
            ("2026-03-25.dahlia", false, true, false),
            ("2026-04-22.dahlia", false, false, false),
            ("2026-09-30.endive", false, false, true),
            (API_VERSION, false, false, true),
        ] {
            let expected = ApiVersion {
                classic_by_default,
                long_values,
                typed_anchors,
            };
            assert_eq!(ApiVersion::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_release_has_its_own_days() {
        for (text, status) in [
            ("2026-09-30.basil", 400),
            ("2025-09-29.clover", 400),
            ("2026-01-01", 400),
            ("2026-1-1.clover", 400),
            ("2025-03-30.acacia", 501),
            ("2024-06-20", 501),
            ("2027-03-31.fennel", 501),
            ("2026-04-22.preview", 501),
        ] {
            assert_eq!(
                ApiVersion::parse(text).unwrap_err().status,
                status,
                "{text}"
            );
        }
    }
}
