//! Windows: the intervals between slot edges and boundaries. No usage report spans two invoices.

use super::{MINUTE_MS, Millis, start_of};
use crate::planted_defects::{Defect, planted};

/// A half-open interval of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Interval {
    /// The first moment inside.
    pub start: Millis,
    /// The first moment after it.
    pub end: Millis,
}

impl Interval {
    /// Whether a moment lies in it.
    pub fn contains(&self, at: Millis) -> bool {
        self.start <= at && at < self.end
    }

    /// The part that both contain. It is empty (its start is not before its end) if they do not overlap.
    #[must_use]
    pub fn intersection(&self, other: Self) -> Self {
        Self {
            start: self.start.max(other.start),
            end: self.end.min(other.end),
        }
    }

    /// Whether a time lies strictly inside, so that the interval would have to be split there.
    pub fn is_split_by(&self, at: Millis) -> bool {
        self.start < at && at < self.end
    }
}

/// The UTC minute that contains `at`. It is the smallest range of which Stripe has a total.
pub fn minute_of(at: Millis) -> Interval {
    let start = start_of(MINUTE_MS, at);
    Interval {
        start,
        end: start.saturating_add(MINUTE_MS),
    }
}

/// The slots in UTC by which usage is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    width_ms: Millis,
}

impl Slots {
    /// Slots of 15, 30 or 60 minutes.
    ///
    /// # Errors
    /// Any other width, in words.
    pub fn from_mins(mins: u32) -> Result<Self, String> {
        if matches!(mins, 15 | 30 | 60) {
            Ok(Self {
                width_ms: Millis::from(mins).saturating_mul(MINUTE_MS),
            })
        } else {
            Err(format!("window_mins is {mins}; it must be 15, 30 or 60"))
        }
    }

    /// How long a slot is.
    pub fn width_ms(self) -> Millis {
        self.width_ms
    }

    /// The slot around a moment.
    pub fn around(self, at: Millis) -> Interval {
        let start = start_of(self.width_ms, at);
        Interval {
            start,
            end: start.saturating_add(self.width_ms),
        }
    }

    /// Whether a moment is a slot's edge.
    pub fn is_edge(self, at: Millis) -> bool {
        at.rem_euclid(self.width_ms) == 0
    }
}

/// The times at which the billing of an account's usage changes, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boundaries {
    moments: Vec<Millis>,
    is_deleted: bool,
}

impl Boundaries {
    /// Sorts them.
    pub fn new(mut moments: Vec<Millis>) -> Self {
        moments.sort_unstable();
        moments.dedup();
        Self {
            moments,
            is_deleted: false,
        }
    }

    /// Those of a deleted account, of which nothing is counted.
    pub fn of_deleted_account() -> Self {
        Self {
            moments: Vec::new(),
            is_deleted: true,
        }
    }

    /// Whether the account was deleted.
    pub fn is_deleted(&self) -> bool {
        self.is_deleted
    }

    /// Whether one of them lies strictly inside a window.
    pub fn splits(&self, window: Interval) -> bool {
        let first = self
            .moments
            .partition_point(|moment| *moment <= window.start);
        self.moments
            .get(first)
            .is_some_and(|moment| window.is_split_by(*moment))
    }

    /// The window that contains a time: its slot, split at the last boundary at or before the time and at the first one
    /// after it.
    pub fn window_around(&self, slots: Slots, at: Millis) -> Interval {
        let slot = slots.around(at);
        if planted(Defect::WindowNotSplit) {
            return slot;
        }
        let last = at.saturating_sub(planted(Defect::BoundaryOffByOne).into());
        let (before, after) = self
            .moments
            .split_at(self.moments.partition_point(|moment| *moment <= last));
        Interval {
            start: before
                .last()
                .map_or(slot.start, |last| slot.start.max(*last)),
            end: after.first().map_or(slot.end, |first| slot.end.min(*first)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOON: Millis = 1_800_014_400_000;

    #[test]
    fn a_boundary_inside_the_hour_cuts_it_to_the_millisecond() {
        let slots = Slots::from_mins(60).unwrap();
        let slot = slots.around(NOON + 1);
        let edge = slot.start + 1_234_567;
        let boundaries = Boundaries::new(vec![edge]);
        let (left, right) = (
            boundaries.window_around(slots, edge - 1),
            boundaries.window_around(slots, edge),
        );
        assert_eq!(
            left,
            Interval {
                start: slot.start,
                end: edge
            }
        );
        assert_eq!(
            right,
            Interval {
                start: edge,
                end: slot.end
            }
        );
    }

    #[test]
    fn slots_of_other_widths_are_rejected() {
        for mins in [0, 1, 10, 20, 45, 61, 120] {
            assert!(Slots::from_mins(mins).is_err());
        }
    }

    proptest! {
        #[test]
        fn windows_tile_time_and_never_cross_a_boundary(
            at in 0_i64..10_000_000_000, moments in proptest::collection::vec(0_i64..10_000_000_000, 0..8),
            near in proptest::collection::vec(-3_600_000_i64..3_600_000, 0..4), mins in prop_oneof![Just(15_u32), Just(30), Just(60)],
        ) {
            let slots = Slots::from_mins(mins).unwrap();
            let all: Vec<Millis> = moments.into_iter().chain(near.into_iter().map(|n| at + n)).collect();
            let boundaries = Boundaries::new(all.clone());
            let window = boundaries.window_around(slots, at);
            prop_assert!(window.contains(at));
            prop_assert!(all.iter().all(|moment| !window.is_split_by(*moment)));
            prop_assert!(window.start >= slots.around(at).start && window.end <= slots.around(at).end);
            // The neighbours begin where it ends.
            prop_assert_eq!(boundaries.window_around(slots, window.end).start, window.end);
            prop_assert_eq!(boundaries.window_around(slots, window.end - 1), window);
        }
    }
}
