//! The check of a request's parameters against what Stripe's endpoint takes, before the endpoint runs: unknown names,
//! empty values, and limits on lengths and counts. `parameters.txt` is the list. What Stripe takes and an endpoint here
//! does not is refused later, by [`Params::finish`], as unsupported.
//!
//! Stripe documents the limits, not the messages of their errors: those about lengths and empty values are as seen in
//! production, that about counts is ours.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::errors::StripeError;
use crate::params::{Leaf, Params};

const LIST: &str = include_str!("parameters.txt");
/// The limit of texts without one of their own.
const MAX_CHARS: usize = 5_000;

static ENDPOINTS: LazyLock<HashMap<&str, HashMap<&str, Parameter>>> = LazyLock::new(|| {
    let mut endpoints: HashMap<&str, HashMap<&str, Parameter>> = HashMap::new();
    let mut endpoint = "";
    for line in LIST.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with(' ') {
            let names = endpoints.entry(endpoint).or_default();
            names.extend(line.split_whitespace().map(Parameter::parse));
        } else {
            endpoint = line;
            endpoints.entry(endpoint).or_default();
        }
    }
    endpoints
});

/// What is known of one parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parameter {
    max_chars: usize,
    max_entries: usize,
    /// Whether an empty value unsets it.
    can_be_empty: bool,
    /// Whether all names below it are known.
    open: bool,
}

impl Parameter {
    fn parse(entry: &'static str) -> (&'static str, Parameter) {
        let end = entry.find(['*', '<', '#', '?']).unwrap_or(entry.len());
        let (name, marks) = entry.split_at(end);
        let number = |mark: &str| {
            let (_, after) = marks.split_once(mark)?;
            let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        };
        let parameter = Parameter {
            max_chars: number("<=").unwrap_or(MAX_CHARS),
            max_entries: number("#").unwrap_or(usize::MAX),
            can_be_empty: marks.contains('?'),
            open: marks.contains('*'),
        };
        (name, parameter)
    }
}

/// Whether Stripe's endpoints at this path are listed for this method.
pub(crate) fn is_listed(method: &str, path: &str) -> bool {
    find_endpoint(method, path).is_some()
}

/// Checks all parameters of a request.
pub(crate) fn check(method: &str, path: &str, params: &Params) -> Result<(), StripeError> {
    let Some(known) = find_endpoint(method, path) else {
        return Ok(());
    };
    let mut unknown = Vec::new();
    for leaf in params.leaves() {
        match find(known, &leaf) {
            None => unknown.push(leaf.name),
            Some(Below::Open) => check_length(&leaf, MAX_CHARS)?,
            Some(Below::Listed(parameter)) => {
                check_value(&leaf, parameter)?;
            }
        }
    }
    if !unknown.is_empty() {
        return Err(StripeError::unknown_param(&unknown));
    }
    for (name, entries) in params.counts() {
        let limit = known.get(normal(&name).as_str()).map(|one| one.max_entries);
        if let Some(limit) = limit.filter(|limit| entries > *limit) {
            return Err(StripeError::invalid(format!(
                "Invalid array: {name} can have at most {limit} entries, and has {entries}."
            ))
            .param(name));
        }
    }
    Ok(())
}

enum Below {
    /// A name below one whose names are not listed.
    Open,
    Listed(Parameter),
}

fn find(known: &HashMap<&str, Parameter>, leaf: &Leaf) -> Option<Below> {
    let name = normal(&leaf.name);
    if let Some(parameter) = known.get(name.as_str()) {
        return Some(Below::Listed(*parameter));
    }
    let mut end = name.len();
    while let Some(at) = name.get(..end).and_then(|before| before.rfind('[')) {
        let above = known.get(name.get(..at).unwrap_or_default());
        if above.is_some_and(|above| above.open) {
            return Some(Below::Open);
        }
        end = at;
    }
    None
}

/// The name with the indices of lists left out: `items[0][price]` is `items[][price]`.
fn normal(name: &str) -> String {
    let mut parts = name.split('[');
    let mut normal = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let inner = part.trim_end_matches(']');
        normal.push('[');
        if !inner.bytes().all(|byte| byte.is_ascii_digit()) {
            normal.push_str(inner);
        }
        normal.push(']');
    }
    normal
}

fn check_value(leaf: &Leaf, parameter: Parameter) -> Result<(), StripeError> {
    if leaf.value.is_empty() && !parameter.can_be_empty {
        let name = &leaf.name;
        return Err(StripeError::invalid(format!(
            "You passed an empty string for '{name}'. We assume empty values are an attempt to unset a parameter; \
             however '{name}' cannot be unset. You should remove '{name}' from your request or supply a non-empty value."
        ))
        .code("parameter_invalid_empty")
        .param(name.as_str()));
    }
    check_length(leaf, parameter.max_chars)
}

fn check_length(leaf: &Leaf, max_chars: usize) -> Result<(), StripeError> {
    let chars = leaf.value.chars().count();
    if chars <= max_chars {
        return Ok(());
    }
    let start: String = leaf.value.chars().take(10).collect();
    let end: String = leaf.value.chars().skip(chars.saturating_sub(10)).collect();
    Err(StripeError::invalid(format!(
        "Invalid string: {start}...{end}; must be at most {max_chars} characters"
    ))
    .param(leaf.name.as_str()))
}

fn find_endpoint(method: &str, path: &str) -> Option<&'static HashMap<&'static str, Parameter>> {
    let literal = ENDPOINTS.get(format!("{method} {path}").as_str());
    literal.or_else(|| {
        ENDPOINTS
            .iter()
            .find(|(endpoint, _)| fits(endpoint, method, path))
            .map(|(_, known)| known)
    })
}

fn fits(endpoint: &str, method: &str, path: &str) -> bool {
    let Some((wanted_method, template)) = endpoint.split_once(' ') else {
        return false;
    };
    let (wanted, found) = (template.split('/'), path.split('/'));
    wanted_method == method
        && wanted.clone().count() == found.clone().count()
        && wanted
            .zip(found)
            .all(|(wanted, found)| wanted == found || (wanted == "{id}" && !found.is_empty()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::params::pairs;

    fn check_form(endpoint: &str, encoded: &str) -> Result<(), StripeError> {
        let (method, path) = endpoint.split_once(' ').unwrap();
        let params = Params::nest(&pairs(encoded.as_bytes())).unwrap();
        check(method, path, &params)
    }

    #[test]
    fn the_listed_names_are_stripes() {
        let descriptions = [
            include_str!("../tests/openapi/metering.json"),
            include_str!("../tests/openapi/billing.json"),
        ];
        let mut compared = 0;
        for description in descriptions {
            let description: Value = serde_json::from_str(description).unwrap();
            for (path, operations) in description["paths"].as_object().unwrap() {
                for (method, operation) in operations.as_object().unwrap() {
                    let endpoint = format!("{} {path}", method.to_ascii_uppercase());
                    let known = &ENDPOINTS[endpoint.as_str()];
                    let mut listed: Vec<&str> = known
                        .keys()
                        .copied()
                        .filter(|name| !name.contains('['))
                        .collect();
                    let form = &operation["requestBody"]["content"]["application/x-www-form-urlencoded"]
                        ["schema"];
                    let mut described: Vec<&str> = form["properties"]
                        .as_object()
                        .into_iter()
                        .flatten()
                        .map(|(name, _)| name.as_str())
                        .collect();
                    for parameter in operation["parameters"].as_array().into_iter().flatten() {
                        if parameter["in"] == "query" {
                            described.push(parameter["name"].as_str().unwrap());
                        }
                    }
                    listed.sort_unstable();
                    described.sort_unstable();
                    described.dedup();
                    assert_eq!(listed, described, "{endpoint}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 30, "{compared}");
    }

    #[test]
    fn names_values_and_counts_are_checked() {
        let update = "POST /v1/subscriptions/sub_1";
        check_form(update, "items[0][price]=p&items[1][id]=i&metadata[any]=").unwrap();
        check_form(
            update,
            "automatic_tax[enabled]=true&cancel_at=&trial_end=now",
        )
        .unwrap();
        let error = check_form(update, "items[0][colour]=red&size=3").unwrap_err();
        assert_eq!(
            error.message,
            "Received unknown parameters: items[0][colour], size"
        );
        let error = check_form(update, "trial_end=").unwrap_err();
        assert_eq!(error.code.as_deref(), Some("parameter_invalid_empty"));
        let long = format!("description={}", "x".repeat(501));
        assert!(
            check_form(update, &long)
                .unwrap_err()
                .message
                .ends_with("must be at most 500 characters")
        );
        let many: Vec<String> = (0..21).map(|n| format!("items[{n}][price]=p")).collect();
        let error = check_form(update, &many.join("&")).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("items"));
        assert!(!is_listed("PUT", "/v1/customers"));
    }
}
