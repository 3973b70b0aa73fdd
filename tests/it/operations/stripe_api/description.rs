//! Validates a request against Stripe's API description. The JSON file in this folder is a copy of the
//! description's parameters and bodies, of the endpoints that the service calls. A request to any other endpoint fails,
//! so a new endpoint has to be added there. The description is one month newer than the API version that async-stripe
//! pins; where they differ, the pinned version decides.

use fake_stripe::LoggedRequest;
use jsonschema::Validator;
use serde_json::{Map, Value, json};

/// Endpoints that are in the API version pinned by async-stripe and not in the description, each with the reason. They
/// are called without parameters.
const UNDESCRIBED: [(&str, &str); 2] = [
    // The description covers metering and billing only. The balance is part of the pinned version (`RetrieveBalance` of
    // async-stripe-core) and of every earlier version. It is read to check the key. Its only parameter is an optional
    // `expand`, which is not sent.
    ("GET", "/v1/balance"),
    // The account of the key, likewise (`RetrieveForMyAccountAccount` of async-stripe-connect, which is not linked).
    ("GET", "/v1/account"),
];

/// Limits that Stripe states in the texts of its API reference and not in the description's schemas: an endpoint, a
/// place in its schema, and the addition.
fn limits() -> Vec<(&'static str, &'static str, Value)> {
    let events = "POST /v1/billing/meter_events";
    let summaries = "GET /v1/billing/meters/{id}/event_summaries";
    let grouped_by = |window: &str, secs: i64| {
        json!({
            "if": { "properties": { "value_grouping_window": { "const": window } },
                    "required": ["value_grouping_window"] },
            "then": { "properties": { "start_time": { "multipleOf": secs }, "end_time": { "multipleOf": secs } } },
        })
    };
    vec![
        (
            events,
            "/properties/identifier",
            json!({ "minLength": 1, "maxLength": 100 }),
        ),
        (
            events,
            "/properties/payload",
            json!({
                "required": ["stripe_customer_id", "value"],
                "properties": { "value": { "type": "string", "pattern": "^-?[0-9]{1,15}$" } },
            }),
        ),
        (
            summaries,
            "/properties/start_time",
            json!({ "multipleOf": 60 }),
        ),
        (
            summaries,
            "/properties/end_time",
            json!({ "multipleOf": 60 }),
        ),
        (
            summaries,
            "",
            json!({ "allOf": [grouped_by("hour", 3_600), grouped_by("day", 86_400)] }),
        ),
        (
            "POST /v1/prices",
            "/properties/lookup_key",
            json!({ "maxLength": 200 }),
        ),
        (
            "POST /v1/products",
            "/properties/unit_label",
            json!({ "maxLength": 12 }),
        ),
        (
            "POST /v1/subscriptions/{id}",
            "/properties/metadata",
            json!({ "maxProperties": 50, "propertyNames": { "maxLength": 40 } }),
        ),
    ]
}

/// The requests that Stripe's endpoints accept.
pub(crate) struct Description {
    paths: Map<String, Value>,
}

impl Description {
    pub(crate) fn new() -> Self {
        let mut all: Value = serde_json::from_str(include_str!("requests.json")).unwrap();
        let Value::Object(paths) = all["paths"].take() else {
            panic!("a description without paths")
        };
        Self { paths }
    }

    /// Validates a request, and returns its endpoint, such as `GET /v1/prices/{id}`.
    ///
    /// # Errors
    /// The difference between the request and the description.
    pub(crate) fn check(&self, request: &LoggedRequest) -> Result<String, String> {
        let (method, path) = (request.method.as_str(), request.path.as_str());
        if UNDESCRIBED.contains(&(method, path)) {
            return if request.params.is_empty() {
                Ok(format!("{method} {path}"))
            } else {
                Err("nothing is known of its parameters".to_owned())
            };
        }
        let (template, operation) = self
            .find(method, path)
            .ok_or("Stripe's description has no such endpoint")?;
        let endpoint = format!("{method} {template}");
        let schema = schema(&endpoint, operation);
        let params = typed(&nested(&request.params)?, &schema);
        let validator: Validator = jsonschema::validator_for(&schema).unwrap();
        let faults: Vec<String> = validator
            .iter_errors(&params)
            .map(|error| format!("{} at {:?}", error, error.instance_path().to_string()))
            .collect();
        if faults.is_empty() {
            Ok(endpoint)
        } else {
            Err(faults.join("; "))
        }
    }

    /// A literal path takes precedence over one with a placeholder.
    fn find(&self, method: &str, path: &str) -> Option<(&str, &Value)> {
        let fits = |template: &str| {
            let (wanted, found) = (template.split('/'), path.split('/'));
            wanted.clone().count() == found.clone().count()
                && wanted.zip(found).all(|(wanted, found)| {
                    wanted == found || (wanted == "{id}" && !found.is_empty())
                })
        };
        let described = self
            .paths
            .get_key_value(path)
            .or_else(|| self.paths.iter().find(|(template, _)| fits(template)));
        let (template, operations) = described?;
        let operation = operations.get(method.to_ascii_lowercase())?;
        Some((template, operation))
    }
}

/// All parameters of an operation except those in its path, as one closed object.
fn schema(endpoint: &str, operation: &Value) -> Value {
    let form = "/requestBody/content/application~1x-www-form-urlencoded/schema";
    let mut schema = operation
        .pointer(form)
        .cloned()
        .unwrap_or_else(|| json!({ "type": "object" }));
    let (mut properties, mut required) = (Map::new(), Vec::new());
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    for parameter in parameters.filter(|one| one["in"] == "query") {
        let name = parameter["name"].as_str().unwrap();
        properties.insert(name.to_owned(), parameter["schema"].clone());
        if parameter["required"] == true {
            required.push(name);
        }
    }
    if operation.get("requestBody").is_none() {
        schema["properties"] = Value::Object(properties);
        schema["required"] = json!(required);
    } else {
        assert!(properties.is_empty(), "{endpoint} takes a query and a body");
    }
    forbid_others(&mut schema);
    if let Some(limit) = schema.pointer_mut("/properties/limit") {
        *limit = json!({ "type": "integer", "minimum": 1, "maximum": 100 });
    }
    for (_, place, more) in limits().into_iter().filter(|(of, ..)| *of == endpoint) {
        let found = schema.pointer_mut(place).and_then(Value::as_object_mut);
        let found = found.unwrap_or_else(|| panic!("{endpoint} has no {place}"));
        found.extend(more.as_object().unwrap().clone());
    }
    schema
}

/// Closes a schema: a request must not contain anything that the description does not name.
fn forbid_others(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(forbid_others);
            if map.get("properties").is_some_and(Value::is_object)
                && !map.contains_key("additionalProperties")
            {
                map.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(forbid_others),
        _ => {}
    }
}

/// Parameters nested by their brackets. A list is still an object with the keys 0, 1 and so on.
fn nested(params: &[(String, String)]) -> Result<Value, String> {
    let mut all = Map::new();
    for (key, value) in params {
        let bad = || format!("the name {key} does not nest, or comes twice");
        let steps: Vec<&str> = key.split('[').collect();
        let (first, brackets) = steps.split_first().ok_or_else(bad)?;
        let mut path = vec![*first];
        for bracket in brackets {
            path.push(bracket.strip_suffix(']').ok_or_else(bad)?);
        }
        let (last, outer) = path.split_last().ok_or_else(bad)?;
        let mut map = &mut all;
        for step in outer {
            let inner = map.entry(*step).or_insert_with(|| json!({}));
            map = inner.as_object_mut().ok_or_else(bad)?;
        }
        if path.contains(&"") || map.insert((*last).to_owned(), json!(value)).is_some() {
            return Err(bad());
        }
    }
    Ok(Value::Object(all))
}

/// Converts texts to the types in the schema, as Stripe does. A text that cannot be converted stays a text and fails
/// the validation. The service sends no fractions, so numbers are integers.
fn typed(value: &Value, schema: &Value) -> Value {
    let wants = |kind: &str| alternatives(schema).iter().any(|one| one["type"] == kind);
    match value {
        Value::Object(map) => {
            let is_list = map
                .keys()
                .enumerate()
                .all(|(at, _)| map.contains_key(&at.to_string()));
            if wants("array") && is_list && !map.is_empty() {
                let all =
                    (0..map.len()).map(|at| typed(&map[&at.to_string()], below(schema, "items")));
                return all.collect();
            }
            let all = map.iter().map(|(name, value)| {
                let inner = alternatives(schema)
                    .into_iter()
                    .find_map(|one| one["properties"].get(name))
                    .unwrap_or_else(|| below(schema, "additionalProperties"));
                (name.clone(), typed(value, inner))
            });
            Value::Object(all.collect())
        }
        Value::String(text) => match text.parse::<i64>() {
            Ok(number) if number.to_string() == *text && (wants("number") || wants("integer")) => {
                json!(number)
            }
            _ if wants("boolean") && text == "true" => json!(true),
            _ if wants("boolean") && text == "false" => json!(false),
            _ => value.clone(),
        },
        _ => value.clone(),
    }
}

/// A schema, or its alternatives, of which one has to match.
fn alternatives(schema: &Value) -> Vec<&Value> {
    match schema["anyOf"].as_array() {
        Some(several) => several.iter().flat_map(alternatives).collect(),
        None => vec![schema],
    }
}

/// The value of a keyword in the first alternative that has it.
fn below<'a>(schema: &'a Value, keyword: &str) -> &'a Value {
    let found = alternatives(schema)
        .into_iter()
        .find_map(|one| one.get(keyword));
    found.unwrap_or(&Value::Null)
}
