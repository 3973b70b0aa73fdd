//! The keys of lines: by these a line counts once, however often and in whichever order its file is imported.
//!
//! A line's number would not do: whoever takes a bad line out moves all that follow it.

use super::row::Row;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;

/// So many lines a file may have: each takes some bytes of memory, to tell equal ones apart.
pub(super) const MOST_LINES: usize = 20_000_000;

#[derive(Debug)]
pub(super) struct Keys {
    name: String,
    /// How often each line has come, by what it says.
    seen: HashMap<[u8; 16], u32>,
}

impl Keys {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            seen: HashMap::new(),
        }
    }

    /// The key of the file's next line; none where there are more than a file may have.
    pub(super) fn next(&mut self, row: &Row) -> Option<String> {
        let Row {
            account,
            meter,
            quantity,
            timestamp,
        } = row;
        let meter = meter.as_deref().unwrap_or_default();
        let millis = timestamp.timestamp_millis();
        let whole = Sha256::digest(format!("{account}\n{meter}\n{quantity}\n{millis}"));
        let says: [u8; 16] = *whole.first_chunk()?;
        if self.seen.len() >= MOST_LINES && !self.seen.contains_key(&says) {
            return None;
        }
        let times = self.seen.entry(says).or_default();
        *times = times.checked_add(1)?;
        let says = u128::from_be_bytes(says);
        Some(format!("import/{}/{says:032x}/{times}", self.name))
    }
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
        }
    }

    fn keys(rows: &[Row]) -> Vec<String> {
        let mut keys = Keys::new("usage.csv");
        let keys = rows.iter().map(|row| keys.next(row).unwrap());
        keys.collect()
    }

    #[test]
    fn equal_lines_have_keys_of_their_own_and_order_does_not_matter() {
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
