//! The JSON schemas of messages and enums, for OpenAPI.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::{Contract, comments::Comments};

/// The schemas of the messages that methods need, by their full names.
pub(super) struct Schemas<'a> {
    comments: &'a Comments,
    /// The messages within requests: their numbers may be numbers or texts. In answers they are texts.
    inputs: BTreeSet<String>,
    by_name: BTreeMap<String, Value>,
}

impl<'a> Schemas<'a> {
    pub(super) fn of(contract: &'a Contract) -> Self {
        let mut schemas = Self {
            comments: &contract.comments,
            inputs: BTreeSet::new(),
            by_name: BTreeMap::new(),
        };
        for method in contract.methods.values() {
            schemas.note_input(&method.input);
        }
        schemas
    }

    fn note_input(&mut self, message: &MessageDescriptor) {
        if !self.inputs.insert(message.full_name().to_owned()) {
            return;
        }
        for field in message.fields() {
            if let Kind::Message(message) = field.kind() {
                self.note_input(&message);
            }
        }
    }

    pub(super) fn into_map(self) -> Map<String, Value> {
        self.by_name.into_iter().collect()
    }

    /// The schema of a message, or a reference to it.
    pub(super) fn message(&mut self, message: &MessageDescriptor) -> Value {
        let name = message.full_name();
        match name {
            "google.protobuf.Timestamp" => {
                return json!({ "type": "string", "format": "date-time" });
            }
            "google.protobuf.Duration" => {
                return json!({ "type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$" });
            }
            _ => {}
        }
        if !self.by_name.contains_key(name) {
            // A message may contain itself.
            self.by_name.insert(name.to_owned(), Value::Null);
            let schema = self.object(message);
            self.by_name.insert(name.to_owned(), schema);
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    fn object(&mut self, message: &MessageDescriptor) -> Value {
        let file = message.parent_file();
        let is_input = self.inputs.contains(message.full_name());
        let mut properties = Map::new();
        for field in message.fields() {
            let mut schema = self.field(&field, is_input);
            let comment = self.comments.of(file.name(), field.path());
            if !comment.is_empty() {
                schema["description"] = json!(comment);
            }
            properties.insert(field.json_name().to_owned(), schema);
        }
        let mut schema = json!({
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
        });
        let comment = self.comments.of(file.name(), message.path());
        if !comment.is_empty() {
            schema["description"] = json!(comment);
        }
        let exclusive = exclusive(message);
        if !exclusive.is_empty() {
            schema["allOf"] = Value::Array(exclusive);
        }
        schema
    }

    fn field(&mut self, field: &FieldDescriptor, is_input: bool) -> Value {
        if field.is_map() {
            let entry = field.kind();
            let value = entry
                .as_message()
                .map(MessageDescriptor::map_entry_value_field);
            let value = value.map(|value| self.kind(&value.kind(), is_input));
            return json!({ "type": "object", "additionalProperties": value });
        }
        let schema = self.kind(&field.kind(), is_input);
        if field.is_list() {
            return json!({ "type": "array", "items": schema });
        }
        schema
    }

    fn kind(&mut self, kind: &Kind, is_input: bool) -> Value {
        let number = |format: &str, pattern: &str| {
            if is_input {
                json!({ "type": ["string", "integer"], "format": format, "pattern": pattern })
            } else {
                json!({ "type": "string", "format": format, "pattern": pattern })
            }
        };
        match kind {
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Double | Kind::Float => json!({ "type": ["number", "string"] }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                json!({ "type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX })
            }
            Kind::Uint32 | Kind::Fixed32 => {
                json!({ "type": "integer", "format": "uint32", "minimum": 0, "maximum": u32::MAX })
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => number("int64", "^-?[0-9]{1,19}$"),
            Kind::Uint64 | Kind::Fixed64 => number("uint64", "^[0-9]{1,20}$"),
            Kind::Message(message) => self.message(message),
            Kind::Enum(of) => self.enumeration(of),
        }
    }

    fn enumeration(&mut self, of: &EnumDescriptor) -> Value {
        let name = of.full_name();
        if !self.by_name.contains_key(name) {
            let file = of.parent_file();
            let names: Vec<String> = of.values().map(|value| value.name().to_owned()).collect();
            let mut lines = vec![self.comments.of(file.name(), of.path()).to_owned()];
            lines.extend(of.values().map(|value| {
                let comment = self.comments.of(file.name(), value.path());
                format!("- `{}`: {}", value.name(), comment.replace('\n', " "))
            }));
            let schema = json!({
                "type": "string",
                "enum": names,
                "description": lines.join("\n").trim(),
            });
            self.by_name.insert(name.to_owned(), schema);
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }
}

/// Of the fields of a `oneof`, one may be set.
fn exclusive(message: &MessageDescriptor) -> Vec<Value> {
    let mut rules = Vec::new();
    for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
        let names: Vec<String> = oneof
            .fields()
            .map(|field| field.json_name().to_owned())
            .collect();
        for (at, first) in names.iter().enumerate() {
            for second in names.iter().skip(at.saturating_add(1)) {
                rules.push(json!({ "not": { "required": [first, second] } }));
            }
        }
    }
    rules
}
