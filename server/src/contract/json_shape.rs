//! Checks a text of JSON before it becomes a message: its syntax, how deep it is nested, how many values it has, and that no
//! name is in an object twice.
//!
//! The number of values is limited, because a value of two bytes takes a hundred as part of a message.

use std::{collections::HashSet, fmt};

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_path_to_error::{Deserializer, Track};

use super::json::JsonError;

/// The most values of a message: more than those of a batch of 1,000 increments with all fields.
const MAX_VALUES: usize = 65_536;

/// Reads a whole text and keeps nothing. Nesting is limited to 128 levels by `serde_json`.
///
/// # Errors
/// The text is not valid JSON, or too much.
pub(super) fn check(text: &[u8]) -> Result<(), JsonError> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let mut track = Track::new();
    let mut left = MAX_VALUES;
    let tracked = Deserializer::new(&mut json, &mut track);
    let shape = Shape { left: &mut left };
    if let Err(error) = shape.deserialize(tracked) {
        if left == 0 && error.classify() == Category::Data {
            let message = format!("the message has more than {MAX_VALUES} values");
            return Err(JsonError::Malformed(message));
        }
        return Err(JsonError::at(&track.path(), &error));
    }
    let ended = json.end();
    ended.map_err(|error| JsonError::Malformed(format!("not valid JSON: {error}")))
}

struct Shape<'a> {
    /// How many values may follow.
    left: &'a mut usize,
}

impl Shape<'_> {
    fn count<E: Error>(&mut self) -> Result<(), E> {
        let left = self.left.checked_sub(1);
        *self.left = left.ok_or_else(|| E::custom("too many values"))?;
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Shape<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shape<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(mut self, _: bool) -> Result<(), E> {
        self.count()
    }

    fn visit_i64<E: Error>(mut self, _: i64) -> Result<(), E> {
        self.count()
    }

    fn visit_u64<E: Error>(mut self, _: u64) -> Result<(), E> {
        self.count()
    }

    fn visit_f64<E: Error>(mut self, _: f64) -> Result<(), E> {
        self.count()
    }

    fn visit_str<E: Error>(mut self, _: &str) -> Result<(), E> {
        self.count()
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        self.count()
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        self.count()?;
        while let Some(()) = items.next_element_seed(Shape { left: self.left })? {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<(), A::Error> {
        self.count()?;
        let mut names = HashSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            if !names.insert(json_name(&name)) {
                let twice = format!("the field '{name}' is given twice");
                return Err(A::Error::custom(twice));
            }
            fields.next_value_seed(Shape { left: self.left })?;
        }
        Ok(())
    }
}

/// A field has two names: `account_id` is `accountId`.
fn json_name(name: &str) -> String {
    let mut json = String::with_capacity(name.len());
    let mut follows_underscore = false;
    for c in name.chars() {
        if c == '_' {
            follows_underscore = true;
        } else if std::mem::take(&mut follows_underscore) {
            json.push(c.to_ascii_uppercase());
        } else {
            json.push(c);
        }
    }
    json
}
