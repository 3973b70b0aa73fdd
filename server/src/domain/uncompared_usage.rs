//! Usage in Stripe's totals that lies in no billing period: it was sent before the end of its subscription was found, or
//! its period was cut. No comparison with invoices reaches it, so it is told by itself.

use std::collections::BTreeMap;

use chrono_tz::Tz;

use super::{
    HOUR_MS, Millis, account_id::AccountId, invoice_comparison::OLDEST_MS, period::month_around,
    report::State, report_figure::ReportFigure, window::Interval,
};

/// How old usage is before it is told: until then the sync may find its period.
pub const UNCOMPARED_AFTER_MS: Millis = 2 * HOUR_MS;

/// Usage of an account in a part of a month that no billing period contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UncomparedUsage {
    /// The account.
    pub account_id: AccountId,
    /// The part of the month, as far as it is looked at.
    pub time: Interval,
    /// The units that Stripe's totals contain.
    pub quantity: i64,
}

/// Usage as an earlier look has recorded it: an open difference, or one that an admin has acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedUsage {
    /// The usage.
    pub usage: UncomparedUsage,
    /// Whether it was acknowledged.
    pub is_acknowledged: bool,
}

/// How found usage relates to what was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// It is the recorded usage with this index, or a part of it: an acknowledgement applies to it.
    Same(usize),
    /// It is told already, with another quantity.
    Changed,
    /// It was not told, or it is more than was acknowledged.
    New,
}

/// The time of a stream that is looked at: whole months, from that of its first event on. `None` if it is too young.
pub fn looked_at(first_event: Millis, now: Millis) -> Option<Interval> {
    let since = first_event.max(now.saturating_sub(OLDEST_MS));
    let start = month_around(since, Tz::UTC).map_or(since, |month| month.start);
    let end = now.saturating_sub(UNCOMPARED_AFTER_MS);
    (start < end).then_some(Interval { start, end })
}

/// The parts of some time that no period contains, divided at the beginnings of months, so that their starts stay the
/// same while time goes on.
pub fn gaps(periods: &[Interval], time: Interval) -> Vec<Interval> {
    let mut sorted: Vec<&Interval> = periods.iter().collect();
    sorted.sort_unstable_by_key(|period| period.start);
    let mut found = Vec::new();
    let mut from = time.start;
    let end = Interval {
        start: time.end,
        end: time.end,
    };
    for period in sorted.into_iter().chain([&end]) {
        let until = period.start.min(time.end);
        while from < until {
            let month = month_around(from, Tz::UTC).map_or(until, |month| month.end);
            let part_end = month.min(until);
            found.push(Interval {
                start: from,
                end: part_end,
            });
            from = part_end;
        }
        from = from.max(period.end);
    }
    found
}

/// The confirmed usage of each account in a gap.
pub fn uncompared(figures: &[ReportFigure], gap: Interval) -> Vec<UncomparedUsage> {
    let mut sums: BTreeMap<&AccountId, i64> = BTreeMap::new();
    for figure in figures {
        // What is invoiced was compared in a period that was cut later.
        if figure.state == State::Confirmed && gap.contains(figure.usage.billed_at_stripe()) {
            let sum = sums.entry(&figure.account_id).or_default();
            *sum = sum.saturating_add(figure.usage.quantity);
        }
    }
    sums.into_iter()
        .map(|(account_id, quantity)| UncomparedUsage {
            account_id: account_id.clone(),
            time: gap,
            quantity,
        })
        .collect()
}

/// How each found usage relates to what was recorded. The edges of its time move when a period is found or cut; it still
/// overlaps the time in which the same usage was recorded. Each acknowledged unit counts once.
pub fn continuations(found: &[UncomparedUsage], recorded: &[RecordedUsage]) -> Vec<Continuation> {
    let mut left: Vec<i64> = recorded.iter().map(|one| one.usage.quantity).collect();
    found
        .iter()
        .map(|usage| {
            let overlapping: Vec<usize> = recorded
                .iter()
                .enumerate()
                .filter(|(_, before)| overlaps(usage, &before.usage))
                .map(|(index, _)| index)
                .collect();
            let is_acknowledged =
                |index: &usize| recorded.get(*index).is_some_and(|one| one.is_acknowledged);
            let (known, open): (Vec<usize>, Vec<usize>) =
                overlapping.into_iter().partition(is_acknowledged);
            let taken = take(usage.quantity, &known, &mut left);
            let same_open = open.iter().find(|index| {
                recorded
                    .get(**index)
                    .is_some_and(|one| one.usage.quantity == usage.quantity)
            });
            match (taken, same_open) {
                (Some(index), _) => Continuation::Same(index),
                (None, Some(index)) => Continuation::Same(*index),
                (None, None) if !open.is_empty() => Continuation::Changed,
                (None, None) => Continuation::New,
            }
        })
        .collect()
}

fn overlaps(one: &UncomparedUsage, other: &UncomparedUsage) -> bool {
    let both = one.time.intersection(other.time);
    one.account_id == other.account_id && both.start < both.end
}

/// Takes a quantity from what is left of acknowledged ones, if they suffice. Returns the last one that it is taken from.
fn take(quantity: i64, known: &[usize], left: &mut [i64]) -> Option<usize> {
    let sum = known
        .iter()
        .filter_map(|index| left.get(*index))
        .fold(0_i64, |sum, own| sum.saturating_add(*own));
    let is_within = (0..=sum).contains(&quantity) || (sum..=0).contains(&quantity);
    if !is_within {
        return None;
    }
    let mut rest = quantity;
    for index in known {
        if let Some(own) = left.get_mut(*index) {
            let part = rest.clamp((*own).min(0), (*own).max(0));
            *own = own.saturating_sub(part);
            rest = rest.saturating_sub(part);
        }
    }
    known.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DAY_MS, billed_usage::BilledUsage};
    use proptest::prelude::*;
    use uuid::Uuid;

    /// 1 January 2027.
    const JANUARY: Millis = 1_798_761_600_000;
    const FEBRUARY: Millis = JANUARY + 31 * DAY_MS;

    fn interval(start: Millis, end: Millis) -> Interval {
        Interval { start, end }
    }

    #[test]
    fn time_without_a_period_is_found_by_months() {
        let time = interval(JANUARY, FEBRUARY + 10 * DAY_MS);
        assert_eq!(
            gaps(&[], time),
            [interval(JANUARY, FEBRUARY), interval(FEBRUARY, time.end)]
        );
        let periods = [
            interval(FEBRUARY + 2 * DAY_MS, FEBRUARY + 40 * DAY_MS),
            interval(JANUARY - DAY_MS, FEBRUARY - DAY_MS),
            interval(JANUARY, JANUARY + DAY_MS),
        ];
        assert_eq!(
            gaps(&periods, time),
            [
                interval(FEBRUARY - DAY_MS, FEBRUARY),
                interval(FEBRUARY, FEBRUARY + 2 * DAY_MS)
            ]
        );
    }

    #[test]
    fn a_stream_is_looked_at_from_the_month_of_its_first_event() {
        let first = JANUARY + 5 * DAY_MS;
        let now = first + DAY_MS;
        assert_eq!(
            looked_at(first, now),
            Some(interval(JANUARY, now - UNCOMPARED_AFTER_MS))
        );
        assert_eq!(looked_at(JANUARY, JANUARY + HOUR_MS), None);
        let much_later = looked_at(first, now + 2 * OLDEST_MS).unwrap();
        assert!(much_later.start > first + OLDEST_MS - 31 * DAY_MS);
    }

    #[test]
    fn only_confirmed_usage_counts_by_account() {
        let figure = |account: &str, state, at: Millis| ReportFigure {
            account_id: AccountId::parse(account).unwrap(),
            id: Uuid::now_v7(),
            meter: "m".to_owned(),
            state,
            customer: Some("cus".to_owned()),
            usage: BilledUsage {
                window_start: at,
                first_at: at,
                last_at: at,
                bill_at: None,
                event_timestamp: Some(at),
                quantity: 2,
            },
            reports: 1,
            is_folded: false,
        };
        let mut figures: Vec<ReportFigure> = State::ALL.map(|state| figure("a", state, 5)).into();
        figures.push(figure("b", State::Confirmed, 6));
        figures.push(figure("b", State::Confirmed, 7));
        figures.push(figure("b", State::Confirmed, 10));
        let found = uncompared(&figures, interval(5, 10));
        let found: Vec<(&str, i64)> = found
            .iter()
            .map(|one| (one.account_id.as_str(), one.quantity))
            .collect();
        assert_eq!(found, [("a", 2), ("b", 4)]);
    }

    fn usage(days: (Millis, Millis), quantity: i64) -> UncomparedUsage {
        UncomparedUsage {
            account_id: AccountId::parse("a").unwrap(),
            time: interval(JANUARY + days.0 * DAY_MS, JANUARY + days.1 * DAY_MS),
            quantity,
        }
    }

    fn recorded(days: (Millis, Millis), quantity: i64, is_acknowledged: bool) -> RecordedUsage {
        RecordedUsage {
            usage: usage(days, quantity),
            is_acknowledged,
        }
    }

    #[test]
    fn an_acknowledgement_holds_while_the_edges_move_and_until_there_is_more() {
        use Continuation::{New, Same};
        let known = [recorded((0, 20), 7, true)];
        let of = |found: &[UncomparedUsage]| continuations(found, &known);
        assert_eq!(of(&[usage((0, 21), 7)]), [Same(0)], "time goes on");
        assert_eq!(of(&[usage((10, 20), 7)]), [Same(0)], "a period was found");
        assert_eq!(of(&[usage((10, 20), 5)]), [Same(0)], "it has some of it");
        assert_eq!(of(&[usage((0, 20), 8)]), [New], "there is more");
        assert_eq!(of(&[usage((20, 25), 1)]), [New], "at another time");
        assert_eq!(of(&[usage((0, 20), -1)]), [New]);
        let halves = [usage((0, 8), 3), usage((9, 20), 4)];
        assert_eq!(of(&halves), [Same(0), Same(0)]);
        let more = [usage((0, 8), 3), usage((9, 20), 5)];
        assert_eq!(of(&more), [Same(0), New], "each unit counts once");
        let other = UncomparedUsage {
            account_id: AccountId::parse("b").unwrap(),
            ..usage((0, 20), 7)
        };
        assert_eq!(of(&[other]), [New]);
    }

    #[test]
    fn what_is_not_acknowledged_stays_told() {
        use Continuation::{Changed, Same};
        let open = [recorded((0, 20), 7, false)];
        let of = |quantity| continuations(&[usage((10, 20), quantity)], &open);
        assert_eq!(
            (of(7), of(8), of(6)),
            ([Same(0)].into(), [Changed].into(), [Changed].into())
        );
        let both = [recorded((0, 8), 3, true), recorded((9, 20), 4, false)];
        let joined = continuations(&[usage((0, 20), 7)], &both);
        assert_eq!(joined, [Changed], "four units of it are not acknowledged");
        let taken_back = [recorded((0, 20), -7, true)];
        let of = |quantity| continuations(&[usage((0, 20), quantity)], &taken_back);
        assert_eq!((of(-7), of(-3)), ([Same(0)].into(), [Same(0)].into()));
        assert_eq!(of(-8), [Continuation::New]);
    }

    proptest! {
        /// Not more units stay acknowledged than were.
        #[test]
        fn no_unit_is_acknowledged_twice(
            found in proptest::collection::vec((0_i64..20, 1_i64..10, 1_i64..9), 0..5),
            known in proptest::collection::vec((0_i64..20, 1_i64..10, 1_i64..9, any::<bool>()), 0..5),
        ) {
            let found: Vec<UncomparedUsage> = found
                .into_iter()
                .map(|(start, length, quantity)| usage((start, start + length), quantity))
                .collect();
            let known: Vec<RecordedUsage> = known
                .into_iter()
                .map(|(start, length, quantity, is_known)| {
                    recorded((start, start + length), quantity, is_known)
                })
                .collect();
            let continued = continuations(&found, &known);
            let covered = found.iter().zip(&continued).filter(|(_, one)| {
                matches!(one, Continuation::Same(index) if known[*index].is_acknowledged)
            });
            let covered: i64 = covered.map(|(usage, _)| usage.quantity).sum();
            let acknowledged = known.iter().filter(|one| one.is_acknowledged);
            let acknowledged: i64 = acknowledged.map(|one| one.usage.quantity).sum();
            prop_assert!(covered <= acknowledged);
        }

        /// Each moment is in a period or in a gap, never in both.
        #[test]
        fn each_moment_is_in_a_period_or_in_one_gap(
            periods in proptest::collection::vec((0_i64..80, 1_i64..40), 0..6),
            at in 0_i64..80,
        ) {
            let day = |days: i64| JANUARY + days * DAY_MS;
            let periods: Vec<Interval> = periods
                .into_iter()
                .map(|(start, length)| interval(day(start), day(start + length)))
                .collect();
            let found = gaps(&periods, interval(JANUARY, day(80)));
            let moment = day(at) + HOUR_MS;
            let in_periods = periods.iter().any(|period| period.contains(moment));
            let in_gaps = found.iter().filter(|gap| gap.contains(moment)).count();
            prop_assert_eq!(in_gaps, usize::from(!in_periods));
        }
    }
}
