//! One JSON object, read strictly: a name that stands twice is an error, where most readers keep one of the two values.

use super::{
    bad::{Bad, Cause, quoted},
    columns::{Columns, Meaning},
    row::{Given, Raw},
};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use std::{collections::HashSet, fmt};

/// Reads the fields of a line.
pub(super) fn read(line: &[u8], columns: &Columns) -> Result<Raw, Bad> {
    let line = line.trim_ascii();
    if !line.starts_with(b"{") {
        let why = "not a JSON object; each line must be one object";
        return Err(Bad::new(Cause::NotJson, why));
    }
    let invalid = |error: serde_json::Error| {
        let text = error.to_string();
        // The line within the line is always 1.
        let what = text.split(" at line ").next().unwrap_or_default();
        let why = format!("not valid JSON: {what} at column {}", error.column());
        Bad::new(Cause::NotJson, why)
    };
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let read = Object(columns).deserialize(&mut deserializer);
    let read = read.map_err(invalid)?;
    deserializer.end().map_err(invalid)?;
    let raw = read?;
    columns.check_present(|field| raw.get(field).is_some())?;
    Ok(raw)
}

struct Object<'a>(&'a Columns);

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Result<Raw, Bad>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Result<Raw, Bad>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut raw = Raw::default();
        let mut names = HashSet::new();
        // The rest of the object is read after an error too: it may not be valid JSON.
        let mut bad = None;
        while let Some(name) = map.next_key::<String>()? {
            match self.0.meaning(&name, "field") {
                Ok(Meaning::Field(field)) => *raw.get_mut(field) = Some(given(map.next_value()?)),
                meaning => {
                    map.next_value::<IgnoredAny>()?;
                    if let Err(why) = meaning {
                        bad.get_or_insert(Bad::new(Cause::UnknownField, why));
                    }
                }
            }
            if names.contains(&name) {
                let why = format!("the field {} is there twice", quoted(&name));
                bad.get_or_insert(Bad::new(Cause::FieldTwice, why));
            }
            names.insert(name);
        }
        Ok(bad.map_or(Ok(raw), Err))
    }
}

fn given(value: Value) -> Given {
    match value {
        Value::Null => Given::Text(String::new()),
        Value::String(text) => Given::Text(text),
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            Given::Text(number.to_string())
        }
        other => Given::Other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::row::Row, *};

    fn row(text: &str, ignore_unknown: bool) -> Result<Row, Bad> {
        let columns = Columns::new(&[], false, ignore_unknown).unwrap();
        read(text.as_bytes(), &columns)?.check(None)
    }

    #[test]
    fn invalid_lines_are_explained() {
        let at = r#""timestamp":"2026-03-01T00:00:00Z""#;
        for (text, why) in [
            ("{}", "timestamp is missing"),
            (&*format!("{{{at}}}"), "account_id is missing"),
            (
                r#"{"account_id":"a","timestamp":"today"}"#,
                "timestamp 'today' is not understood; understood are",
            ),
            (
                &format!(r#"{{"account_id":"a","quantity":1.5,{at}}}"#),
                "quantity 1.5 is not a whole number",
            ),
            (
                &format!(r#"{{"account_id":"a","quantity":null,{at}}}"#),
                "quantity is missing",
            ),
            (
                &format!(r#"{{"account_id":"a","meter":"",{at}}}"#),
                "meter is missing",
            ),
            (
                &format!(r#"{{"account_id":["a"],{at}}}"#),
                "account_id '[\"a\"]' is neither text nor",
            ),
            (&format!(r#"{{"account_id":"a","id":1e40,{at}}}"#), "id '1e"),
            (r#"{"acount_id":"a"}"#, "the field 'acount_id' is unknown"),
            (
                "{",
                "not valid JSON: EOF while parsing an object at column 1",
            ),
            ("{}{}", "not valid JSON: trailing characters at column 3"),
            ("[{}]", "not a JSON object"),
            ("7", "not a JSON object"),
        ] {
            let error = row(text, false).unwrap_err().why;
            assert!(error.starts_with(why), "{text}: {error}");
        }
    }

    #[test]
    fn whole_numbers_are_text_too() {
        let text = r#"{"account_id":42,"id":7,"quantity":"3","timestamp":1772366400}"#;
        let row = row(text, false).unwrap();
        assert_eq!((&*row.account, row.quantity), ("42", 3));
        assert_eq!(row.id.as_deref(), Some("7"));
        assert_eq!(row.timestamp.timestamp(), 1_772_366_400);
    }

    #[test]
    fn a_name_that_stands_twice_is_an_error() {
        let head = r#"{"account_id":"a","timestamp":1772366400"#;
        for (rest, ignore_unknown) in [
            (r#","quantity":1,"quantity":500}"#, false),
            (r#","quantity":1,"quantity":1}"#, false),
            (r#","quantity":1,"\u0071uantity":500}"#, false),
            (r#","note":1,"note":2}"#, true),
        ] {
            let bad = row(&format!("{head}{rest}"), ignore_unknown).unwrap_err();
            assert_eq!(bad.cause, Cause::FieldTwice, "{rest}");
        }
        assert_eq!(
            row(&format!("{head},\"q\":{{\"a\":1,\"a\":2}}}}"), true)
                .unwrap()
                .quantity,
            1
        );
        let broken = row(&format!("{head},\"meter\":1,\"meter\":2"), false).unwrap_err();
        assert_eq!(broken.cause, Cause::NotJson);
    }
}
