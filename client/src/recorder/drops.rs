//! Usage that a recorder dropped, until the program is told of it.

use super::refused::RefusedUsage;
use chrono::DateTime;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Sums of dropped usage that are kept; what more accounts and meters have is summed without them.
const MAX_SUMS: usize = 1_000;
/// Longer account ids and meters are cut: they may be why it was dropped.
const MAX_SHOWN_BYTES: usize = 200;

/// Why usage was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Why {
    /// The recorder is full.
    Full,
    /// The usage is outside the limits of the server.
    Invalid,
}

impl Why {
    fn text(self) -> &'static str {
        match self {
            Self::Full => "the recorder is full: see its capacity, and whether the server answers",
            Self::Invalid => {
                "it is outside the limits of the server: a quantity is 1 to 1,000,000,000,000, an account id 1 to 128 bytes, a meter's name at most 100"
            }
        }
    }
}

/// The account, the meter and the reason.
type Place = (String, String, Why);

/// Sums of dropped usage.
#[derive(Debug, Default)]
pub(super) struct Drops(Mutex<HashMap<Place, Sum>>);

#[derive(Debug)]
struct Sum {
    /// Of the first one, in seconds of Unix time.
    second: i64,
    units: u64,
    calls: u64,
}

impl Drops {
    pub(super) fn add(&self, why: Why, account_id: &str, meter: &str, units: u64) {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (shown(account_id), shown(meter), why);
        let place = if sums.len() < MAX_SUMS || sums.contains_key(&place) {
            place
        } else {
            (String::new(), String::new(), why)
        };
        let sum = sums.entry(place).or_insert_with(|| Sum {
            second: super::now_secs(),
            units: 0,
            calls: 0,
        });
        sum.units = sum.units.saturating_add(units);
        sum.calls = sum.calls.saturating_add(1);
    }

    /// Takes all of them.
    pub(super) fn take(&self) -> Vec<RefusedUsage> {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = std::mem::take(&mut *sums);
        drop(sums);
        let taken = taken.into_iter();
        taken
            .map(|((account_id, meter, why), sum)| RefusedUsage {
                account_id,
                meter,
                at: DateTime::from_timestamp(sum.second, 0).unwrap_or_default(),
                units: sum.units,
                calls: sum.calls,
                reason: None,
                why: format!("dropped: {}", why.text()),
            })
            .collect()
    }
}

fn shown(text: &str) -> String {
    let mut end = text.len().min(MAX_SHOWN_BYTES);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_summed_and_their_number_is_limited() {
        let drops = Drops::default();
        for number in 0..MAX_SUMS + 20 {
            drops.add(Why::Full, &number.to_string(), "calls", 2);
        }
        drops.add(Why::Full, "7", "calls", 3);
        let taken = drops.take();
        assert_eq!(taken.len(), MAX_SUMS + 1);
        let of = |account: &str| taken.iter().find(|one| one.account_id == account).unwrap();
        assert_eq!((of("7").units, of("7").calls), (5, 2));
        assert_eq!((of("").units, of("").calls), (40, 20));
        assert!(drops.take().is_empty());
        drops.add(Why::Invalid, &"\u{e9}".repeat(200), "", 0);
        assert_eq!(drops.take()[0].account_id.len(), MAX_SHOWN_BYTES);
    }
}
