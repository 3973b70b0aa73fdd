//! Validates the usage of one line.

use chrono::{DateTime, Utc};
use serde::Deserialize;

/// The columns of a CSV file, and the fields of a JSON object.
pub(super) const KNOWN: [&str; 4] = ["account_id", "meter", "quantity", "timestamp"];

/// The limits of the server, so that a dry run needs no server.
const MAX_QUANTITY: i64 = 1_000_000_000_000;
const MAX_ACCOUNT_BYTES: usize = 128;

/// One line's usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) account: String,
    pub(super) meter: Option<String>,
    pub(super) quantity: i64,
    pub(super) timestamp: DateTime<Utc>,
}

/// The fields of a line before validation.
#[derive(Debug, Deserialize)]
pub(super) struct Raw {
    pub(super) account_id: Option<String>,
    pub(super) meter: Option<String>,
    /// Null if it is empty.
    #[serde(default, deserialize_with = "present")]
    pub(super) quantity: Option<serde_json::Value>,
    pub(super) timestamp: Option<String>,
}

pub(super) fn from_json(bytes: &[u8], ignore_unknown: bool) -> Result<Row, String> {
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| format!("not valid JSON: {error}"))?;
    let object = value
        .as_object()
        .ok_or_else(|| "not a JSON object".to_owned())?;
    if let Some(name) = object.keys().find(|name| !KNOWN.contains(&name.as_str()))
        && !ignore_unknown
    {
        return Err(format!("unknown field '{name}'"));
    }
    let raw: Raw = serde_json::from_value(value).map_err(|error| error.to_string())?;
    raw.check()
}

fn present<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<serde_json::Value>, D::Error> {
    serde_json::Value::deserialize(deserializer).map(Some)
}

impl Raw {
    pub(super) fn check(self) -> Result<Row, String> {
        let present = |field: Option<String>, name| {
            field
                .filter(|text| !text.is_empty())
                .ok_or_else(|| format!("{name} is missing"))
        };
        let quantity = match &self.quantity {
            None => 1,
            Some(serde_json::Value::Null) => return Err("quantity is missing".to_owned()),
            Some(given) => {
                let whole = match given {
                    serde_json::Value::String(text) => text.parse().ok(),
                    other => other.as_i64(),
                };
                whole.ok_or_else(|| format!("quantity {given} is not a whole number"))?
            }
        };
        if !(1..=MAX_QUANTITY).contains(&quantity) {
            return Err(format!("quantity {quantity} is not 1 to 1,000,000,000,000"));
        }
        let timestamp = present(self.timestamp, "timestamp")?;
        let account = present(self.account_id, "account_id")?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@/+=-".contains(&byte);
        if account.len() > MAX_ACCOUNT_BYTES || !account.bytes().all(is_plain) {
            return Err(format!(
                "account_id '{account}' is not 1 to {MAX_ACCOUNT_BYTES} characters from A-Z a-z 0-9 . _ : @ / + = -"
            ));
        }
        Ok(Row {
            account,
            meter: self.meter,
            quantity,
            timestamp: DateTime::parse_from_rfc3339(&timestamp)
                .map_err(|_| format!("timestamp '{timestamp}' is not like 2026-03-01T12:00:00Z"))?
                .into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_lines_are_explained() {
        let why = |text: &str| from_json(text.as_bytes(), false).unwrap_err();
        assert_eq!(why("{}"), "timestamp is missing");
        assert_eq!(
            why(r#"{"timestamp":"2026-03-01T00:00:00Z"}"#),
            "account_id is missing"
        );
        assert_eq!(
            why(r#"{"account_id":"a","timestamp":"today"}"#),
            "timestamp 'today' is not like 2026-03-01T12:00:00Z"
        );
        assert_eq!(
            why(r#"{"account_id":"a","quantity":1.5,"timestamp":"2026-03-01T00:00:00Z"}"#),
            "quantity 1.5 is not a whole number"
        );
        assert_eq!(why(r#"{"acount_id":"a"}"#), "unknown field 'acount_id'");
        assert!(why("{").starts_with("not valid JSON"));
    }
}
