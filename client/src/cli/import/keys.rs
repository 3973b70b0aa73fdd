//! The idempotency keys of lines, with which a line is counted once however often its file is imported.
//!
//! A line's id is its key as it is, so that overlapping exports, and calls with the same key, count once. Without an id
//! a key is made of the line's contents, not its number, because removing a bad line changes all later numbers.

use super::{batch::Outgoing, row::Row};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;

/// The maximum number of different lines without an id: each takes some memory, to number equal ones.
pub(super) const MAX_LINES: usize = 20_000_000;

#[derive(Debug)]
pub(super) struct Keys {
    name: String,
    /// How often each line occurred, by the hash of its contents.
    occurrences: HashMap<[u8; 16], u32>,
}

impl Keys {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            occurrences: HashMap::new(),
        }
    }

    /// The key of the input's next line, made of its contents; `None` if there are too many lines.
    pub(super) fn next(&mut self, row: &Row) -> Option<String> {
        let Row {
            account,
            meter,
            quantity,
            timestamp,
            id: _,
        } = row;
        let meter = meter.as_deref().unwrap_or_default();
        let millis = timestamp.timestamp_millis();
        let hash = digest(&format!("{account}\n{meter}\n{quantity}\n{millis}"))?;
        if self.occurrences.len() >= MAX_LINES && !self.occurrences.contains_key(&hash) {
            return None;
        }
        let occurrence = self.occurrences.entry(hash).or_default();
        *occurrence = occurrence.checked_add(1)?;
        let hash = u128::from_be_bytes(hash);
        Some(format!("import/{}/{hash:032x}/{occurrence}", self.name))
    }
}

fn digest(text: &str) -> Option<[u8; 16]> {
    Sha256::digest(text).first_chunk().copied()
}

/// The ids that a dry run would have counted, because the server does not store them: an id that comes again in a later
/// batch is found here.
#[derive(Debug, Default)]
pub(super) struct SeenIds {
    /// A hash of the contents, by a hash of account and id.
    contents: HashMap<[u8; 16], [u8; 16]>,
}

/// What an earlier line of a dry run had under the same id.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Same,
    Other,
}

impl SeenIds {
    /// Remembers a line that would be counted. `false` if there are too many.
    pub(super) fn add(&mut self, line: &Outgoing) -> bool {
        if self.contents.len() >= MAX_LINES {
            return false;
        }
        if line.row.id.is_some()
            && let Some((name, content)) = name_and_content(&line.row)
        {
            self.contents.insert(name, content);
        }
        true
    }

    pub(super) fn find(&self, row: &Row) -> Option<Seen> {
        let (name, content) = name_and_content(row)?;
        let seen = self.contents.get(&name)?;
        Some(if *seen == content {
            Seen::Same
        } else {
            Seen::Other
        })
    }
}

fn name_and_content(row: &Row) -> Option<([u8; 16], [u8; 16])> {
    let Row {
        account,
        meter,
        quantity,
        timestamp,
        id,
    } = row;
    let name = digest(&format!("{account}\n{}", id.as_deref()?))?;
    let meter = meter.as_deref().unwrap_or_default();
    let millis = timestamp.timestamp_millis();
    Some((name, digest(&format!("{meter}\n{quantity}\n{millis}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn row(account: &str, quantity: i64) -> Row {
        Row {
            account: account.to_owned(),
            meter: None,
            quantity,
            timestamp: DateTime::UNIX_EPOCH,
            id: None,
        }
    }

    fn keys(rows: &[Row]) -> Vec<String> {
        let mut keys = Keys::new("usage.csv");
        let keys = rows.iter().map(|row| keys.next(row).unwrap());
        keys.collect()
    }

    #[test]
    fn equal_lines_have_different_keys_in_any_order() {
        let [a, b, c] = [row("a", 1), row("a", 2), row("b", 1)];
        let some = keys(&[a.clone(), b.clone(), a.clone(), c.clone()]);
        let mut sorted = some.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 4);
        let mut others = keys(&[c, a.clone(), a, b]);
        others.sort();
        assert_eq!(others, sorted);
        assert!(some[0].starts_with("import/usage.csv/") && some[0].ends_with("/1"));
        assert!(some[2].ends_with("/2"));
    }
}
