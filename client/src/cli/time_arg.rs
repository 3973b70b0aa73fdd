//! Times in command-line arguments.

use super::exit::Failure;
use chrono::{DateTime, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;

/// A time argument, before its time zone is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeArg {
    At(DateTime<Utc>),
    Local(NaiveDateTime),
    /// So long before now.
    Ago(TimeDelta),
    /// The beginning of the day that is so many days before today.
    DayBefore(u64),
}

/// Reads `2026-03-01T12:00:00Z`, `2026-03-01T12:00`, `2026-03-01`, `-7d`, `-24h`, `-30m`, `now`, `today` or `yesterday`.
pub(super) fn parse(text: &str) -> Result<TimeArg, String> {
    match text {
        "now" => return Ok(TimeArg::Ago(TimeDelta::zero())),
        "today" => return Ok(TimeArg::DayBefore(0)),
        "yesterday" => return Ok(TimeArg::DayBefore(1)),
        _ => {}
    }
    if let Some(ago) = text.strip_prefix('-') {
        return duration(ago).map(TimeArg::Ago);
    }
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(TimeArg::At(at.into()));
    }
    for format in ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"] {
        if let Ok(local) = NaiveDateTime::parse_from_str(text, format) {
            return Ok(TimeArg::Local(local));
        }
    }
    NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .map(|day| TimeArg::Local(day.and_time(NaiveTime::MIN)))
        .map_err(|_| {
            "expected 2026-03-01T12:00:00Z, or 2026-03-01T12:00 or 2026-03-01 in the time zone, or -7d, -24h, -30m, \
             now, today or yesterday"
                .to_owned()
        })
}

/// Reads a number of days, hours or minutes, such as 7d, 24h or 30m.
pub(super) fn duration(text: &str) -> Result<TimeDelta, String> {
    let number = |digits: &str| digits.parse::<u32>().ok().filter(|number| *number > 0);
    let found = [('d', 24 * 60), ('h', 60), ('m', 1)];
    let found = found.into_iter().find_map(|(unit, minutes)| {
        let number = i64::from(number(text.strip_suffix(unit)?)?);
        TimeDelta::try_minutes(number.checked_mul(minutes)?)
    });
    found.ok_or_else(|| "expected days, hours or minutes, such as 7d, 24h or 30m".to_owned())
}

#[allow(
    clippy::disallowed_methods,
    reason = "an edge of the program, where the clock may be read"
)]
pub(super) fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Reads a time with an offset, such as `2026-03-01T12:00:00Z`.
pub(super) fn parse_utc(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(Into::into)
        .map_err(|error| format!("expected a time such as 2026-03-01T12:00:00Z ({error})"))
}

/// The times that a list is limited to, as this command understands them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    pub(super) start: Option<DateTime<Utc>>,
    pub(super) end: Option<DateTime<Utc>>,
}

impl Times {
    /// Reads them in UTC.
    pub(super) fn read(start: Option<TimeArg>, end: Option<TimeArg>) -> Result<Self, Failure> {
        let in_utc = |arg: Option<TimeArg>| {
            let time = arg.map(|arg| arg.in_zone(Tz::UTC)).transpose();
            time.map_err(Failure::arguments)
        };
        Ok(Self {
            start: in_utc(start)?,
            end: in_utc(end)?,
        })
    }
}

impl TimeArg {
    /// The time in this time zone.
    pub(super) fn in_zone(self, zone: Tz) -> Result<DateTime<Utc>, String> {
        self.at(now(), zone)
    }

    /// Whether it depends on the time of the command, so that it is rarely where usage can be split.
    pub(super) fn is_relative(self) -> bool {
        matches!(self, Self::Ago(_))
    }

    fn at(self, now: DateTime<Utc>, zone: Tz) -> Result<DateTime<Utc>, String> {
        let too_early = || "it is before all times".to_owned();
        let local = match self {
            Self::At(at) => return Ok(at),
            Self::Ago(ago) => return now.checked_sub_signed(ago).ok_or_else(too_early),
            Self::Local(local) => local,
            Self::DayBefore(days) => {
                let today = now.with_timezone(&zone).date_naive();
                let day = today.checked_sub_days(Days::new(days));
                day.ok_or_else(too_early)?.and_time(NaiveTime::MIN)
            }
        };
        zone.from_local_datetime(&local)
            .earliest()
            .map(|at| at.with_timezone(&Utc))
            .ok_or_else(|| format!("{local} does not exist in {zone}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, zone: Tz) -> String {
        let read = parse(text).and_then(|arg| arg.in_zone(zone));
        read.map_or_else(|error| error, |at| at.to_rfc3339())
    }

    #[test]
    fn day_starts_in_the_time_zone() {
        let vienna = Tz::Europe__Vienna;
        assert_eq!(read("2026-03-01", Tz::UTC), "2026-03-01T00:00:00+00:00");
        assert_eq!(read("2026-03-01", vienna), "2026-02-28T23:00:00+00:00");
        assert_eq!(
            read("2026-07-01T12:30", vienna),
            "2026-07-01T10:30:00+00:00"
        );
        assert_eq!(
            read("2026-03-01T00:00:00+01:00", Tz::UTC),
            "2026-02-28T23:00:00+00:00"
        );
    }

    #[test]
    fn relative_times_are_from_now() {
        let now: DateTime<Utc> = "2026-03-01T23:30:00Z".parse().unwrap();
        for (text, zone, expected) in [
            ("now", Tz::UTC, "2026-03-01T23:30:00+00:00"),
            ("-7d", Tz::UTC, "2026-02-22T23:30:00+00:00"),
            ("-24h", Tz::UTC, "2026-02-28T23:30:00+00:00"),
            ("-30m", Tz::UTC, "2026-03-01T23:00:00+00:00"),
            ("today", Tz::UTC, "2026-03-01T00:00:00+00:00"),
            ("today", Tz::Europe__Vienna, "2026-03-01T23:00:00+00:00"),
            ("yesterday", Tz::UTC, "2026-02-28T00:00:00+00:00"),
        ] {
            let at = parse(text).unwrap().at(now, zone).unwrap();
            assert_eq!(at.to_rfc3339(), expected, "{text}");
        }
    }

    #[test]
    fn invalid_time_is_explained() {
        assert!(read("soon", Tz::UTC).starts_with("expected 2026"));
        for wrong in ["-", "-7", "-d", "-0d", "-1w", "-1.5h", "-99999999999d"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            read("2026-03-29T02:30", Tz::Europe__Vienna),
            "2026-03-29 02:30:00 does not exist in Europe/Vienna"
        );
    }
}
