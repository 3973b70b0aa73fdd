//! The mark that a database leaves at Stripe, so that an old or a second copy of it is noticed.
//!
//! The sender writes a mark into the metadata of each product that a meter is sold by, and remembers it. Each mark has the
//! next number, and a nonce, because two copies count on from the same number. A database that finds a mark which it
//! cannot have written was restored from a backup, or a copy of it runs elsewhere. Pure.

use std::fmt;

use uuid::Uuid;

use super::{Millis, SECOND_MS};

/// Metadata keys begin with this. With the database's id they have 38 characters of the 40 that Stripe allows.
const KEY_PREFIX: &str = "usage_";

/// A mark.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The first mark is 1.
    pub number: i64,
    /// Random.
    pub nonce: String,
}

/// What a database knows of its own marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnMarks {
    /// The number of the last one that was written; 0 before the first.
    pub number: i64,
    /// Its nonce.
    pub nonce: Option<String>,
    /// The nonce of the next one, if it is being written: Stripe may have it.
    pub next: Option<String>,
    /// When the one before the last was written.
    pub previous_at: Option<Millis>,
}

impl OwnMarks {
    /// Whether this database wrote a mark, or may have. An older mark is on a product that was not in use for a while, or
    /// Stripe's answer is not current.
    pub fn includes(&self, mark: &Mark) -> bool {
        let is_nonce = |nonce: &Option<String>| nonce.as_ref() == Some(&mark.nonce);
        mark.number < self.number
            || (mark.number == self.number && is_nonce(&self.nonce))
            || (Some(mark.number) == self.number.checked_add(1) && is_nonce(&self.next))
    }
}

/// A mark at Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMark {
    /// The database that wrote it.
    pub database: Uuid,
    /// The mark.
    pub mark: Mark,
    /// When it was written.
    pub written_at: Millis,
}

impl StoredMark {
    /// The metadata key of a database.
    pub fn key_of(database: Uuid) -> String {
        format!("{KEY_PREFIX}{}", database.simple())
    }

    /// Reads an entry of the metadata; `None` for an entry of something else.
    pub fn read(key: &str, value: &str) -> Option<Self> {
        let id = key.strip_prefix(KEY_PREFIX)?;
        let mut parts = value.split(' ');
        let (number, nonce, secs) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            database: Uuid::try_parse(id).ok()?,
            mark: Mark {
                number: number.parse().ok()?,
                nonce: nonce.to_owned(),
            },
            written_at: secs.parse::<i64>().ok()?.saturating_mul(SECOND_MS),
        })
    }
}

impl fmt::Display for StoredMark {
    /// The value in the metadata.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.written_at.div_euclid(SECOND_MS);
        write!(f, "{} {} {secs}", self.mark.number, self.mark.nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: i64, nonce: &str) -> Mark {
        Mark {
            number,
            nonce: nonce.to_owned(),
        }
    }

    #[test]
    fn a_database_knows_its_own_marks() {
        let own = OwnMarks {
            number: 5,
            nonce: Some("a".to_owned()),
            next: Some("b".to_owned()),
            previous_at: None,
        };
        for known in [mark(5, "a"), mark(6, "b"), mark(4, "of long ago")] {
            assert!(own.includes(&known), "{known:?}");
        }
        for unknown in [mark(5, "b"), mark(6, "a"), mark(6, "c"), mark(7, "b")] {
            assert!(!own.includes(&unknown), "{unknown:?}");
        }
        assert!(!OwnMarks::default().includes(&mark(1, "a")));
    }

    #[test]
    fn a_stored_mark_is_read_back() {
        let stored = StoredMark {
            database: Uuid::from_u128(7),
            mark: mark(12, "abc"),
            written_at: 1_800_000_000_000,
        };
        let key = StoredMark::key_of(stored.database);
        assert!(key.len() <= 40, "{key}");
        assert_eq!(StoredMark::read(&key, &stored.to_string()), Some(stored));
        assert_eq!(StoredMark::read("usage_plan", "pro"), None);
        assert_eq!(StoredMark::read(&key, "mine"), None);
    }
}
