//! Random choices that are reproducible by a seed.

use chrono::{DateTime, TimeDelta, Utc};

/// Splitmix64: small and platform-independent.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `end`, exclusive.
    pub(crate) fn below(&mut self, end: i64) -> i64 {
        i64::try_from(self.next() >> 1).unwrap() % end
    }

    pub(crate) fn one_in(&mut self, times: i64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let place = self.below(i64::try_from(from.len()).unwrap());
        from[usize::try_from(place).unwrap()]
    }

    /// A time from `start` to `end`, exclusive.
    pub(crate) fn between(&mut self, start: DateTime<Utc>, end: DateTime<Utc>) -> DateTime<Utc> {
        let span = (end - start).num_milliseconds().max(1);
        start + TimeDelta::milliseconds(self.below(span))
    }
}
