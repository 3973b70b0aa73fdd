//! Settling: what Stripe's totals say of the reports that it took.
//!
//! Totals are compared over days first. Only where they differ, and there is something to blame, over hours
//! and at last over the single minutes of events, which mostly hold one event each.

use super::{DAY_MS, Millis, report::State};

/// How long after it was taken a report may be absent from Stripe's totals before it is short.
pub const LACKS_AFTER_MS: Millis = DAY_MS;
/// The largest total that a double surely holds: beyond, a range is looked at in parts.
pub const MAX_EXACT: i128 = 9_007_199_254_740_992;
/// How many uncertain events of one minute are told apart.
const MAX_TOLD_APART: usize = 12;

/// How surely an event is in Stripe's totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Certainty {
    /// It was seen there.
    Confirmed,
    /// Stripe took it so long ago that it must be there.
    Overdue,
    /// Stripe took it lately: its totals may be behind.
    Pending,
    /// It was missing when it must have been there.
    Missing,
    /// It was given to Stripe, and nobody knows whether it arrived.
    Unknown,
}

impl Certainty {
    /// How surely a report with an event timestamp is there; `None` where it surely is not.
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

/// From when on a report that was taken then is short where it is not seen.
pub fn lacks_since(reported_at: Millis) -> Millis {
    reported_at.saturating_add(LACKS_AFTER_MS)
}

/// One event of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its value.
    pub quantity: i64,
    /// How surely it is in the total.
    pub certainty: Certainty,
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Stripe's total is ours.
    Equal,
    /// It differs by no more than what was taken lately or is not decided.
    Behind,
    /// It lacks something that was taken long ago.
    Lacking,
    /// It holds more than everything that we ever sent.
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

/// The sum of what Stripe took of some events.
pub fn taken(parts: &[Part]) -> i128 {
    sum(parts, |part| part.certainty.is_taken())
}

fn sum(parts: &[Part], counts: impl Fn(&Part) -> bool) -> i128 {
    parts
        .iter()
        .filter(|part| counts(part))
        .fold(0_i128, |sum, part| sum.saturating_add(part.quantity.into()))
}

/// What a total says of the events of its range.
pub fn find(parts: &[Part], stripes: i64) -> Finding {
    let stripes = i128::from(stripes);
    let is_one_of = |part: &Part, all: &[Certainty]| all.contains(&part.certainty);
    // The least and the most that it may be while some events may be there or not.
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
        assert_eq!(tell(&two, 6), [None, None], "somebody else's event");
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
