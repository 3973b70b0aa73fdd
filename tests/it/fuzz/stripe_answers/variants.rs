//! The variants of an answer: each of its fields missing, null, of another type, huge, negative or empty.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::random::Random;

const HUGE_TEXT: usize = 50_000;

/// What a field becomes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Missing,
    To(Value),
}

/// A change of one field of the answers of an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    /// The names of the fields that lead to it; `*` is any item of a list.
    path: Vec<String>,
    change: Change,
}

/// The variants of each endpoint that are known, and those that were not tried yet.
#[derive(Default)]
pub(super) struct Variants {
    known: BTreeSet<(String, Vec<String>, String)>,
    pending: BTreeMap<String, Vec<Variant>>,
    tried: usize,
}

impl Variants {
    /// Adds the variants of an answer that are new.
    pub(super) fn learn(&mut self, endpoint: &str, answer: &Value) {
        let mut fields = Vec::new();
        walk(answer, &mut Vec::new(), &mut fields);
        for (path, value) in fields {
            for change in changes(value) {
                let name = change.name();
                let key = (endpoint.to_owned(), path.clone(), name);
                if self.known.insert(key) {
                    let path = path.clone();
                    let pending = self.pending.entry(endpoint.to_owned()).or_default();
                    pending.push(Variant { path, change });
                }
            }
        }
    }

    /// Takes a variant that was not tried yet, and changes the answer so. Returns its name.
    pub(super) fn apply(
        &mut self,
        random: &mut Random,
        endpoint: &str,
        answer: &mut Value,
    ) -> Option<String> {
        let pending = self.pending.get_mut(endpoint)?;
        let length = i64::try_from(pending.len())
            .ok()
            .filter(|length| *length > 0)?;
        let start = usize::try_from(random.below(length)).ok()?;
        // Not every answer has every field.
        let is_there = |variant: &Variant| !places(answer, &variant.path).is_empty();
        let after = (start..pending.len()).find(|place| is_there(&pending[*place]));
        let place = after.or_else(|| (0..start).find(|place| is_there(&pending[*place])))?;
        let variant = pending.swap_remove(place);
        let mut places = places(answer, &variant.path);
        // One of several objects, or all of them.
        if places.len() > 1 && !random.one_in(3) {
            let length = i64::try_from(places.len()).unwrap();
            let one = usize::try_from(random.below(length)).unwrap();
            places = vec![places.swap_remove(one)];
        }
        for pointer in &places {
            variant.change.make(answer, pointer);
        }
        self.tried += 1;
        let (path, change) = (variant.path.join("."), variant.change.name());
        Some(format!("{endpoint} {path}: {change}"))
    }

    /// How many variants were tried, and how many are known.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.tried, self.known.len())
    }

    /// The endpoints that have been seen.
    pub(super) fn endpoints(&self) -> Vec<&str> {
        self.pending.keys().map(String::as_str).collect()
    }
}

impl Change {
    /// What a failure prints.
    fn name(&self) -> String {
        match self {
            Self::Missing => "missing".to_owned(),
            Self::To(value) => value.to_string().chars().take(40).collect(),
        }
    }

    fn make(&self, answer: &mut Value, pointer: &str) {
        match self {
            Self::To(value) => {
                if let Some(found) = answer.pointer_mut(pointer) {
                    *found = value.clone();
                }
            }
            Self::Missing => {
                let Some((parent, name)) = pointer.rsplit_once('/') else {
                    return;
                };
                if let Some(fields) = answer.pointer_mut(parent).and_then(Value::as_object_mut) {
                    fields.remove(&unescaped(name));
                }
            }
        }
    }
}

/// All fields with their paths.
fn walk<'a>(value: &'a Value, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, &'a Value)>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                path.push(name.clone());
                found.push((path.clone(), inner));
                walk(inner, path, found);
                path.pop();
            }
        }
        Value::Array(items) => {
            path.push("*".to_owned());
            for item in items {
                walk(item, path, found);
            }
            path.pop();
        }
        _ => {}
    }
}

/// The places of a path in an answer, as JSON pointers.
fn places(answer: &Value, path: &[String]) -> Vec<String> {
    let mut found = vec![(String::new(), answer)];
    for name in path {
        found = found
            .into_iter()
            .flat_map(|(pointer, value)| match value {
                Value::Array(items) if name == "*" => items
                    .iter()
                    .enumerate()
                    .map(|(nth, item)| (format!("{pointer}/{nth}"), item))
                    .collect(),
                Value::Object(fields) => fields
                    .get(name)
                    .map(|inner| (format!("{pointer}/{}", escaped(name)), inner))
                    .into_iter()
                    .collect(),
                _ => Vec::new(),
            })
            .collect();
    }
    found.into_iter().map(|(pointer, _)| pointer).collect()
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn unescaped(name: &str) -> String {
    name.replace("~1", "/").replace("~0", "~")
}

fn changes(value: &Value) -> Vec<Change> {
    let others = match value {
        Value::Null => vec![json!("text"), json!(-1), json!(i64::MAX), json!({})],
        Value::Bool(_) => vec![Value::Null, json!("maybe"), json!(2)],
        Value::Number(_) => vec![
            Value::Null,
            json!("text"),
            json!(i64::MAX),
            json!(1e300),
            json!(0.5),
            json!(-1),
        ],
        Value::String(_) => vec![
            Value::Null,
            json!(7),
            json!(""),
            json!("x".repeat(HUGE_TEXT)),
            json!(["text"]),
        ],
        Value::Array(_) | Value::Object(_) => {
            vec![Value::Null, json!("text"), json!({}), json!([])]
        }
    };
    let others = others.into_iter().filter(|other| other != value);
    std::iter::once(Change::Missing)
        .chain(others.map(Change::To))
        .collect()
}

#[test]
fn each_field_of_an_answer_is_changed_once() {
    let answer = json!({ "data": [{ "id": "a" }, { "id": "b" }], "has_more": false });
    let mut variants = Variants::default();
    variants.learn("GET /v1/things", &answer);
    variants.learn("GET /v1/things", &answer);
    let (_, known) = variants.counts();
    let (mut random, mut seen) = (Random(1), BTreeSet::new());
    for _ in 0..known {
        let mut changed = answer.clone();
        let name = variants.apply(&mut random, "GET /v1/things", &mut changed);
        assert!(seen.insert(name.unwrap()));
        assert_ne!(changed, answer);
    }
    let mut rest = answer.clone();
    assert_eq!(
        variants.apply(&mut random, "GET /v1/things", &mut rest),
        None
    );
    assert_eq!(variants.counts(), (known, known));
    assert!(known >= 3 * 4, "{known}");
}
