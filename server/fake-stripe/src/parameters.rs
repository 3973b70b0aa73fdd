//! The check of a request's parameters against what Stripe's endpoint takes, before the endpoint runs: unknown names,
//! empty values, limits on lengths and counts, and what Stripe takes and the fake Stripe does not. `parameters.txt` is the
//! list. What is unsupported is named before the endpoint runs, so that it cannot find another parameter missing: where
//! Stripe takes a `price_data` instead of a `price`, the caller made no mistake.
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
    unsupported: bool,
}

impl Parameter {
    fn parse(entry: &'static str) -> (&'static str, Parameter) {
        let end = entry.find(['*', '<', '#', '?', '!']).unwrap_or(entry.len());
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
            unsupported: marks.contains('!'),
        };
        (name, parameter)
    }

    /// The parameter itself, or what is not listed below it: any text, also an empty one.
    fn of_values(self, is_below: bool) -> Parameter {
        if !is_below {
            return self;
        }
        Parameter {
            max_chars: MAX_CHARS,
            can_be_empty: true,
            ..self
        }
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
    let mut unsupported = Vec::new();
    let mut values = Vec::new();
    for leaf in params.leaves() {
        match find(known, &leaf.name) {
            None => unknown.push(leaf.name),
            Some(found) if found.parameter.unsupported => {
                let name = found.name.to_owned();
                if !unsupported.contains(&name) {
                    unsupported.push(name);
                }
            }
            Some(found) => values.push((found.parameter.of_values(found.is_below), leaf)),
        }
    }
    if !unknown.is_empty() {
        return Err(StripeError::unknown_param(&unknown));
    }
    if !unsupported.is_empty() {
        return Err(StripeError::unsupported_params(&unsupported));
    }
    for (parameter, leaf) in &values {
        check_value(leaf, *parameter)?;
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

/// What is listed for a name.
#[derive(Debug, Clone, Copy)]
struct Found<'a> {
    parameter: Parameter,
    /// The listed part of the name, with its indices.
    name: &'a str,
    /// Whether the name goes on below the listed one, which is open.
    is_below: bool,
}

fn find<'a>(known: &HashMap<&str, Parameter>, name: &'a str) -> Option<Found<'a>> {
    if let Some(parameter) = known.get(normal(name).as_str()) {
        return Some(Found {
            parameter: *parameter,
            name,
            is_below: false,
        });
    }
    let mut above = name;
    while let Some(at) = above.rfind('[') {
        above = above.get(..at).unwrap_or_default();
        let parameter = known.get(normal(above).as_str());
        if let Some(parameter) = parameter.filter(|parameter| parameter.open) {
            return Some(Found {
                parameter: *parameter,
                name: above,
                is_below: true,
            });
        }
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
    fn the_unsupported_is_named_before_the_endpoint_runs() {
        let endpoint = "POST /v1/subscriptions/sub_1";
        let form = "discounts=&automatic_tax[enabled]=true&automatic_tax[liability][type]=self\
                    &items[0][price_data][currency]=usd&trial_end=";
        let error = check_form(endpoint, form).unwrap_err();
        assert_eq!(
            error.message,
            "fake-stripe does not support the parameters automatic_tax, discounts, items[0][price_data]"
        );
        // What Stripe does not know either comes first.
        let error = check_form(endpoint, "discounts=&size=3").unwrap_err();
        assert_eq!(error.message, "Received unknown parameter: size");
    }

    #[test]
    fn names_values_and_counts_are_checked() {
        let update = "POST /v1/subscriptions/sub_1";
        check_form(update, "items[0][price]=p&items[1][id]=i&metadata[any]=").unwrap();
        check_form(update, "cancel_at=&trial_end=now").unwrap();
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
