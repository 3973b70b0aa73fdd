//! The order of what was read from Stripe: an answer may come late, after something newer was applied.
//!
//! Each answer that is stored carries the moment of its reading: the database's clock before the request. An own change
//! at Stripe is a reading too, at the moment after Stripe's answer.

use super::{Millis, clock_check::is_ahead};
use crate::planted_defects::{Defect, planted};

/// Whether what was read at a time is older than what was applied, and must not be applied any more. What was applied in
/// the future was stored by a clock that was ahead, and does not count.
pub fn is_outdated(read_at: Millis, applied: Option<Millis>, now: Millis) -> bool {
    !planted(Defect::OldFactsApplied)
        && applied.is_some_and(|applied| read_at < applied && !is_ahead(applied, now))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::clock_check::DOUBT_MS;

    const NOW: Millis = 1_800_000_000_000;

    #[test]
    fn the_first_answer_and_one_of_the_same_moment_are_applied() {
        assert!(!is_outdated(NOW, None, NOW));
        assert!(!is_outdated(NOW, Some(NOW), NOW));
        assert!(is_outdated(NOW - 1, Some(NOW), NOW));
    }

    #[test]
    fn a_clock_that_was_ahead_stops_no_answer() {
        assert!(is_outdated(NOW, Some(NOW + DOUBT_MS), NOW));
        assert!(!is_outdated(NOW, Some(NOW + DOUBT_MS + 1), NOW));
    }

    proptest! {
        #[test]
        fn in_whatever_order_answers_come_the_newest_stays(
            mut reads in proptest::collection::vec(NOW - 1_000..=NOW, 1..20),
        ) {
            let newest = reads.iter().copied().max();
            let mut applied = None;
            for read_at in reads.drain(..) {
                if !is_outdated(read_at, applied, NOW) {
                    applied = Some(read_at);
                }
            }
            prop_assert_eq!(applied, newest);
        }
    }
}
