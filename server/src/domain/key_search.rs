//! The search for the increments of some reports among all stored keys.
//!
//! Keys are stored in their own order, and an index by report would cost every increment a page that is written. But most
//! keys are `UUIDv7`, which begin with the time at which they were made: those of a report are near the time at which it
//! counted. So keys of that time are read first. If they add up to the reports' quantities, that is all; else the others
//! are read too: keys that are a UUID of another kind or a text, and those that were made long before they were sent.

use uuid::Uuid;

use super::{MINUTE_MS, Millis, window::Interval};

/// How far a caller's clock may be off, so that its keys are still read first.
const CLOCK_DIFFERENCE_MS: Millis = 10 * MINUTE_MS;
/// A `UUIDv7` begins with 48 bits of milliseconds.
const TIME_BITS: u32 = 48;
/// The bits after them.
const RANDOM: u128 = u128::MAX >> TIME_BITS;
/// The latest time that the first bits can say.
const LATEST: u128 = u128::MAX >> (128 - TIME_BITS);

/// Which keys are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Those made around a time.
    Near,
    /// Those before them, in the order of keys.
    Before,
    /// Those after them.
    After,
}

impl Part {
    /// All of them, in the order in which they are read.
    pub const ALL: [Self; 3] = [Self::Near, Self::Before, Self::After];

    /// The part that is read after this one.
    pub fn next(self) -> Option<Self> {
        match self {
            Self::Near => Some(Self::Before),
            Self::Before => Some(Self::After),
            Self::After => None,
        }
    }

    /// The first and the last key of the part for increments of a time; `None` if it has no key.
    pub fn keys(self, time: Interval) -> Option<(Uuid, Uuid)> {
        let first = key_at(time.start.saturating_sub(CLOCK_DIFFERENCE_MS));
        let last = key_at(time.end.saturating_add(CLOCK_DIFFERENCE_MS).max(time.start)) | RANDOM;
        let (first, last) = match self {
            Self::Near => (first, last),
            Self::Before => (0, first.checked_sub(1)?),
            Self::After => (last.checked_add(1)?, u128::MAX),
        };
        Some((Uuid::from_u128(first), Uuid::from_u128(last)))
    }
}

/// The least key that begins with a time.
fn key_at(at: Millis) -> u128 {
    let bits = u128::try_from(at).unwrap_or(0);
    bits.min(LATEST).rotate_right(TIME_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_key_is_in_exactly_one_part(key: u128, start: i64, length in 0..i64::MAX) {
            let time = Interval { start, end: start.saturating_add(length) };
            let parts = Part::ALL.iter().filter_map(|part| part.keys(time));
            let holding = parts.filter(|(first, last)| {
                (first.as_u128()..=last.as_u128()).contains(&key)
            });
            prop_assert_eq!(holding.count(), 1);
        }

        #[test]
        fn a_key_made_at_a_time_is_near_it(at in 0_i64..1 << 47, random: u128, off in -600_000_i64..600_000) {
            let made = (at + off).max(0);
            let key = (u128::try_from(made).unwrap() << 80) | (random >> 48);
            let (first, last) = Part::Near.keys(Interval { start: at, end: at + 1 }).unwrap();
            prop_assert!((first.as_u128()..=last.as_u128()).contains(&key));
        }
    }

    #[test]
    fn all_parts_are_read_one_after_the_other() {
        let mut parts = vec![Part::Near];
        while let Some(next) = parts.last().unwrap().next() {
            parts.push(next);
        }
        assert_eq!(parts, Part::ALL);
    }
}
