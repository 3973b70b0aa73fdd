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

    proptest! {
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
