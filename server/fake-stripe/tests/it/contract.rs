//! Stripe's description of the endpoints in use, and the check of calls and answers against it. The file beside this
//! one is cut down from Stripe's `OpenAPI` description to what the fake Stripe answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jsonschema::Validator;
use serde_json::{Map, Value, json};

/// The description, with its `nullable` turned into JSON Schema.
pub(crate) struct Contract {
    description: Value,
    /// The same components, in which an answer has nothing that they do not name.
    closed: Value,
    /// Compiled once for each kind of answer: it takes long.
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

impl Contract {
    pub(crate) fn new() -> Contract {
        let mut description: Value =
            serde_json::from_str(include_str!("../openapi/metering.json")).unwrap();
        let billing: Value = serde_json::from_str(include_str!("../openapi/billing.json")).unwrap();
        for pointer in ["/paths", "/components/schemas"] {
            let more = billing.pointer(pointer).unwrap().as_object().unwrap();
            let all = description.pointer_mut(pointer).unwrap().as_object_mut();
            all.unwrap().extend(more.clone());
        }
        nullable_to_types(&mut description);
        let mut closed = description["components"].clone();
        forbid_others(&mut closed);
        Contract {
            description,
            closed,
            validators: Mutex::default(),
        }
    }

    /// Panics where a value is none of this schema.
    pub(crate) fn check_schema(&self, name: &str, value: &Value) {
        let schema = json!({ "$ref": format!("#/components/schemas/{name}") });
        self.check(&schema, value, name);
    }

    fn check(&self, schema: &Value, value: &Value, what: &str) {
        let validator = {
            let mut known = self.validators.lock().unwrap();
            let entry = known.entry(schema.to_string()).or_insert_with(|| {
                let document = json!({ "allOf": [schema], "components": self.closed });
                Arc::new(jsonschema::validator_for(&document).unwrap())
            });
            Arc::clone(entry)
        };
        let faults: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{} at {}", error, error.instance_path()))
            .collect();
        assert!(
            faults.is_empty(),
            "{what} answered {value:#}\n{}",
            faults.join("\n")
        );
    }

    /// Panics where the answer is none that Stripe describes for this call.
    pub(crate) fn check_answer(&self, method: &str, path: &str, status: u16, body: &Value) {
        let schema = if status == 200 {
            let operation = self
                .operation(method, path)
                .unwrap_or_else(|| panic!("{method} {path} is undescribed"));
            let mut schema =
                operation["responses"]["200"]["content"]["application/json"]["schema"].clone();
            forbid_others(&mut schema);
            schema
        } else {
            json!({ "$ref": "#/components/schemas/error" })
        };
        self.check(&schema, body, &format!("{method} {path} {status}"));
    }

    /// Panics where a parameter that the fake Stripe accepted is none of Stripe's, or a required one was left out.
    pub(crate) fn check_params(&self, method: &str, path: &str, pairs: &[(&str, &str)]) {
        let operation = self.operation(method, path).unwrap();
        let form =
            &operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"];
        let mut known: Vec<&str> = form["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect();
        let mut required: Vec<&str> = form["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for parameter in operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|one| one["in"] == "query")
        {
            let name = parameter["name"].as_str().unwrap();
            known.push(name);
            if parameter["required"] == true {
                required.push(name);
            }
        }
        let given: Vec<&str> = pairs
            .iter()
            .map(|(key, _)| key.split('[').next().unwrap())
            .collect();
        for name in &given {
            assert!(
                known.contains(name),
                "{method} {path} accepted {name}, which Stripe does not know"
            );
        }
        for name in required {
            assert!(
                given.contains(&name),
                "{method} {path} accepted a call without {name}, which Stripe requires"
            );
        }
    }

    fn operation(&self, method: &str, path: &str) -> Option<&Value> {
        let paths = self.description["paths"].as_object().unwrap();
        let fits = |template: &str| {
            let (wanted, found) = (template.split('/'), path.split('/'));
            wanted.clone().count() == found.clone().count()
                && wanted
                    .zip(found)
                    .all(|(wanted, found)| wanted == "{id}" || wanted == found)
        };
        // A literal path before one with a placeholder.
        let described = paths.get(path).or_else(|| {
            paths
                .iter()
                .find(|(template, _)| fits(template))
                .map(|(_, it)| it)
        });
        described?.get(method.to_ascii_lowercase())
    }
}

fn nullable_to_types(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(nullable_to_types);
            if map.remove("nullable") == Some(Value::Bool(true)) {
                allow_null(map);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(nullable_to_types),
        _ => {}
    }
}

fn allow_null(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(variants)) = schema.get_mut("anyOf") {
        variants.push(json!({ "type": "null" }));
    }
    if let Some(Value::Array(variants)) = schema.get_mut("enum") {
        variants.push(Value::Null);
    }
    if let Some(kind) = schema.get_mut("type") {
        *kind = json!([kind.clone(), "null"]);
    }
}

/// An answer has nothing that the description does not name.
fn forbid_others(value: &mut Value) {
    match value {
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

#[test]
fn the_check_finds_each_violation() {
    let contract = Contract::new();
    let wrong = [
        json!({ "object": "customer", "id": "cus_1" }),
        json!({ "object": "customer", "id": "cus_1", "deleted": "yes" }),
        json!({ "object": "customer", "id": "cus_1", "deleted": true, "colour": "red" }),
    ];
    for body in wrong {
        let check = std::panic::AssertUnwindSafe(|| {
            contract.check_answer("DELETE", "/v1/customers/cus_1", 200, &body);
        });
        assert!(std::panic::catch_unwind(check).is_err(), "{body}");
    }
    contract.check_answer(
        "DELETE",
        "/v1/customers/cus_1",
        200,
        &json!({ "object": "customer", "id": "cus_1", "deleted": true }),
    );
}
