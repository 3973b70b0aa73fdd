//! Times in command-line arguments.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, TimeZone as _, Utc};
use chrono_tz::Tz;

/// A time argument, before its time zone is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeArg {
    At(DateTime<Utc>),
    Local(NaiveDateTime),
}

/// Reads `2026-03-01T12:00:00Z`, `2026-03-01T12:00` or `2026-03-01`.
pub(super) fn parse(text: &str) -> Result<TimeArg, String> {
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
            "expected 2026-03-01T12:00:00Z, or 2026-03-01T12:00 or 2026-03-01 in the time zone"
                .to_owned()
        })
}

/// Reads a time with an offset, such as `2026-03-01T12:00:00Z`.
pub(super) fn parse_utc(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(Into::into)
        .map_err(|error| format!("expected a time such as 2026-03-01T12:00:00Z ({error})"))
}

impl TimeArg {
    /// The time in this time zone.
    pub(super) fn in_zone(self, zone: Tz) -> Result<DateTime<Utc>, String> {
        match self {
            Self::At(at) => Ok(at),
            Self::Local(local) => zone
                .from_local_datetime(&local)
                .earliest()
                .map(|at| at.with_timezone(&Utc))
                .ok_or_else(|| format!("{local} does not exist in {zone}")),
        }
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
    fn invalid_time_is_explained() {
        assert!(read("yesterday", Tz::UTC).starts_with("expected 2026"));
        assert_eq!(
            read("2026-03-29T02:30", Tz::Europe__Vienna),
            "2026-03-29 02:30:00 does not exist in Europe/Vienna"
        );
    }
}
