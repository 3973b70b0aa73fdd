//! The time of a report's meter event: when it is, or where it may be before it is chosen. Stripe bills an event by it.
//! Pure. The database's copy of [`BilledUsage::event_at`] is in `store/report_rules.rs`.

use super::{
    HOUR_MS, MINUTE_MS, Millis, SECOND_MS, billed_usage::BilledUsage, report::Report, start_of,
    window::Interval,
};
use crate::planted_defects::{Defect, planted};

impl BilledUsage {
    /// The time of its meter event. Until its timestamp is chosen, that is about when it will be.
    pub fn event_at(&self) -> Millis {
        self.event_timestamp
            .or(self.bill_at)
            .unwrap_or_else(|| Ord::max(self.first_at, self.window_start))
    }
}

impl Report {
    /// The time of its meter event: see [`BilledUsage::event_at`].
    pub fn event_at(&self) -> Millis {
        BilledUsage::of(self).event_at()
    }

    /// The start of the hour in which its meter event is, or would be.
    pub fn event_hour(&self) -> Millis {
        start_of(HOUR_MS, self.event_at())
    }

    /// Where the event may be when it is sent: in the part of the window that contains the report's first increment, so
    /// that a boundary which became known late does not move it into another period. `around` returns the window around
    /// a time, by all boundaries. Stripe charges only from `not_before` on, which may be later than the window's start.
    pub fn window_to_send(
        &self,
        not_before: Option<Millis>,
        around: impl Fn(Millis) -> Interval,
    ) -> Interval {
        let mut window = match self.bill_at {
            Some(at) => Interval {
                start: Ord::max(around(at).start, start_of(SECOND_MS, at)),
                end: around(at).end,
            },
            None => around(self.first_at).intersection(Interval {
                start: self.window_start,
                end: self.window_end,
            }),
        };
        if let Some(from) = not_before.filter(|from| *from > window.start) {
            window.start = from;
            window.end = Ord::max(window.end, from.saturating_add(SECOND_MS));
        }
        window
    }

    /// Where the event is if Stripe's total of its hour contains it, and the database does not have its timestamp.
    pub fn window_if_found(&self) -> Interval {
        let start = self.bill_at.unwrap_or(self.window_start);
        Interval {
            start,
            end: Ord::min(
                self.event_hour().saturating_add(HOUR_MS),
                Ord::max(self.window_end, start.saturating_add(1)),
            ),
        }
    }
}

/// Chooses the timestamp of a report's meter event, in whole seconds given as milliseconds.
///
/// It is the first whole minute in the window that is not `taken` and not after `latest`: the total of a minute with
/// one event shows whether that event arrived. If there is none, it is the window's first whole second, so that the
/// event is never before a boundary. If the window contains no whole second, it is the second that contains the window.
pub fn choose_timestamp(window: Interval, latest: Millis, taken: &[Millis]) -> Millis {
    let first = start_of(
        MINUTE_MS,
        window.start.saturating_add(MINUTE_MS.saturating_sub(1)),
    );
    if planted(Defect::EventBeforeWindow) {
        return start_of(MINUTE_MS, window.start);
    }
    let minutes = std::iter::successors(Some(first), |minute| minute.checked_add(MINUTE_MS));
    minutes
        .take_while(|minute| *minute < window.end && *minute <= latest)
        .find(|minute| !taken.contains(minute))
        .unwrap_or_else(|| {
            let second = start_of(
                SECOND_MS,
                window.start.saturating_add(SECOND_MS.saturating_sub(1)),
            );
            if second < window.end {
                second
            } else {
                start_of(SECOND_MS, window.start)
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOON: Millis = 1_800_014_400_000;

    #[test]
    fn a_timestamp_takes_the_first_free_minute_and_falls_back_to_the_start() {
        let window = Interval {
            start: NOON + 500,
            end: NOON + 3 * MINUTE_MS,
        };
        let (one, two) = (NOON + MINUTE_MS, NOON + 2 * MINUTE_MS);
        let far = NOON + 100 * MINUTE_MS;
        assert_eq!(choose_timestamp(window, far, &[]), one);
        assert_eq!(choose_timestamp(window, far, &[one]), two);
        assert_eq!(
            choose_timestamp(window, far, &[one, two]),
            NOON + SECOND_MS,
            "not before the window"
        );
        assert_eq!(
            choose_timestamp(window, one, &[one]),
            NOON + SECOND_MS,
            "nothing after `latest`"
        );
    }

    proptest! {
        #[test]
        fn a_timestamp_stays_in_its_window_or_its_first_second(
            start in 0_i64..10_000_000_000, width in 1_i64..3_600_000, ahead in 0_i64..600_000,
        ) {
            let window = Interval { start, end: start + width };
            let stamp = choose_timestamp(window, start + ahead, &[]);
            prop_assert_eq!(stamp % SECOND_MS, 0);
            prop_assert!(stamp >= start - start % SECOND_MS && stamp < window.end);
        }
    }
}
