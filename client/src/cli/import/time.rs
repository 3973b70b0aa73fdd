//! Reads the time of a line. A text that could mean another moment is an error, never a guess.

use chrono::{
    DateTime, FixedOffset, MappedLocalTime, NaiveDateTime, Offset as _, TimeDelta, TimeZone as _,
    Utc,
};
use chrono_tz::Tz;

/// The forms that are understood, for errors.
const FORMS: &str = "understood are 2026-03-01T12:00:00Z, an offset such as +01:00 or +0100 instead of Z, \
    epoch seconds (10 digits) or milliseconds (13 digits), and with --time-zone a time without an offset";

/// The length of `2026-03-01T12:00:00`.
const SECONDS_CHARS: usize = 19;
const MAX_FRACTION_DIGITS: usize = 9;

/// Reads a time; `zone` is that of a time without an offset. The error continues the sentence "timestamp '...' ".
pub(super) fn parse(text: &str, zone: Option<Tz>) -> Result<DateTime<Utc>, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return epoch(text);
    }
    let not_understood = || format!("is not understood; {FORMS}");
    let (local, suffix) = local_part(text).ok_or_else(not_understood)?;
    // Some databases write a space before the offset.
    let suffix = suffix.strip_prefix(' ').unwrap_or(suffix);
    let offset = match suffix {
        "" => {
            let zone = zone.ok_or("has no offset; set --time-zone, such as --time-zone UTC")?;
            return in_zone(local, zone);
        }
        "Z" | "z" | "UTC" => Utc.fix(),
        other => offset(other).ok_or_else(not_understood)?,
    };
    let utc = local.checked_sub_offset(offset);
    utc.map(|utc| utc.and_utc()).ok_or_else(not_understood)
}

/// Ten digits are seconds and thirteen are milliseconds of the years 2001 to 2286, so one is never taken for the other.
fn epoch(digits: &str) -> Result<DateTime<Utc>, String> {
    let number = digits.parse().ok();
    let at = match digits.len() {
        10 => number.and_then(|seconds| DateTime::from_timestamp(seconds, 0)),
        13 => number.and_then(DateTime::from_timestamp_millis),
        _ => None,
    };
    at.ok_or_else(|| {
        let count = digits.len();
        format!("has {count} digits, so it is neither epoch seconds nor milliseconds; {FORMS}")
    })
}

/// Splits the date and the time of day from what follows them.
fn local_part(text: &str) -> Option<(NaiveDateTime, &str)> {
    let (whole, rest) = text.split_at_checked(SECONDS_CHARS)?;
    // chrono also accepts other lengths and signs.
    let has_form = whole.bytes().enumerate().all(|(place, byte)| match place {
        4 | 7 => byte == b'-',
        10 => b"Tt ".contains(&byte),
        13 | 16 => byte == b':',
        _ => byte.is_ascii_digit(),
    });
    // A leap second has no number in epoch time: it would become the second after it.
    if !has_form || whole.ends_with("60") {
        return None;
    }
    let whole = format!("{}T{}", whole.get(..10)?, whole.get(11..)?);
    let local = NaiveDateTime::parse_from_str(&whole, "%Y-%m-%dT%H:%M:%S").ok()?;
    let Some(fraction) = rest.strip_prefix(['.', ',']) else {
        return Some((local, rest));
    };
    let count = fraction.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = fraction.split_at_checked(count)?;
    if !(1..=MAX_FRACTION_DIGITS).contains(&count) {
        return None;
    }
    let nanos: i64 = format!("{digits:0<MAX_FRACTION_DIGITS$}").parse().ok()?;
    let local = local.checked_add_signed(TimeDelta::nanoseconds(nanos))?;
    Some((local, rest))
}

/// Reads `+01:00`, `+0100` or `+01`.
fn offset(text: &str) -> Option<FixedOffset> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = match digits.len() {
        2 => (digits, "00"),
        4 => digits.split_at_checked(2)?,
        5 => digits.split_once(':')?,
        _ => return None,
    };
    let number = |text: &str, end: i32| {
        let is_plain = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number: i32 = is_plain.then(|| text.parse().ok())??;
        (number < end).then_some(number)
    };
    let minutes = number(hours, 24)?
        .checked_mul(60)?
        .checked_add(number(minutes, 60)?)?;
    FixedOffset::east_opt(minutes.checked_mul(60)?.checked_mul(sign)?)
}

fn in_zone(local: NaiveDateTime, zone: Tz) -> Result<DateTime<Utc>, String> {
    match zone.from_local_datetime(&local) {
        MappedLocalTime::Single(at) => Ok(at.with_timezone(&Utc)),
        MappedLocalTime::Ambiguous(..) => Err(format!(
            "is there twice in {zone}, where clocks go back; write it with an offset"
        )),
        MappedLocalTime::None => Err(format!(
            "does not exist in {zone}, where clocks go forward; write it with an offset"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, zone: Option<Tz>) -> String {
        match parse(text, zone) {
            Ok(at) => at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true),
            Err(why) => why,
        }
    }

    #[test]
    fn all_forms_of_a_moment_are_the_same_moment() {
        for text in [
            "2026-03-01T12:00:00Z",
            "2026-03-01t12:00:00z",
            "2026-03-01 12:00:00Z",
            "2026-03-01 12:00:00 UTC",
            "2026-03-01T13:00:00+01:00",
            "2026-03-01T13:00:00+0100",
            "2026-03-01 13:00:00+01",
            "2026-03-01 04:00:00.000 -0800",
            "2026-03-01T12:00:00.0-00:00",
            "1772366400",
            "1772366400000",
        ] {
            assert_eq!(read(text, None), "2026-03-01T12:00:00Z", "{text}");
        }
        assert_eq!(
            read("2026-03-01 12:00:00.120456 UTC", None),
            "2026-03-01T12:00:00.120456Z"
        );
        assert_eq!(read("1772366400123", None), "2026-03-01T12:00:00.123Z");
    }

    #[test]
    fn time_without_offset_needs_a_zone_and_one_moment() {
        let vienna = Some(Tz::Europe__Vienna);
        assert_eq!(
            read("2026-03-01T12:00:00", None),
            "has no offset; set --time-zone, such as --time-zone UTC"
        );
        assert_eq!(read("2026-03-01 12:00:00", vienna), "2026-03-01T11:00:00Z");
        assert_eq!(read("2026-03-01 12:00:00Z", vienna), "2026-03-01T12:00:00Z");
        for (text, why) in [
            ("2026-10-25 02:30:00", "is there twice in Europe/Vienna"),
            ("2026-03-29 02:30:00", "does not exist in Europe/Vienna"),
        ] {
            assert!(read(text, vienna).starts_with(why), "{text}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "2026-03-01",
            "2026-03-01T12:00Z",
            "20260301T120000Z",
            "01/03/2026 12:00:00",
            "2026-3-1T12:00:00Z",
            "+2026-03-01T12:00:00Z",
            "2026-02-30T12:00:00Z",
            "2026-06-30T23:59:60Z",
            "2026-03-01T24:00:00Z",
            "2026-03-01T12:00:00.Z",
            "2026-03-01T12:00:00.1234567890Z",
            "2026-03-01T12:00:00+1",
            "2026-03-01T12:00:00+100",
            "2026-03-01T12:00:00+24:00",
            "2026-03-01T12:00:00+01:60",
            "2026-03-01T12:00:00+ 1:0",
            "2026-03-01T12:00:00 CET",
            "2026-03-01T12:00:00  Z",
            "1772366400.5",
            "-1772366400",
            "1.7723664e9",
            "2026-03-01T12:00:0ü0Z",
            "today",
        ] {
            let why = read(text, Some(Tz::UTC));
            assert!(why.starts_with("is not understood"), "{text}: {why}");
        }
        for text in ["20260301", "1772366400000000", "0", "17723664000"] {
            let why = read(text, Some(Tz::UTC));
            assert!(why.contains("neither epoch seconds nor"), "{text}: {why}");
        }
    }
}
