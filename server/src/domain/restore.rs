//! After a restore: which reports of an hour Stripe has, decided by Stripe's total of that hour. Pure sums.
//!
//! A restored backup does not know what was sent after it was made. Of each customer, meter and hour, Stripe's total
//! says how much arrived, but not which reports. All reports of the hour are therefore decided together, so that in the
//! end Stripe has at most what the database has counted, or what it had already.

use super::subset_sum::subsets_with_sum;

/// A report that Stripe may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its quantity.
    pub quantity: i64,
    /// Whether it was counted after the restore: usage that callers repeat. Stripe may have a part of it.
    pub is_repeated: bool,
}

/// What Stripe has of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtStripe {
    /// All of it.
    All,
    /// Nothing.
    Nothing,
    /// This much of it.
    Part(i64),
    /// The total does not show it: a person has to decide.
    Undecided,
}

/// What Stripe's total of an hour shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HourResult {
    /// Each report, in the order of the candidates.
    pub reports: Vec<AtStripe>,
    /// What Stripe has beyond every report that the database knows.
    pub already_sent: i64,
}

/// Decides the reports of an hour. `beyond` is Stripe's total minus the reports that it is known to have.
///
/// A report that was open in the backup may have arrived with a larger quantity. So a total that is at least the sum of
/// all reports includes all of them, and one that no combination of them explains decides nothing.
pub fn decide_hour(beyond: i64, candidates: &[Candidate]) -> HourResult {
    let beyond = i128::from(beyond);
    let total = sum(candidates);
    let has_negative = candidates.iter().any(|one| one.quantity < 0);
    let result = |reports, already_sent: i128| HourResult {
        reports,
        already_sent: i64::try_from(already_sent).unwrap_or(i64::MAX),
    };
    let all = |what| vec![what; candidates.len()];
    if beyond <= 0 && !has_negative {
        return result(all(AtStripe::Nothing), 0);
    }
    if beyond == total || (beyond > total && !has_negative) {
        return result(all(AtStripe::All), beyond.saturating_sub(total));
    }
    if let Some(reports) = combination(candidates, beyond) {
        return result(reports, 0);
    }
    match beyond.checked_sub(total_of(candidates, false)) {
        Some(repeated) if repeated >= 0 && !has_negative => {
            result(take_repeated(candidates, repeated), 0)
        }
        _ => result(all(AtStripe::Undecided), 0),
    }
}

fn sum(candidates: &[Candidate]) -> i128 {
    total_of(candidates, true).saturating_add(total_of(candidates, false))
}

fn total_of(candidates: &[Candidate], is_repeated: bool) -> i128 {
    candidates
        .iter()
        .filter(|one| one.is_repeated == is_repeated)
        .fold(0_i128, |sum, one| sum.saturating_add(one.quantity.into()))
}

/// All reports that were not repeated, and the repeated ones in order up to a total.
fn take_repeated(candidates: &[Candidate], mut left: i128) -> Vec<AtStripe> {
    let mut take = |candidate: &Candidate| {
        if !candidate.is_repeated {
            return AtStripe::All;
        }
        let quantity = i128::from(candidate.quantity);
        let taken = quantity.min(left);
        left = left.saturating_sub(taken);
        if taken == quantity {
            AtStripe::All
        } else if taken == 0 {
            AtStripe::Nothing
        } else {
            AtStripe::Part(i64::try_from(taken).unwrap_or(i64::MAX))
        }
    };
    candidates.iter().map(&mut take).collect()
}

/// Some reports whose sum is exactly the total. If there are several such combinations, each leaves the same sum to be
/// sent, to the same customer and in the same hour.
fn combination(candidates: &[Candidate], total: i128) -> Option<Vec<AtStripe>> {
    let quantities: Vec<i128> = candidates.iter().map(|one| one.quantity.into()).collect();
    let found = subsets_with_sum(&quantities, total).next()?;
    let of_one = |place| {
        if found.contains(place) {
            AtStripe::All
        } else {
            AtStripe::Nothing
        }
    };
    Some((0..candidates.len()).map(of_one).collect())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn candidate(quantity: i64, is_repeated: bool) -> Candidate {
        Candidate {
            quantity,
            is_repeated,
        }
    }

    /// What is sent of the candidates after the decision.
    fn sent(result: &HourResult, candidates: &[Candidate]) -> i64 {
        let of_one = |(at_stripe, candidate): (&AtStripe, &Candidate)| match at_stripe {
            AtStripe::All | AtStripe::Undecided => 0,
            AtStripe::Nothing => candidate.quantity,
            AtStripe::Part(part) => candidate.quantity - part,
        };
        result.reports.iter().zip(candidates).map(of_one).sum()
    }

    #[test]
    fn a_report_that_grew_after_the_backup_is_at_stripe() {
        let result = decide_hour(17, &[candidate(10, false)]);
        assert_eq!(
            (result.reports, result.already_sent),
            (vec![AtStripe::All], 7)
        );
    }

    #[test]
    fn a_total_without_a_report_sends_it() {
        let result = decide_hour(0, &[candidate(10, false), candidate(3, true)]);
        assert_eq!(result.reports, [AtStripe::Nothing; 2]);
        // Stripe's total can be smaller than what it is known to have accepted.
        assert_eq!(
            decide_hour(-4, &[candidate(10, false)]).reports,
            [AtStripe::Nothing]
        );
    }

    #[test]
    fn a_part_of_a_report_from_before_the_restore_decides_nothing() {
        let result = decide_hour(4, &[candidate(10, false)]);
        assert_eq!(result.reports, [AtStripe::Undecided]);
    }

    #[test]
    fn of_repeated_usage_only_what_stripe_lacks_is_sent() {
        let candidates = [
            candidate(10, false),
            candidate(20, true),
            candidate(5, true),
        ];
        let result = decide_hour(22, &candidates);
        assert_eq!(
            result.reports,
            [AtStripe::All, AtStripe::Part(12), AtStripe::Nothing]
        );
        assert_eq!(sent(&result, &candidates), 13);
    }

    #[test]
    fn a_negative_correction_is_decided_by_an_exact_total_only() {
        let candidates = [candidate(10, false), candidate(-4, false)];
        let decided = |beyond| decide_hour(beyond, &candidates).reports;
        assert_eq!(decided(6), [AtStripe::All, AtStripe::All]);
        assert_eq!(decided(10), [AtStripe::All, AtStripe::Nothing]);
        assert_eq!(decided(-4), [AtStripe::Nothing, AtStripe::All]);
        assert_eq!(decided(7), [AtStripe::Undecided; 2]);
    }

    proptest! {
        /// Whatever arrived before the restore, Stripe ends up with no more than was ever counted.
        #[test]
        fn nothing_is_sent_twice(
            // Reports of the backup: quantity, growth after it, and whether it arrived.
            known in vec((1..50_i64, 0..50_i64, any::<bool>()), 0..6),
            // Usage after the backup: quantity, whether it arrived, and whether callers repeat it.
            lost in vec((1..50_i64, any::<bool>(), any::<bool>()), 0..6),
        ) {
            let counted: i64 = known.iter().map(|(quantity, growth, _)| quantity + growth).sum::<i64>()
                + lost.iter().map(|(quantity, _, _)| quantity).sum::<i64>();
            let beyond: i64 = known.iter().filter(|one| one.2).map(|one| one.0 + one.1).sum::<i64>()
                + lost.iter().filter(|one| one.1).map(|one| one.0).sum::<i64>();
            let mut candidates: Vec<Candidate> = known.iter().map(|one| candidate(one.0, false)).collect();
            candidates.extend(lost.iter().filter(|one| one.2).map(|one| candidate(one.0, true)));
            let result = decide_hour(beyond, &candidates);
            prop_assert!(beyond + sent(&result, &candidates) <= counted);
        }

        /// If nothing stays undecided, Stripe has at least everything that the database has counted.
        #[test]
        fn nothing_known_is_left_out(
            beyond in 0..200_i64,
            quantities in vec((1..50_i64, any::<bool>()), 0..8),
        ) {
            let candidates: Vec<Candidate> =
                quantities.iter().map(|(quantity, again)| candidate(*quantity, *again)).collect();
            let result = decide_hour(beyond, &candidates);
            let total: i64 = candidates.iter().map(|one| one.quantity).sum();
            let at_stripe = beyond + sent(&result, &candidates);
            if result.reports.contains(&AtStripe::Undecided) {
                prop_assert!(at_stripe < total);
            } else {
                prop_assert_eq!(at_stripe, total + result.already_sent);
            }
        }
    }
}
