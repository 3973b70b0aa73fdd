//! Conversions between values of the proto messages and plain Rust values.
//!
//! A time that the other side cannot represent is an error, never a panic and never a different time.

use crate::{Error, Period, proto};
use chrono::{DateTime, Utc};

/// 0001-01-01T00:00:00Z, the first second that a protobuf timestamp can hold.
const FIRST_SECOND: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z, the last second that it can hold.
const LAST_SECOND: i64 = 253_402_300_799;
const LAST_NANO: i32 = 999_999_999;

/// A time to send. An error names it as `field`.
pub(crate) fn time_to_wire(
    time: DateTime<Utc>,
    field: &'static str,
) -> Result<prost_types::Timestamp, Error> {
    let seconds = time.timestamp();
    if !(FIRST_SECOND..=LAST_SECOND).contains(&seconds) {
        return Err(Error::invalid(
            field,
            format!("{time:?} is outside the years 1 to 9999"),
        ));
    }
    // chrono represents a leap second by a nanosecond count of a second or more; protobuf has none.
    let nanos = i32::try_from(time.timestamp_subsec_nanos())
        .unwrap_or(LAST_NANO)
        .min(LAST_NANO);
    Ok(prost_types::Timestamp { seconds, nanos })
}

/// A time to send, if there is one.
pub(crate) fn optional_time_to_wire(
    time: Option<DateTime<Utc>>,
    field: &'static str,
) -> Result<Option<prost_types::Timestamp>, Error> {
    time.map(|time| time_to_wire(time, field)).transpose()
}

/// A received time. An error names it as `field`.
pub(crate) fn time_from_wire(
    time: prost_types::Timestamp,
    field: &'static str,
) -> Result<DateTime<Utc>, Error> {
    u32::try_from(time.nanos)
        .ok()
        .and_then(|nanos| DateTime::from_timestamp(time.seconds, nanos))
        .ok_or_else(|| {
            Error::malformed(format!(
                "`{field}` is not a valid time: {} s and {} ns",
                time.seconds, time.nanos
            ))
        })
}

/// A received time that may be absent.
pub(crate) fn optional_time(
    time: Option<prost_types::Timestamp>,
    field: &'static str,
) -> Result<Option<DateTime<Utc>>, Error> {
    time.map(|time| time_from_wire(time, field)).transpose()
}

/// A received time that must be set.
pub(crate) fn required_time(
    time: Option<prost_types::Timestamp>,
    field: &'static str,
) -> Result<DateTime<Utc>, Error> {
    let time = time.ok_or_else(|| Error::malformed(format!("`{field}` is missing")))?;
    time_from_wire(time, field)
}

/// A period to send.
pub(crate) fn period_to_wire(
    period: Period,
    start_field: &'static str,
    end_field: &'static str,
) -> Result<proto::Period, Error> {
    Ok(proto::Period {
        start: Some(time_to_wire(period.start, start_field)?),
        end: Some(time_to_wire(period.end, end_field)?),
    })
}

/// A received period that must be set.
pub(crate) fn required_period(
    period: Option<proto::Period>,
    field: &'static str,
) -> Result<Period, Error> {
    let period = period.ok_or_else(|| Error::malformed(format!("`{field}` is missing")))?;
    Ok(Period {
        start: required_time(period.start, field)?,
        end: required_time(period.end, field)?,
    })
}

/// A page size to send; the server limits it.
pub(crate) fn page_size_to_wire(size: u32) -> i32 {
    i32::try_from(size).unwrap_or(i32::MAX)
}

/// A received text that is empty if absent.
pub(crate) fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn time_is_unchanged_by_a_round_trip(seconds in FIRST_SECOND..=LAST_SECOND, nanos in 0_u32..1_000_000_000) {
            let time = DateTime::from_timestamp(seconds, nanos).unwrap();
            let wire = time_to_wire(time, "t").unwrap();
            prop_assert_eq!(time_from_wire(wire, "t").unwrap(), time);
        }

        #[test]
        fn any_received_time_is_read_or_malformed(seconds in any::<i64>(), nanos in any::<i32>()) {
            let wire = prost_types::Timestamp { seconds, nanos };
            if let Err(error) = time_from_wire(wire, "t") {
                prop_assert_eq!(error.kind(), ErrorKind::Malformed);
            }
        }
    }

    #[test]
    fn time_outside_the_proto_range_is_invalid() {
        for time in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
            let error = time_to_wire(time, "timestamp").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert_eq!(error.violations()[0].field, "timestamp");
            assert!(!error.may_have_taken_effect());
        }
    }

    #[test]
    fn leap_second_becomes_the_last_nanosecond_before_it() {
        let leap = DateTime::from_timestamp(1_483_228_799, 1_500_000_000).unwrap();
        let wire = time_to_wire(leap, "t").unwrap();
        assert_eq!((wire.seconds, wire.nanos), (1_483_228_799, LAST_NANO));
    }

    #[test]
    fn absent_required_time_is_malformed() {
        let error = required_time(None, "as_of").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert!(error.to_string().contains("as_of"), "{error}");
    }
}
