//! Messages as canonical protobuf JSON: 64-bit integers as texts, enums by name, fields in `lowerCamelCase`.
//!
//! Fields of requests may also have the names of the proto file, and numbers may be texts, as the mapping demands. A field
//! that is not known is an error: an idempotency key whose name is misspelt would otherwise count twice.

use std::fmt;

use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::error::Category;
use serde_path_to_error::{Deserializer, Path, Track};

use super::json_shape;

/// Why a text is not the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JsonError {
    /// It is not valid JSON, or not an object.
    Malformed(String),
    /// A field has a wrong value, is not known, or is given twice.
    Field {
        /// Its path, with the names that the text has.
        field: String,
        /// What is wrong, and where.
        message: String,
    },
}

/// What errors begin with that name a field which the path does not end with.
const NAMING: [&str; 2] = ["unrecognized field name '", "the field '"];

impl JsonError {
    pub(super) fn at(path: &Path, error: &serde_json::Error) -> Self {
        let text = shortened(&error.to_string());
        let mut field = shortened(&path.to_string());
        if field == "." {
            field.clear();
        }
        let named = NAMING.iter().find_map(|start| text.strip_prefix(start));
        if let Some((name, _)) = named.and_then(|rest| rest.split_once('\'')) {
            if !field.is_empty() {
                field.push('.');
            }
            field.push_str(name);
        }
        let is_about_field = error.classify() == Category::Data && !field.is_empty();
        if is_about_field {
            let message = format!("{field}: {text}");
            return Self::Field { field, message };
        }
        if field.is_empty() {
            return Self::Malformed(format!("not valid JSON: {text}"));
        }
        Self::Malformed(format!("not valid JSON in {field}: {text}"))
    }
}

/// The start and the end of a text: it can repeat names and values of the request, and ends with the line and the column.
fn shortened(text: &str) -> String {
    const START: usize = 100;
    const END: usize = 40;
    if text.chars().count() <= START.saturating_add(END) {
        return text.to_owned();
    }
    let start: String = text.chars().take(START).collect();
    let mut end: Vec<char> = text.chars().rev().take(END).collect();
    end.reverse();
    format!("{start}...{}", String::from_iter(end))
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Malformed(message) | Self::Field { message, .. }) = self;
        f.write_str(message)
    }
}

/// Reads a message.
///
/// # Errors
/// The text is not the message. It names the field.
pub(crate) fn to_protobuf(message: &MessageDescriptor, text: &[u8]) -> Result<Vec<u8>, JsonError> {
    if text.is_empty() {
        let empty = "not valid JSON: it is empty; a message without fields is {}";
        return Err(JsonError::Malformed(empty.to_owned()));
    }
    json_shape::check(text)?;
    let mut json = serde_json::Deserializer::from_slice(text);
    let mut track = Track::new();
    let tracked = Deserializer::new(&mut json, &mut track);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let read = DynamicMessage::deserialize_with_options(message.clone(), tracked, &options);
    let read = read.map_err(|error| JsonError::at(&track.path(), &error))?;
    Ok(read.encode_to_vec())
}

/// Writes a message.
///
/// # Errors
/// The bytes are not the message; a defect of this program.
pub(crate) fn to_json(
    message: &MessageDescriptor,
    bytes: &[u8],
) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let message = DynamicMessage::decode(message.clone(), bytes)?;
    let mut serializer = serde_json::Serializer::new(Vec::new());
    message.serialize_with_options(&mut serializer, &SerializeOptions::new())?;
    Ok(serializer.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Contract;
    use usage_proto::v1::IncrementRequest;

    fn read(text: &str) -> Result<IncrementRequest, JsonError> {
        let contract = Contract::read().unwrap();
        let message = contract.message("usage.v1.IncrementRequest").unwrap();
        let bytes = to_protobuf(&message, text.as_bytes())?;
        Ok(IncrementRequest::decode(&*bytes).unwrap())
    }

    fn field_of(text: &str) -> String {
        match read(text) {
            Err(JsonError::Field { field, message }) => {
                assert!(message.starts_with(&field), "{message}");
                field
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_message_has_the_names_of_json_or_of_the_file_and_numbers_may_be_texts() {
        let expected = IncrementRequest {
            account_id: "acct".to_owned(),
            quantity: Some(999_999_999_999_999),
            ..IncrementRequest::default()
        };
        for text in [
            r#"{"accountId": "acct", "quantity": "999999999999999"}"#,
            r#"{"account_id": "acct", "quantity": 999999999999999}"#,
            r#"{"accountId": "acct", "quantity": 999999999999999.0, "meter": null}"#,
        ] {
            assert_eq!(read(text).unwrap(), expected, "{text}");
        }
        let contract = Contract::read().unwrap();
        let message = contract.message("usage.v1.IncrementRequest").unwrap();
        let json = to_json(&message, &expected.encode_to_vec()).unwrap();
        assert_eq!(
            String::from_utf8(json).unwrap(),
            r#"{"accountId":"acct","quantity":"999999999999999"}"#
        );
    }

    #[test]
    fn an_error_names_the_field() {
        for (text, field) in [
            (r#"{"accountId": 1}"#, "accountId"),
            (r#"{"quantity": "many"}"#, "quantity"),
            (r#"{"quantity": 1.5}"#, "quantity"),
            (r#"{"quantity": 9223372036854775808}"#, "quantity"),
            (r#"{"quantity": "NaN"}"#, "quantity"),
            (r#"{"quantity": []}"#, "quantity"),
            (r#"{"quantiy": 1}"#, "quantiy"),
            (r#"{"accountId": "a", "accountId": "b"}"#, "accountId"),
            (r#"{"accountId": "a", "account_id": "b"}"#, "account_id"),
            (r#"{"timestamp": "yesterday"}"#, "timestamp"),
            (r#"{"dimensions": {"a": 1}}"#, "dimensions.a"),
        ] {
            assert_eq!(field_of(text), field, "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        let many = format!(r#"{{"meter": [{}1]}}"#, "1,".repeat(1_000_000));
        let long = format!(r#"{{"{}": 1}}"#, "a".repeat(100_000));
        assert!(field_of(&long).len() < 300);
        for text in [
            "",
            "[]",
            "{",
            "{} {}",
            r#"{"quantity": NaN}"#,
            r#"{"quantity": 1e999}"#,
            r#"{"quantity": 01}"#,
            "{\"accountId\": \"\u{1}\"}",
            &deep,
            &many,
        ] {
            let error = read(text).unwrap_err();
            let start: String = text.chars().take(40).collect();
            assert!(
                matches!(&error, JsonError::Malformed(text) if text.len() < 400),
                "{start}: {error:?}"
            );
        }
        let bytes = b"{\"accountId\": \"\xff\"}";
        let contract = Contract::read().unwrap();
        let message = contract.message("usage.v1.IncrementRequest").unwrap();
        to_protobuf(&message, bytes).unwrap_err();
    }
}
