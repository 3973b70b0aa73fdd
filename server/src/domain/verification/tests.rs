//! Tests of verification's rules.

use proptest::prelude::*;

use super::{proof::*, *};
use crate::domain::HOUR_MS;

const NOW: Millis = 100 * DAY_MS;

fn event(quantity: i64, certainty: Certainty) -> SentEvent {
    let reported_at = match certainty {
        Certainty::Unknown => None,
        Certainty::Pending => Some(NOW - HOUR_MS),
        _ => Some(NOW - 2 * DAY_MS),
    };
    SentEvent {
        timestamp: NOW - 2 * DAY_MS,
        quantity,
        reported_at,
        certainty,
    }
}

fn verified(result: DayResult, changed_at: Millis, verified_at: Millis) -> VerifiedDay {
    VerifiedDay {
        day: day_of(NOW),
        result,
        changed_at,
        verified_at,
    }
}

fn equal(total: i64) -> DayResult {
    DayResult {
        sent_total: total,
        stripe_total: Some(total),
        finding: Finding::Equal,
    }
}

#[test]
fn a_finding_names_what_may_explain_the_difference() {
    use Certainty::{Confirmed, Overdue, Pending, Unknown};
    let events = [event(10, Confirmed), event(5, Overdue), event(3, Pending)];
    assert_eq!(compare(&events, 18), Finding::Equal);
    assert_eq!(compare(&events, 15), Finding::Behind);
    assert_eq!(compare(&events, 13), Finding::Lacking);
    assert_eq!(compare(&events, 0), Finding::Lacking);
    assert_eq!(compare(&events, 19), Finding::Over);
    let with_unknown = [event(10, Confirmed), event(5, Unknown)];
    assert_eq!(compare(&with_unknown, 15), Finding::Behind);
    assert_eq!(compare(&with_unknown, 16), Finding::Over);
    // A negative correction that is not included makes the total larger.
    let corrected = [event(10, Confirmed), event(-4, Overdue)];
    assert_eq!(compare(&corrected, 10), Finding::Lacking);
    assert_eq!(compare(&corrected, 11), Finding::Over);
}

#[test]
fn an_ambiguous_total_proves_nothing() {
    use Certainty::{Confirmed, Overdue, Unknown};
    let two = [event(5, Overdue), event(7, Overdue)];
    assert_eq!(included(&two, 7), [Some(false), Some(true)]);
    assert_eq!(included(&two, 0), [Some(false), Some(false)]);
    assert_eq!(included(&two, 6), [None, None], "another sender's event");
    let same = [event(5, Overdue), event(5, Overdue)];
    assert_eq!(included(&same, 5), [None, None]);
    assert_eq!(included(&same, 10), [Some(true), Some(true)]);
    let with_unknown = [event(5, Overdue), event(5, Unknown), event(2, Confirmed)];
    assert_eq!(included(&with_unknown, 7), [None, None, Some(true)]);
    assert_eq!(included(&with_unknown, 12), [Some(true); 3]);
}

#[test]
fn too_many_unconfirmed_events_are_not_combined() {
    let events: Vec<SentEvent> = (0..13)
        .map(|nth| event(1 << nth, Certainty::Overdue))
        .collect();
    assert_eq!(included(&events, 1), [None; 13]);
    assert_eq!(included(&events[..12], 1)[..2], [Some(true), Some(false)]);
}

#[test]
fn only_an_overdue_event_becomes_missing() {
    use Certainty::{Confirmed, Missing, Overdue, Pending};
    let events = [
        event(1, Confirmed),
        event(2, Overdue),
        event(4, Pending),
        event(8, Missing),
    ];
    let missing = [None, Some(Transition::MarkMissing), None, None];
    assert_eq!(transitions(&events, 1), missing);
    let confirmed = [
        None,
        None,
        Some(Transition::Confirm),
        Some(Transition::Confirm),
    ];
    let expected: Vec<_> = missing
        .into_iter()
        .zip(confirmed)
        .map(|(one, other)| one.or(other))
        .collect();
    assert_eq!(transitions(&events, 13), expected);
}

#[test]
fn one_total_decides_all_events_only_if_it_is_exact_and_none_is_unknown() {
    use Certainty::{Confirmed, Missing, Overdue, Pending, Unknown};
    let confirm = Some(Transition::Confirm);
    let accepted = [event(10, Confirmed), event(5, Overdue), event(3, Pending)];
    assert_eq!(
        transitions_at_once(&accepted, Some(18)),
        Some(vec![None, confirm.clone(), confirm.clone()])
    );
    assert_eq!(transitions_at_once(&accepted, Some(15)), None);
    assert_eq!(transitions_at_once(&accepted, None), None);
    let with_unknown = [event(10, Confirmed), event(5, Unknown)];
    assert_eq!(transitions_at_once(&with_unknown, Some(15)), None);
    let with_missing = [event(10, Confirmed), event(5, Missing)];
    assert_eq!(
        transitions_at_once(&with_missing, Some(10)),
        Some(vec![None, None])
    );
    assert_eq!(
        transitions_at_once(&with_missing, Some(15)),
        Some(vec![None, confirm])
    );
    // The missing event may have appeared in the place of the overdue one.
    let both = [event(5, Overdue), event(5, Missing)];
    assert_eq!(transitions_at_once(&both, Some(5)), None);
    let large = [event(i64::MAX, Overdue)];
    assert_eq!(transitions_at_once(&large, Some(i64::MAX)), None);
    assert_eq!(transitions_at_once(&[], Some(0)), Some(vec![]));
}

#[test]
fn a_day_total_counts_events_by_their_new_state() {
    use Certainty::{Confirmed, Missing, Overdue};
    let events = [event(10, Confirmed), event(5, Overdue), event(3, Missing)];
    let before = DayResult::of(&events, &[], Some(10));
    assert_eq!((before.sent_total, before.finding), (15, Finding::Lacking));
    let lost = [None, Some(Transition::MarkMissing), None];
    assert_eq!(DayResult::of(&events, &lost, Some(10)), equal(10));
    let found = [None, Some(Transition::Confirm), Some(Transition::Confirm)];
    assert_eq!(DayResult::of(&events, &found, Some(18)), equal(18));
    let unreadable = DayResult::of(&events, &[], None);
    assert_eq!(
        (unreadable.sent_total, unreadable.finding),
        (15, Finding::Behind)
    );
}

#[test]
fn a_new_day_is_due_ten_minutes_after_acceptance() {
    assert!(!is_due(Some(NOW - MIN_AGE_MS + 1), None, NOW));
    assert!(is_due(Some(NOW - MIN_AGE_MS), None, NOW));
    assert!(is_due(None, None, NOW));
}

#[test]
fn a_verified_day_is_due_when_an_event_is_new_or_newly_overdue() {
    let before = verified(equal(1), NOW - 10 * DAY_MS, NOW - 2 * HOUR_MS);
    assert!(!is_due(Some(NOW - 5 * DAY_MS), Some(&before), NOW));
    assert!(is_due(Some(NOW - HOUR_MS), Some(&before), NOW), "new");
    let newly_overdue = NOW - DAY_MS - HOUR_MS;
    assert!(is_due(Some(newly_overdue), Some(&before), NOW));
    assert!(!is_due(Some(NOW - MIN_AGE_MS + 1), Some(&before), NOW));
}

#[test]
fn an_unchanged_day_is_due_once_a_day() {
    let at = Some(NOW - 5 * DAY_MS);
    let changing = verified(equal(1), NOW - UNCHANGED_MS + 1, NOW - HOUR_MS);
    assert!(is_due(at, Some(&changing), NOW));
    let unchanged = verified(equal(1), NOW - UNCHANGED_MS, NOW - HOUR_MS);
    assert!(!is_due(at, Some(&unchanged), NOW));
    assert!(
        !is_due(None, Some(&changing), NOW),
        "all events are missing"
    );
    let yesterday = verified(equal(1), NOW - UNCHANGED_MS, NOW - DAY_MS);
    assert!(is_due(at, Some(&yesterday), NOW));
    assert!(is_due(None, Some(&yesterday), NOW));
}

#[test]
fn finer_totals_are_needed_for_new_differences_and_newly_overdue_events() {
    let pending = [event(5, Certainty::Pending)];
    let behind = DayResult::of(&pending, &[], Some(0));
    assert!(
        !needs_finer_totals(&pending, &behind, None),
        "it may be late"
    );
    let over = DayResult::of(&pending, &[], Some(6));
    assert!(needs_finer_totals(&pending, &over, None));
    let same = verified(over, NOW - HOUR_MS, NOW - HOUR_MS);
    assert!(
        !needs_finer_totals(&pending, &over, Some(&same)),
        "nothing is new"
    );
    let inexact = DayResult::of(&pending, &[], None);
    assert!(needs_finer_totals(&pending, &inexact, None));
    let overdue = [event(5, Certainty::Overdue)];
    let lacking = DayResult::of(&overdue, &[], Some(0));
    let earlier = verified(lacking, NOW - 2 * DAY_MS, NOW - 2 * DAY_MS);
    assert!(needs_finer_totals(&overdue, &lacking, Some(&earlier)));
    let later = verified(lacking, NOW - 2 * DAY_MS, NOW - HOUR_MS);
    assert!(!needs_finer_totals(&overdue, &lacking, Some(&later)));
}

/// Events, and whether each is at Stripe. Confirmed events always are.
fn sent_events() -> impl Strategy<Value = Vec<(SentEvent, bool)>> {
    const CERTAINTIES: [Certainty; 5] = [
        Certainty::Confirmed,
        Certainty::Overdue,
        Certainty::Pending,
        Certainty::Missing,
        Certainty::Unknown,
    ];
    let one = (1_i64..6, any::<bool>(), 0_usize..5).prop_map(|(quantity, is_there, which)| {
        let certainty = CERTAINTIES[which];
        let is_there = is_there || certainty == Certainty::Confirmed;
        (event(quantity, certainty), is_there)
    });
    proptest::collection::vec(one, 0..7)
}

fn at_stripe(events: &[(SentEvent, bool)]) -> i64 {
    events
        .iter()
        .filter(|(_, is_there)| *is_there)
        .map(|(event, _)| event.quantity)
        .sum()
}

proptest! {
    #[test]
    fn a_proof_holds_in_every_case(events in sent_events()) {
        let total = at_stripe(&events);
        let (events, is_there): (Vec<SentEvent>, Vec<bool>) = events.into_iter().unzip();
        for (proven, is_there) in included(&events, total).into_iter().zip(&is_there) {
            if let Some(proven) = proven {
                prop_assert_eq!(proven, *is_there);
            }
        }
        prop_assert_ne!(compare(&events, total), Finding::Over);
    }

    #[test]
    fn accepted_events_that_are_all_included_are_equal(events in sent_events()) {
        let accepted: Vec<SentEvent> = events.into_iter().map(|(event, _)| event).filter(|event| event.certainty.is_accepted()).collect();
        let total = i64::try_from(accepted_total(&accepted)).unwrap();
        prop_assert_eq!(compare(&accepted, total), Finding::Equal);
        let decided = transitions_at_once(&accepted, Some(total)).unwrap();
        for (event, transition) in accepted.iter().zip(&decided) {
            let is_confirmed_now = *transition == Some(Transition::Confirm);
            prop_assert_eq!(is_confirmed_now, event.certainty != Certainty::Confirmed);
        }
    }

    #[test]
    fn a_total_that_decides_all_events_agrees_with_the_proof(events in sent_events()) {
        let total = at_stripe(&events);
        let events: Vec<SentEvent> = events.into_iter().map(|(event, _)| event).collect();
        if let Some(decided) = transitions_at_once(&events, Some(total)) {
            let found: Vec<_> = transitions(&events, total);
            for (at_once, alone) in decided.iter().zip(&found) {
                prop_assert!(at_once.is_none() || at_once == alone);
            }
        }
    }

    #[test]
    fn a_day_with_an_old_event_is_due_within_a_day(
        reported_age in MIN_AGE_MS..10 * DAY_MS,
        verified_age in 0..3 * DAY_MS,
        unchanged_for in 0..10 * DAY_MS,
    ) {
        let changed_age = verified_age.saturating_add(unchanged_for);
        let before = verified(equal(1), NOW - changed_age, NOW - verified_age);
        let oldest = Some(NOW - reported_age);
        let is_due_now = is_due(oldest, Some(&before), NOW);
        prop_assert!(is_due_now || verified_age < DAY_MS);
        let tomorrow = NOW - verified_age + DAY_MS;
        prop_assert!(tomorrow < NOW || is_due(oldest, Some(&before), tomorrow));
    }
}
