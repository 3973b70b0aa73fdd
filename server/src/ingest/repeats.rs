//! Whether repeated keys are likely in the next group, as after an outage, when callers repeat their calls.
//!
//! It decides only which way of counting is faster: see `store::commit`.

use crate::{domain::increment::Outcome, store::group::EntryOutcome};

/// For how many groups after a repeated key another one is likely.
const GROUPS: u32 = 32;

/// The groups that are left until no repeated key is expected.
#[derive(Debug, Default)]
pub(super) struct Repeats(u32);

impl Repeats {
    pub(super) fn are_likely(&self) -> bool {
        self.0 > 0
    }

    /// Takes the outcomes of a group into account.
    pub(super) fn observe(&mut self, outcomes: &[EntryOutcome]) {
        self.0 = if outcomes.iter().any(has_repeat) {
            GROUPS
        } else {
            self.0.saturating_sub(1)
        };
    }
}

/// Whether a call repeated a key that was looked up: results of a repeated batch are not.
fn has_repeat(outcome: &EntryOutcome) -> bool {
    match outcome {
        EntryOutcome::One(outcome) => *outcome == Outcome::Duplicate,
        EntryOutcome::Batch {
            replayed, items, ..
        } => !replayed && items.contains(&Outcome::Duplicate),
        EntryOutcome::BatchRefused(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_is_expected_for_some_groups() {
        let mut repeats = Repeats::default();
        assert!(!repeats.are_likely());
        repeats.observe(&[EntryOutcome::One(Outcome::Duplicate)]);
        for _ in 0..GROUPS {
            assert!(repeats.are_likely());
            repeats.observe(&[EntryOutcome::One(Outcome::Counted)]);
        }
        assert!(!repeats.are_likely());
    }

    #[test]
    fn a_repeated_batch_says_nothing_about_keys() {
        let mut repeats = Repeats::default();
        repeats.observe(&[EntryOutcome::Batch {
            replayed: true,
            counted: 0,
            items: vec![Outcome::Duplicate],
        }]);
        assert!(!repeats.are_likely());
    }
}
