//! Verification: what Stripe's totals prove about the reports that Stripe accepted.
//!
//! Totals are compared by day first. Where they differ, and an event may be missing, they are compared by hour and
//! then by minute, and most minutes contain one event.

use super::{DAY_MS, Millis, report::State};

/// How long after acceptance a report may be absent from Stripe's totals before it is missing.
pub const LACKS_AFTER_MS: Millis = DAY_MS;
/// The largest total that a double represents exactly: above it, a range is compared in parts.
pub const MAX_EXACT: i128 = 9_007_199_254_740_992;
/// The most uncertain events of one minute that are told apart.
const MAX_TOLD_APART: usize = 12;

/// How certain it is that an event is in Stripe's totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Certainty {
    /// It was seen in them.
    Confirmed,
    /// Stripe accepted it so long ago that it must be in them.
    Overdue,
    /// Stripe accepted it lately: its totals may be behind.
    Pending,
    /// It was not in them when it was overdue.
    Missing,
    /// It was sent, and it is unknown whether it arrived.
    Unknown,
}

impl Certainty {
    /// The certainty of a report that has an event timestamp; `None` where it is certain that it did not arrive.
    pub fn of(
        state: State,
        reported_at: Option<Millis>,
        was_sent: bool,
        now: Millis,
    ) -> Option<Self> {
        match state {
            State::Confirmed => Some(Self::Confirmed),
            State::Accepted if reported_at.is_some_and(|at| lacks_since(at) <= now) => {
                Some(Self::Overdue)
            }
            State::Accepted => Some(Self::Pending),
            State::Missing => Some(Self::Missing),
            State::Rejected | State::CustomerDeleted => None,
            _ if was_sent => Some(Self::Unknown),
            _ => None,
        }
    }

    fn is_taken(self) -> bool {
        matches!(self, Self::Confirmed | Self::Overdue | Self::Pending)
    }
}

/// From when on a report that was accepted at a moment counts as missing while it is not seen.
pub fn lacks_since(reported_at: Millis) -> Millis {
    reported_at.saturating_add(LACKS_AFTER_MS)
}

/// One event of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its value.
    pub quantity: i64,
    /// How certain it is that the total contains it.
    pub certainty: Certainty,
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Stripe's total is ours.
    Equal,
    /// The difference is explained by events that are pending, missing or unknown.
    Behind,
    /// An event that was accepted long ago is not in it.
    Lacking,
    /// It is larger than everything that was ever sent.
    Over,
}

impl Finding {
    /// The finding's name, such as `over`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Behind => "behind",
            Self::Lacking => "lacking",
            Self::Over => "over",
        }
    }
}

/// What verification last found of a stream on one UTC day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedDay {
    /// The day's first moment.
    pub day: Millis,
    /// The total of what we sent and Stripe accepted.
    pub sent_total: i64,
    /// Stripe's total; nothing where it is not a whole number.
    pub stripe_total: Option<i64>,
    /// What their difference means.
    pub finding: Finding,
    /// When any of the three last changed.
    pub changed_at: Millis,
    /// When the totals were last compared.
    pub verified_at: Millis,
}

/// The total of the events that Stripe accepted.
pub fn taken(parts: &[Part]) -> i128 {
    sum(parts, |part| part.certainty.is_taken())
}

fn sum(parts: &[Part], counts: impl Fn(&Part) -> bool) -> i128 {
    parts
        .iter()
        .filter(|part| counts(part))
        .fold(0_i128, |sum, part| sum.saturating_add(part.quantity.into()))
}

/// Compares Stripe's total of a range with the range's events.
pub fn find(parts: &[Part], stripes: i64) -> Finding {
    let stripes = i128::from(stripes);
    let is_one_of = |part: &Part, all: &[Certainty]| all.contains(&part.certainty);
    // The smallest and largest total that is possible if some events may have arrived or not.
    let bounds = |doubted: &[Certainty]| {
        let base = sum(parts, |part| {
            part.certainty.is_taken() && !is_one_of(part, doubted)
        });
        let less = sum(parts, |part| is_one_of(part, doubted) && part.quantity < 0);
        let more = sum(parts, |part| is_one_of(part, doubted) && part.quantity > 0);
        base.saturating_add(less)..=base.saturating_add(more)
    };
    let lately = [Certainty::Pending, Certainty::Missing, Certainty::Unknown];
    let ever = [
        Certainty::Pending,
        Certainty::Missing,
        Certainty::Unknown,
        Certainty::Overdue,
    ];
    if stripes == taken(parts) {
        Finding::Equal
    } else if bounds(&lately).contains(&stripes) {
        Finding::Behind
    } else if stripes > *bounds(&ever).end() {
        Finding::Over
    } else {
        Finding::Lacking
    }
}

/// Which events of a range its total proves to be there (`Some(true)`) or not (`Some(false)`).
///
/// Where several sets of events would explain the total, nothing is proven; but where everything that was
/// taken and nothing else explains it, and nothing else was sent, it is there.
pub fn tell(parts: &[Part], stripes: i64) -> Vec<Option<bool>> {
    let is_sure = |part: &Part| part.certainty == Certainty::Confirmed;
    let others = parts.iter().any(|part| !part.certainty.is_taken());
    if !others && taken(parts) == i128::from(stripes) {
        return vec![Some(true); parts.len()];
    }
    let missing = i128::from(stripes).saturating_sub(sum(parts, is_sure));
    let uncertain: Vec<i128> = parts
        .iter()
        .filter(|part| !is_sure(part))
        .map(|part| part.quantity.into())
        .collect();
    let mut explained = explanations(&uncertain, missing);
    let only = explained.next().filter(|_| explained.next().is_none());
    let mut place = 0_u32;
    parts
        .iter()
        .map(|part| {
            if is_sure(part) {
                return Some(true);
            }
            let bit = 1_usize.checked_shl(place)?;
            place = place.saturating_add(1);
            only.map(|set| set & bit != 0)
        })
        .collect()
}

/// The sets of values, as bits, whose sum is `total`.
fn explanations(values: &[i128], total: i128) -> impl Iterator<Item = usize> + '_ {
    let sets = if values.len() > MAX_TOLD_APART {
        0
    } else {
        1_usize.wrapping_shl(u32::try_from(values.len()).unwrap_or(0))
    };
    (0..sets).filter(move |set| {
        let held = values.iter().enumerate().filter(|(place, _)| {
            let bit = u32::try_from(*place)
                .ok()
                .and_then(|at| 1_usize.checked_shl(at));
            bit.is_some_and(|bit| set & bit != 0)
        });
        held.fold(0_i128, |sum, (_, value)| sum.saturating_add(*value)) == total
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(quantity: i64, certainty: Certainty) -> Part {
        Part {
            quantity,
            certainty,
        }
    }

    #[test]
    fn a_difference_is_named_by_what_may_explain_it() {
        use Certainty::{Confirmed, Overdue, Pending, Unknown};
        let parts = [part(10, Confirmed), part(5, Overdue), part(3, Pending)];
        assert_eq!(find(&parts, 18), Finding::Equal);
        assert_eq!(find(&parts, 15), Finding::Behind);
        assert_eq!(find(&parts, 13), Finding::Lacking);
        assert_eq!(find(&parts, 0), Finding::Lacking);
        assert_eq!(find(&parts, 19), Finding::Over);
        let undecided = [part(10, Confirmed), part(5, Unknown)];
        assert_eq!(find(&undecided, 15), Finding::Behind);
        assert_eq!(find(&undecided, 16), Finding::Over);
        // A correction below zero that is not there looks like more.
        let corrected = [part(10, Confirmed), part(-4, Overdue)];
        assert_eq!(find(&corrected, 10), Finding::Lacking);
        assert_eq!(find(&corrected, 11), Finding::Over);
    }

    #[test]
    fn what_cannot_be_told_apart_is_not_blamed() {
        use Certainty::{Confirmed, Overdue, Unknown};
        let two = [part(5, Overdue), part(7, Overdue)];
        assert_eq!(tell(&two, 7), [Some(false), Some(true)]);
        assert_eq!(tell(&two, 0), [Some(false), Some(false)]);
        assert_eq!(tell(&two, 6), [None, None], "another sender's event");
        let same = [part(5, Overdue), part(5, Overdue)];
        assert_eq!(tell(&same, 5), [None, None]);
        assert_eq!(tell(&same, 10), [Some(true), Some(true)]);
        let doubted = [part(5, Overdue), part(5, Unknown), part(2, Confirmed)];
        assert_eq!(tell(&doubted, 7), [None, None, Some(true)]);
        assert_eq!(tell(&doubted, 12), [Some(true), Some(true), Some(true)]);
    }

    proptest! {
        #[test]
        fn what_is_told_is_true_and_what_is_all_there_is_found_equal(
            events in proptest::collection::vec((1_i64..6, any::<bool>(), 0_usize..4), 0..7),
        ) {
            let certainties = [Certainty::Confirmed, Certainty::Overdue, Certainty::Pending, Certainty::Unknown];
            let parts: Vec<Part> = events.iter().map(|(quantity, _, which)| part(*quantity, certainties[*which])).collect();
            let is_there: Vec<bool> = events.iter().zip(&parts).map(|((_, there, _), part)| *there || part.certainty == Certainty::Confirmed).collect();
            let stripes: i64 = parts.iter().zip(&is_there).filter(|(_, there)| **there).map(|(part, _)| part.quantity).sum();
            let has_others = parts.iter().any(|part| !part.certainty.is_taken());
            for (told, there) in tell(&parts, stripes).into_iter().zip(&is_there) {
                if let Some(told) = told {
                    prop_assert_eq!(told, *there);
                }
            }
            prop_assert_ne!(find(&parts, stripes), Finding::Over);
            if !has_others && is_there.iter().all(|there| *there) {
                prop_assert_eq!(find(&parts, stripes), Finding::Equal);
            }
        }
    }
}
