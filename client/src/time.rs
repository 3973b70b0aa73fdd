//! Time: what the wire says, as [`chrono`] says it.
//!
//! The only place that names the wire's timestamp. A time that one of the two cannot hold is an
//! error here, never a panic and never another time.

use crate::{Error, proto};
use chrono::{DateTime, Utc};

/// 0001-01-01T00:00:00Z, the first second that a protobuf timestamp can hold.
const FIRST_SECOND: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z, the last one.
const LAST_SECOND: i64 = 253_402_300_799;
const LAST_NANO: i32 = 999_999_999;

/// A half-open interval of time: `start` belongs to it, `end` does not.
///
/// The service truncates times to whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Period {
    /// The first moment inside the period.
    pub start: DateTime<Utc>,
    /// The first moment after the period.
    pub end: DateTime<Utc>,
}

impl Period {
    /// A period from `start` up to, but without, `end`.
    pub fn new(start: impl Into<DateTime<Utc>>, end: impl Into<DateTime<Utc>>) -> Self {
        Self {
            start: start.into(),
            end: end.into(),
        }
    }

    /// Whether the moment lies inside the period.
    pub fn contains(&self, moment: DateTime<Utc>) -> bool {
        self.start <= moment && moment < self.end
    }
}

/// A time that we send. `field` is what a refusal calls it.
pub(crate) fn to_wire(
    time: DateTime<Utc>,
    field: &'static str,
) -> Result<prost_types::Timestamp, Error> {
    let seconds = time.timestamp();
    if !(FIRST_SECOND..=LAST_SECOND).contains(&seconds) {
        return Err(Error::invalid(
            field,
            format!("{time:?} lies outside the years 1 to 9999"),
        ));
    }
    // chrono keeps a leap second as a nanosecond count above one second; the wire has no such thing.
    let nanos = i32::try_from(time.timestamp_subsec_nanos())
        .unwrap_or(LAST_NANO)
        .min(LAST_NANO);
    Ok(prost_types::Timestamp { seconds, nanos })
}

/// A time that we received. `field` is what the error calls it.
pub(crate) fn from_wire(
    time: prost_types::Timestamp,
    field: &'static str,
) -> Result<DateTime<Utc>, Error> {
    u32::try_from(time.nanos)
        .ok()
        .and_then(|nanos| DateTime::from_timestamp(time.seconds, nanos))
        .ok_or_else(|| {
            Error::malformed(format!(
                "`{field}` is no time: {} s and {} ns",
                time.seconds, time.nanos
            ))
        })
}

/// A time that the contract allows to be absent.
pub(crate) fn optional_from_wire(
    time: Option<prost_types::Timestamp>,
    field: &'static str,
) -> Result<Option<DateTime<Utc>>, Error> {
    time.map(|time| from_wire(time, field)).transpose()
}

/// A time that the contract promises.
pub(crate) fn required_from_wire(
    time: Option<prost_types::Timestamp>,
    field: &'static str,
) -> Result<DateTime<Utc>, Error> {
    let time = time.ok_or_else(|| Error::malformed(format!("`{field}` is absent")))?;
    from_wire(time, field)
}

/// A period that we send.
pub(crate) fn period_to_wire(
    period: Period,
    start_field: &'static str,
    end_field: &'static str,
) -> Result<proto::Period, Error> {
    Ok(proto::Period {
        start: Some(to_wire(period.start, start_field)?),
        end: Some(to_wire(period.end, end_field)?),
    })
}

/// A period that the contract promises.
pub(crate) fn period_from_wire(
    period: Option<proto::Period>,
    field: &'static str,
) -> Result<Period, Error> {
    let period = period.ok_or_else(|| Error::malformed(format!("`{field}` is absent")))?;
    Ok(Period {
        start: required_from_wire(period.start, field)?,
        end: required_from_wire(period.end, field)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_time_survives_the_wire(seconds in FIRST_SECOND..=LAST_SECOND, nanos in 0_u32..1_000_000_000) {
            let time = DateTime::from_timestamp(seconds, nanos).unwrap();
            let wire = to_wire(time, "t").unwrap();
            prop_assert_eq!(from_wire(wire, "t").unwrap(), time);
        }

        #[test]
        fn no_wire_time_panics(seconds in any::<i64>(), nanos in any::<i32>()) {
            let wire = prost_types::Timestamp { seconds, nanos };
            if let Err(error) = from_wire(wire, "t") {
                prop_assert_eq!(error.kind(), ErrorKind::Malformed);
            }
        }
    }

    #[test]
    fn a_time_that_the_wire_cannot_hold_is_invalid() {
        for time in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
            let error = to_wire(time, "timestamp").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert_eq!(error.violations()[0].field, "timestamp");
            assert!(!error.may_have_taken_effect());
        }
    }

    #[test]
    fn a_leap_second_becomes_the_last_moment_before_the_next() {
        let leap = DateTime::from_timestamp(1_483_228_799, 1_500_000_000).unwrap();
        let wire = to_wire(leap, "t").unwrap();
        assert_eq!((wire.seconds, wire.nanos), (1_483_228_799, LAST_NANO));
    }

    #[test]
    fn an_absent_time_that_was_promised_is_malformed() {
        let error = required_from_wire(None, "as_of").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert!(error.to_string().contains("as_of"), "{error}");
    }
}
