//! What one of Stripe's totals proves about the events of its range. Pure sums.

use super::{Certainty, Finding, SentEvent};
use crate::{
    domain::{report::Transition, subset_sum::subsets_with_sum},
    planted_defects::{Defect, planted},
};

/// Totals from here on are not exact: Stripe sends them as doubles. Such a range is compared in parts.
pub const MAX_EXACT: i128 = 9_007_199_254_740_992;

/// The total of the events that Stripe accepted.
pub fn accepted_total(events: &[SentEvent]) -> i128 {
    total(events, |event| event.certainty.is_accepted())
}

fn total(events: &[SentEvent], counts: impl Fn(&SentEvent) -> bool) -> i128 {
    events
        .iter()
        .filter(|event| counts(event))
        .fold(0_i128, |sum, event| {
            sum.saturating_add(event.quantity.into())
        })
}

fn has(events: &[SentEvent], certainties: &[Certainty]) -> bool {
    events
        .iter()
        .any(|event| certainties.contains(&event.certainty))
}

/// Compares Stripe's total of a range with the events of the range.
pub fn compare(events: &[SentEvent], stripe_total: i64) -> Finding {
    use Certainty::{Missing, Overdue, Pending, Unknown};
    let stripe_total = i128::from(stripe_total);
    // The smallest and largest possible total if each of the uncertain events may be included or not.
    let possible = |uncertain: &[Certainty]| {
        let is_uncertain = |event: &SentEvent| uncertain.contains(&event.certainty);
        let base = total(events, |event| {
            event.certainty.is_accepted() && !is_uncertain(event)
        });
        let negative = total(events, |event| is_uncertain(event) && event.quantity < 0);
        let positive = total(events, |event| is_uncertain(event) && event.quantity > 0);
        base.saturating_add(negative)..=base.saturating_add(positive)
    };
    if stripe_total == accepted_total(events) {
        Finding::Equal
    } else if possible(&[Pending, Missing, Unknown]).contains(&stripe_total) {
        Finding::Behind
    } else if stripe_total > *possible(&[Pending, Missing, Unknown, Overdue]).end() {
        Finding::Over
    } else {
        Finding::Lacking
    }
}

/// For each event: `Some(true)` if the total proves that it is included, `Some(false)` if it proves the opposite.
///
/// If no event is unknown and the total equals the sum of all, all are included. Otherwise exactly one combination of
/// unconfirmed events has to explain the total. Where several do, nothing is proven.
pub fn included(events: &[SentEvent], stripe_total: i64) -> Vec<Option<bool>> {
    let stripe_total = i128::from(stripe_total);
    if planted(Defect::ConfirmedWithoutProof) {
        return vec![Some(true); events.len()];
    }
    if !has(events, &[Certainty::Unknown]) && total(events, |_| true) == stripe_total {
        return vec![Some(true); events.len()];
    }
    let is_confirmed = |event: &SentEvent| event.certainty == Certainty::Confirmed;
    let rest = stripe_total.saturating_sub(total(events, is_confirmed));
    let unconfirmed: Vec<i128> = events
        .iter()
        .filter(|event| !is_confirmed(event))
        .map(|event| event.quantity.into())
        .collect();
    let mut found = subsets_with_sum(&unconfirmed, rest);
    let only = found.next().filter(|_| found.next().is_none());
    let mut places = 0..;
    events
        .iter()
        .map(|event| {
            if is_confirmed(event) {
                return Some(true);
            }
            let place = places.next()?;
            only.map(|subset| subset.contains(place))
        })
        .collect()
}

/// The transition of each event that Stripe's total of their range proves, if any.
///
/// An accepted or missing event that is included is confirmed. An overdue event that is not included is missing.
pub fn transitions(events: &[SentEvent], stripe_total: i64) -> Vec<Option<Transition>> {
    let proven = included(events, stripe_total);
    let of_one = |(event, is_included): (&SentEvent, Option<bool>)| match event.certainty {
        Certainty::Overdue | Certainty::Pending | Certainty::Missing if is_included? => {
            Some(Transition::Confirm)
        }
        Certainty::Overdue if !planted(Defect::LossNotNoticed) => Some(Transition::MarkMissing),
        _ => None,
    };
    events.iter().zip(proven).map(of_one).collect()
}

/// The transitions of all events of a range, if its total alone decides every one of them; `None` if totals of smaller
/// ranges are needed.
///
/// The total decides if it is exact, no event is unknown, and either all events are included or all accepted ones are
/// confirmed and the missing ones are still not included.
pub fn transitions_at_once(
    events: &[SentEvent],
    stripe_total: Option<i64>,
) -> Option<Vec<Option<Transition>>> {
    let stripe_total = stripe_total.filter(|total| i128::from(*total).abs() < MAX_EXACT)?;
    if has(events, &[Certainty::Unknown]) {
        return None;
    }
    if total(events, |_| true) == i128::from(stripe_total) {
        return Some(transitions(events, stripe_total));
    }
    let is_unchanged = has(events, &[Certainty::Missing])
        && !has(events, &[Certainty::Overdue, Certainty::Pending])
        && accepted_total(events) == i128::from(stripe_total);
    is_unchanged.then(|| vec![None; events.len()])
}
