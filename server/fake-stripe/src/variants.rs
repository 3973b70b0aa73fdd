//! The variants of an answer, for tests of what a caller does with them: each field missing, null, of another type, huge,
//! negative or empty, and each list with an item twice.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// The length of a huge text.
const HUGE_TEXT: usize = 50_000;

/// Bodies that are no object of Stripe's, as something on the way may answer.
pub const BROKEN_BODIES: [&str; 9] = [
    "",
    "null",
    "7",
    "\"text\"",
    "[]",
    "{}",
    "{\"object\":\"list\",",
    "<html>bad gateway</html>",
    "\u{feff}{}",
];

/// A change of one field of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// The names of the fields that lead to it; `*` is any item of a list.
    path: Vec<String>,
    change: Change,
}

/// What a field becomes.
#[derive(Clone, Debug, PartialEq)]
enum Change {
    Missing,
    /// The first item of a list is there twice.
    Twice,
    To(Value),
}

impl Variant {
    /// The variants of each field of an answer, each once.
    pub fn of(answer: &Value) -> Vec<Variant> {
        Self::with(answer, changes)
    }

    /// An answer's fields that are true or false, each the other way round. Such an answer is valid, and says something else.
    pub fn flipped(answer: &Value) -> Vec<Variant> {
        Self::with(answer, |value| {
            let flipped = value.as_bool().map(|flag| Change::To(Value::Bool(!flag)));
            flipped.into_iter().collect()
        })
    }

    /// A change that is written down: the names of the fields with dots between them, and the new value; `None` removes it.
    pub fn new(path: &str, to: Option<Value>) -> Variant {
        Variant {
            path: path.split('.').map(str::to_owned).collect(),
            change: to.map_or(Change::Missing, Change::To),
        }
    }

    fn with(answer: &Value, changes: impl Fn(&Value) -> Vec<Change>) -> Vec<Variant> {
        let mut fields = Vec::new();
        walk(answer, &mut Vec::new(), &mut fields);
        let mut known = BTreeSet::new();
        let mut variants = Vec::new();
        for (path, value) in fields {
            for change in changes(value) {
                let variant = Variant {
                    path: path.clone(),
                    change,
                };
                // The items of a list have mostly the same ones.
                if known.insert(variant.name()) {
                    variants.push(variant);
                }
            }
        }
        variants
    }

    /// The names of the fields with dots between them, such as `data.*.id`.
    pub fn path(&self) -> String {
        self.path.join(".")
    }

    /// The path and what its field becomes, for people.
    pub fn name(&self) -> String {
        let becomes = match &self.change {
            Change::Missing => "missing".to_owned(),
            Change::Twice => "its first item twice".to_owned(),
            Change::To(value) => value.to_string().chars().take(40).collect(),
        };
        format!("{}: {becomes}", self.path())
    }

    /// The places of the field in an answer, as JSON pointers: none if the answer does not have it.
    pub fn places(&self, answer: &Value) -> Vec<String> {
        places(answer, &self.path)
    }

    /// Changes the field at these places.
    pub fn make(&self, answer: &mut Value, places: &[String]) {
        for pointer in places {
            self.change.make(answer, pointer);
        }
    }

    /// An answer with the field changed wherever it is.
    pub fn made(&self, answer: &Value) -> Value {
        let mut changed = answer.clone();
        self.make(&mut changed, &self.places(answer));
        changed
    }
}

impl Change {
    fn make(&self, answer: &mut Value, pointer: &str) {
        match self {
            Self::To(value) => {
                if let Some(found) = answer.pointer_mut(pointer) {
                    *found = value.clone();
                }
            }
            Self::Twice => {
                if let Some(items) = answer.pointer_mut(pointer).and_then(Value::as_array_mut) {
                    let first = items.first().cloned();
                    items.extend(first);
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
    let has_items = value.as_array().is_some_and(|items| !items.is_empty());
    std::iter::once(Change::Missing)
        .chain(has_items.then_some(Change::Twice))
        .chain(others.map(Change::To))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_variant_changes_its_field_alone() {
        let answer = json!({ "data": [{ "id": "a" }, { "id": "b" }], "has_more": false, "a/b": 1 });
        let variants = Variant::of(&answer);
        let names: BTreeSet<String> = variants.iter().map(Variant::name).collect();
        assert_eq!(names.len(), variants.len());
        for variant in &variants {
            let changed = variant.made(&answer);
            assert_ne!(changed, answer, "{}", variant.name());
            let first = variant.path[0].as_str();
            for (name, value) in answer.as_object().unwrap() {
                assert_eq!(changed.get(name) != Some(value), name == first);
            }
        }
        let of = |path: &str| variants.iter().filter(|one| one.path() == path).count();
        let paths = ["data", "data.*.id", "has_more", "a/b"];
        assert_eq!(paths.map(of), [6, 6, 4, 7]);
    }

    #[test]
    fn a_flag_is_flipped_and_a_written_change_is_made() {
        let answer = json!({ "data": [{ "active": true, "id": "a" }] });
        let flipped = Variant::flipped(&answer);
        assert_eq!(flipped.len(), 1);
        let inactive = json!({ "data": [{ "active": false, "id": "a" }] });
        assert_eq!(flipped[0].made(&answer), inactive);
        let written = Variant::new("data.*.id", Some(json!(-1)));
        assert_eq!(written.made(&answer)["data"][0]["id"], -1);
        let missing = Variant::new("data.*.id", None).made(&answer);
        assert_eq!(missing, json!({ "data": [{ "active": true }] }));
        assert_eq!(Variant::new("other", None).made(&answer), answer);
    }
}
