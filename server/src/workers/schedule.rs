//! The report schedule. The next run is computed from the last one, so a run that was missed while the service was down
//! is made up for. It follows the time zone's clock, so a daily run keeps its hour when clocks change.

use chrono::DateTime;
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds},
};

use crate::domain::{DAY_MS, HOUR_MS, Millis, violation::quoted};

/// A cron expression and its time zone.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    cron: Cron,
    zone: Tz,
}

impl Schedule {
    /// Parses an expression of 5 or 6 fields and an IANA time zone.
    ///
    /// # Errors
    /// One sentence that says what is invalid, also if the expression never fires.
    pub(crate) fn parse(expression: &str, zone: &str) -> Result<Self, String> {
        let zone: Tz = zone.parse().map_err(|_| {
            format!(
                "the report time zone {} is not an IANA time zone",
                quoted(zone)
            )
        })?;
        let cron = CronParser::builder()
            .seconds(Seconds::Optional)
            .build()
            .parse(expression)
            .map_err(|error| {
                format!(
                    "the report schedule {} is not a cron expression: {error}",
                    quoted(expression)
                )
            })?;
        let schedule = Self { cron, zone };
        schedule
            .next_after(0)
            .ok_or_else(|| format!("the report schedule {} never fires", quoted(expression)))?;
        Ok(schedule)
    }

    /// The first scheduled time after a time.
    pub(crate) fn next_after(&self, moment: Millis) -> Option<Millis> {
        let local = DateTime::from_timestamp_millis(moment)?.with_timezone(&self.zone);
        let next = self.cron.find_next_occurrence(&local, false).ok()?;
        Some(next.timestamp_millis())
    }

    /// The longest time between two runs in the month after a time, of the first thousands.
    pub(crate) fn longest_gap(&self, from: Millis) -> Millis {
        const MAX_RUNS: u32 = 3_000;
        const MONTH_MS: Millis = 31 * DAY_MS;
        let until = from.saturating_add(MONTH_MS);
        let (mut last, mut longest) = (from, 0);
        for _ in 0..MAX_RUNS {
            let next = self.next_after(last).map_or(until, |next| next.min(until));
            longest = Ord::max(longest, next.saturating_sub(last));
            if next >= until {
                break;
            }
            last = next;
        }
        longest
    }

    /// The longest time between two runs in the month before a moment and the month after it, at most a month. It is exact
    /// from an hour on. An alert on a missing run compares with it.
    pub(crate) fn longest_gap_around(&self, now: Millis) -> Millis {
        /// A step moves on by an hour or more, so the limit is never reached.
        const MAX_STEPS: u32 = 2 * 31 * 24 + 1;
        const MONTH_MS: Millis = 31 * DAY_MS;
        let until = now.saturating_add(MONTH_MS);
        let (mut at, mut longest) = (now.saturating_sub(MONTH_MS), 0);
        for _ in 0..MAX_STEPS {
            let next = self.next_after(at);
            let Some((before, next)) = next.and_then(|next| Some((self.last_before(next)?, next)))
            else {
                return MONTH_MS;
            };
            longest = Ord::max(longest, next.saturating_sub(before));
            // Every gap of more than an hour is stepped into.
            at = Ord::max(next, at.saturating_add(HOUR_MS));
            if at >= until {
                break;
            }
        }
        longest.min(MONTH_MS)
    }

    /// The last scheduled time before a time.
    fn last_before(&self, moment: Millis) -> Option<Millis> {
        let local = DateTime::from_timestamp_millis(moment)?.with_timezone(&self.zone);
        let last = self.cron.find_previous_occurrence(&local, false).ok()?;
        Some(last.timestamp_millis())
    }

    /// Whether a run is due if the last one was at `last`. Several missed runs are made up for by one.
    pub(crate) fn is_due(&self, last: Millis, now: Millis) -> bool {
        self.next_after(last).is_some_and(|next| next <= now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::MINUTE_MS;

    fn at(text: &str) -> Millis {
        DateTime::parse_from_rfc3339(text)
            .unwrap()
            .timestamp_millis()
    }

    #[test]
    fn a_daily_schedule_keeps_its_local_hour_across_a_clock_change() {
        let schedule = Schedule::parse("30 6 * * *", "Europe/Vienna").unwrap();
        let mut moment = at("2026-03-28T00:00:00Z");
        let mut runs = Vec::new();
        for _ in 0..3 {
            moment = schedule.next_after(moment).unwrap();
            runs.push(moment);
        }
        let expected = [
            "2026-03-28T05:30:00Z",
            "2026-03-29T04:30:00Z",
            "2026-03-30T04:30:00Z",
        ];
        assert_eq!(runs, expected.map(at));
    }

    #[test]
    fn a_missed_run_is_due_and_several_make_one() {
        let schedule = Schedule::parse("0 0 * * *", "UTC").unwrap();
        let last = at("2026-01-01T00:00:00Z");
        assert!(!schedule.is_due(last, at("2026-01-01T23:59:59Z")));
        assert!(schedule.is_due(last, at("2026-01-02T00:00:00Z")));
        let late = at("2026-01-05T12:00:00Z");
        assert!(schedule.is_due(last, late));
        assert!(!schedule.is_due(late, late + 1));
    }

    #[test]
    fn the_longest_gap_is_that_of_a_weekend_or_of_the_month() {
        let friday = at("2026-01-02T12:00:00Z");
        for (expression, hours) in [
            ("0 0 * * *", 24),
            ("0 * * * *", 1),
            ("0 0 * * 1-5", 72),
            ("*/15 * * * *", 1),
            ("0 0 29 2 *", 31 * 24),
        ] {
            let gap = Schedule::parse(expression, "UTC").unwrap();
            let gap = gap.longest_gap(friday).div_euclid(HOUR_MS / 4);
            let expected = if expression.starts_with("*/15") {
                1
            } else {
                hours * 4
            };
            assert_eq!(gap, expected, "{expression}");
        }
    }

    #[test]
    fn the_longest_gap_around_a_moment_contains_the_one_it_is_in() {
        for (expression, minutes) in [
            ("0 0 * * *", 24 * 60),
            ("0 * * * *", 60),
            ("*/15 * * * *", 15),
            // From Friday at 17:59:50 until Monday at 9.
            ("*/10 * 9-17 * * 1-5", 63 * 60),
            // A whole month, whenever it is asked.
            ("0 0 1 * *", 31 * 24 * 60),
            ("0 0 29 2 *", 31 * 24 * 60),
        ] {
            let schedule = Schedule::parse(expression, "UTC").unwrap();
            for now in [
                "2026-01-02T12:00:00Z",
                "2026-03-05T00:00:00Z",
                "2026-03-30T23:59:00Z",
            ] {
                let gap = schedule.longest_gap_around(at(now));
                assert_eq!(gap.div_euclid(MINUTE_MS), minutes, "{expression} {now}");
            }
        }
        let daily = Schedule::parse("0 0 * * *", "Europe/Vienna").unwrap();
        let gap = daily.longest_gap_around(at("2026-10-20T12:00:00Z"));
        assert_eq!(gap, 25 * HOUR_MS, "a day on which clocks are set back");
    }

    /// The schedule of tests without scheduled runs.
    #[test]
    fn five_thursdays_in_a_february_are_a_generation_away() {
        let schedule = Schedule::parse("0 0 * 2 4#5", "UTC").unwrap();
        let next = schedule.next_after(at("2024-03-01T00:00:00Z"));
        assert_eq!(next, Some(at("2052-02-29T00:00:00Z")));
    }

    #[test]
    fn an_invalid_schedule_is_refused() {
        for wrong in ["", "61 * * * *", "* * *", "every day", "0 0 31 2 *"] {
            assert!(Schedule::parse(wrong, "UTC").is_err(), "{wrong}");
        }
        assert!(
            Schedule::parse("0 0 * * *", "Mars/Olympus")
                .unwrap_err()
                .contains("Mars")
        );
        assert!(
            Schedule::parse("*/15 * * * * *", "UTC").is_ok(),
            "seconds are a sixth field"
        );
    }

    #[test]
    fn a_long_or_hostile_expression_is_refused_or_fires() {
        let long = ["*".repeat(10_000), "1,".repeat(5_000), "0 ".repeat(5_000)];
        let hostile = [
            "",
            " ",
            "\0",
            "* * * * *\0",
            "60 * * * *",
            "-1 * * * *",
            "*/0 * * * *",
            "*/99999999999 * * * *",
            "99999999999999999999 * * * *",
            "5-1 * * * *",
            "1-1-1 * * * *",
            "0 0 31 2 *",
            "0 0 30 2 *",
            "0 0 29 2 *",
            "0 0 L * *",
            "0 0 LW * *",
            "0 0 99W * *",
            "0 0 * * 5#9",
            "0 0 * * #",
            "0 0 * * 8",
            "0 0 * * MON-SUN#2",
            "@yearly",
            "@every 1s",
            "? ? ? ? ?",
            "* * * * * * *",
            "\u{202e}* * * * *",
            "\u{ff11} * * * *",
        ];
        for expression in hostile.into_iter().chain(long.iter().map(String::as_str)) {
            if let Some(schedule) = check_schedule(expression, "Europe/Vienna") {
                let now = at("2027-03-20T08:30:10Z");
                assert!(schedule.longest_gap(now) >= 0);
                assert!(schedule.longest_gap_around(now) >= 0);
            }
        }
        for zone in ["", "\0", "utc", "../UTC", "Europe/Vienna\0", "+01:00"] {
            check_schedule("0 0 * * *", zone);
        }
    }

    /// An expression is refused in words, or it fires, each time later than before.
    fn check_schedule(expression: &str, zone: &str) -> Option<Schedule> {
        let schedule = match Schedule::parse(expression, zone) {
            Ok(schedule) => schedule,
            Err(why) => {
                assert!(why.starts_with("the report "), "{why}");
                assert!(why.len() < 2_000, "{} bytes", why.len());
                return None;
            }
        };
        let now = at("2027-03-20T08:30:10Z");
        let first = schedule.next_after(now);
        let second = first.and_then(|first| schedule.next_after(first));
        assert!(first.is_none_or(|first| first > now), "{expression}");
        assert!(
            second.is_none_or(|second| Some(second) > first),
            "{expression}"
        );
        for moment in [Millis::MIN, Millis::MAX, 0, -1] {
            let _ = schedule.is_due(moment, now);
        }
        Some(schedule)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_expression_is_refused_or_fires(
            expression in prop_oneof![".{0,40}", "[-*/0-9,#?LW ]{0,30}", "([0-9*/,-]{1,5} ){4,5}[0-9*#L]{1,3}"],
        ) {
            check_schedule(&expression, "Europe/Vienna");
        }

        #[test]
        fn any_zone_is_refused_or_fires(
            zone in prop_oneof![".{0,40}", "[A-Z][a-z]{2,8}/[A-Z][a-z]{2,12}", "(UTC|GMT|Etc/GMT)[-+][0-9]{1,4}"],
            known in any::<prop::sample::Index>(),
            place in 0..40_usize,
            character in any::<char>(),
        ) {
            check_schedule("0 0 * * *", &zone);
            let mut changed = known.get(&chrono_tz::TZ_VARIANTS).name().to_owned();
            if changed.is_char_boundary(place) {
                changed.insert(place, character);
            }
            check_schedule("0 0 * * *", &changed);
        }
    }

    /// Also at the hours that clocks skip or repeat.
    #[test]
    fn every_known_zone_fires_at_least_once_a_day() {
        for zone in chrono_tz::TZ_VARIANTS {
            let schedule = check_schedule("30 0-3 * * *", zone.name());
            let schedule = schedule.unwrap_or_else(|| panic!("{zone} is refused"));
            let mut moment = at("2027-01-01T00:00:00Z");
            for _ in 0..4 {
                let next = schedule.next_after(moment).unwrap();
                // A day of a zone that moves over the date line may be missing.
                assert!(next > moment && next <= moment + 2 * DAY_MS, "{zone}");
                moment = next;
            }
        }
    }
}
