//! Queries of usage and their results.

use crate::{Error, Period, proto, wire};
use chrono::{DateTime, TimeDelta, Utc};

/// A query of an account's usage.
///
/// By default it returns one total for each meter in the current billing period, or in the current calendar month if
/// the server does not know the billing period.
///
/// ```
/// use usage_client::{Get, Granularity};
///
/// let by_day = Get::account("acct_42")
///     .meter("tokens")
///     .granularity(Granularity::Day)
///     .time_zone("Europe/Vienna");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is queried until it is sent"]
pub struct Get {
    account_id: String,
    meter: String,
    period: Option<Period>,
    granularity: Granularity,
    time_zone: String,
    round_outward: bool,
}

impl Get {
    /// The usage of this account. An unknown account has zero usage.
    pub fn account(account_id: impl Into<String>) -> Self {
        Self {
            account_id: account_id.into(),
            meter: String::new(),
            period: None,
            granularity: Granularity::Total,
            time_zone: String::new(),
            round_outward: false,
        }
    }

    /// Only this meter.
    pub fn meter(mut self, meter: impl Into<String>) -> Self {
        self.meter = meter.into();
        self
    }

    /// From `start` until just before `end`, at most 3,660 days. Each must be the start of a slot (by default a full hour
    /// in UTC), or the start or end of one of the account's billing periods, unless it is [rounded](Self::round_outward).
    pub fn period(
        mut self,
        start: impl Into<DateTime<Utc>>,
        end: impl Into<DateTime<Utc>>,
    ) -> Self {
        self.period = Some(Period::new(start, end));
        self
    }

    /// How to split the period; at most 10,000 points are returned.
    pub fn granularity(mut self, granularity: Granularity) -> Self {
        self.granularity = granularity;
        self
    }

    /// The IANA time zone in which days and months start; UTC by default.
    pub fn time_zone(mut self, time_zone: impl Into<String>) -> Self {
        self.time_zone = time_zone.into();
        self
    }

    /// Moves a start or end that lies inside a slot outward, to the nearest one that is possible. [`Usage::period`] is
    /// the period that was used. Days and months of the time zone that begin inside a slot then begin with it.
    ///
    /// ```
    /// use chrono::{TimeDelta, Utc};
    /// use usage_client::Get;
    ///
    /// let now = Utc::now();
    /// let last_week = Get::account("acct_42").period(now - TimeDelta::days(7), now).round_outward();
    /// ```
    pub fn round_outward(mut self) -> Self {
        self.round_outward = true;
        self
    }

    /// The last days until now, by this machine's clock, [rounded](Self::round_outward).
    pub fn last_days(self, days: u32) -> Self {
        self.last(TimeDelta::days(days.into()))
    }

    /// The last hours until now, by this machine's clock, [rounded](Self::round_outward).
    pub fn last_hours(self, hours: u32) -> Self {
        self.last(TimeDelta::hours(hours.into()))
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "callers mean their own clock's now"
    )]
    fn last(self, time: TimeDelta) -> Self {
        let now = Utc::now();
        let start = now.checked_sub_signed(time);
        self.period(start.unwrap_or(DateTime::UNIX_EPOCH), now)
            .round_outward()
    }

    pub(crate) fn into_wire(self) -> Result<proto::GetRequest, Error> {
        let period = self
            .period
            .map(|period| wire::period_to_wire(period, "period.start", "period.end"));
        Ok(proto::GetRequest {
            account_id: self.account_id,
            meter: self.meter,
            period: period.transpose()?,
            granularity: self.granularity.to_wire().into(),
            time_zone: self.time_zone,
            round_outward: self.round_outward,
        })
    }
}

impl From<&String> for Get {
    fn from(account_id: &String) -> Self {
        Self::account(account_id)
    }
}

impl From<&str> for Get {
    fn from(account_id: &str) -> Self {
        Self::account(account_id)
    }
}

impl From<String> for Get {
    fn from(account_id: String) -> Self {
        Self::account(account_id)
    }
}

/// The length of the points into which a period is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Granularity {
    /// One total without points.
    #[default]
    Total,
    /// One point per slot: an aligned hour in UTC, or the server's configured `window_mins`.
    Slot,
    /// One point per hour of UTC, in every time zone.
    Hour,
    /// One point per day in the time zone.
    Day,
    /// One point per calendar month in the time zone.
    Month,
}

impl Granularity {
    pub(crate) fn to_wire(self) -> proto::Granularity {
        match self {
            Self::Total => proto::Granularity::Total,
            Self::Slot => proto::Granularity::Slot,
            Self::Hour => proto::Granularity::Hour,
            Self::Day => proto::Granularity::Day,
            Self::Month => proto::Granularity::Month,
        }
    }

    pub(crate) fn from_wire(granularity: i32) -> Result<Self, Error> {
        match proto::Granularity::try_from(granularity) {
            Ok(proto::Granularity::Unspecified | proto::Granularity::Total) => Ok(Self::Total),
            Ok(proto::Granularity::Slot) => Ok(Self::Slot),
            Ok(proto::Granularity::Hour) => Ok(Self::Hour),
            Ok(proto::Granularity::Day) => Ok(Self::Day),
            Ok(proto::Granularity::Month) => Ok(Self::Month),
            Err(_) => Err(Error::malformed(format!(
                "the response has the unknown granularity {granularity}"
            ))),
        }
    }
}

/// An account's usage in a period.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// The account.
    pub account_id: String,
    /// The period that the response covers; longer than the requested one if that was rounded outward.
    pub period: Period,
    /// How the period is split.
    pub granularity: Granularity,
    /// The IANA time zone in which days and months start.
    pub time_zone: String,
    /// The time of the response: everything acknowledged before it is included.
    pub as_of: DateTime<Utc>,
    /// One entry per meter, in the order of the server's configuration.
    pub meters: Vec<MeterUsage>,
}

/// An account's usage of one meter in a period.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MeterUsage {
    /// The meter.
    pub meter: String,
    /// The meter's unit, as configured; may be empty.
    pub unit: String,
    /// The totals of the whole period.
    pub quantities: Quantities,
    /// The points, oldest first, without gaps; empty for [`Granularity::Total`].
    pub points: Vec<UsagePoint>,
}

/// The usage in one part of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsagePoint {
    /// The part of the requested period that the point covers.
    pub period: Period,
    /// The totals of this part.
    pub quantities: Quantities,
}

/// A total and its parts: `total = reported + not_yet_reported + not_billable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Quantities {
    /// All usage and corrections.
    pub total: i64,
    /// The part that Stripe accepted.
    pub reported: i64,
    /// The part that Stripe did not accept so far, for any reason.
    pub not_yet_reported: i64,
    /// The part that is never billed.
    pub not_billable: i64,
}

impl Usage {
    /// The usage of one meter; none if the response does not contain it.
    pub fn meter(&self, name: &str) -> Option<&MeterUsage> {
        self.meters.iter().find(|usage| usage.meter == name)
    }

    pub(crate) fn from_wire(response: proto::GetResponse) -> Result<Self, Error> {
        let meters = response.meters.into_iter().map(MeterUsage::from_wire);
        Ok(Self {
            account_id: response.account_id,
            period: wire::required_period(response.period, "period")?,
            granularity: Granularity::from_wire(response.granularity)?,
            time_zone: response.time_zone,
            as_of: wire::required_time(response.as_of, "as_of")?,
            meters: meters.collect::<Result<_, _>>()?,
        })
    }
}

impl MeterUsage {
    fn from_wire(usage: proto::MeterUsage) -> Result<Self, Error> {
        let points = usage.points.into_iter().map(|point| {
            Ok(UsagePoint {
                period: wire::required_period(point.period, "meters.points.period")?,
                quantities: point.quantities.unwrap_or_default().into(),
            })
        });
        Ok(Self {
            meter: usage.meter,
            unit: usage.unit,
            quantities: usage.quantities.unwrap_or_default().into(),
            points: points.collect::<Result<_, Error>>()?,
        })
    }
}

impl From<proto::Quantities> for Quantities {
    fn from(quantities: proto::Quantities) -> Self {
        Self {
            total: quantities.total,
            reported: quantities.reported,
            not_yet_reported: quantities.not_yet_reported,
            not_billable: quantities.not_billable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use chrono::TimeZone as _;

    fn hour(hour: u32) -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 3, 1, hour, 0, 0).unwrap()
    }

    fn answer() -> proto::GetResponse {
        let wire = |start, end| {
            let period = Period::new(hour(start), hour(end));
            Some(wire::period_to_wire(period, "start", "end").unwrap())
        };
        let quantities = Some(proto::Quantities {
            total: 6,
            reported: 3,
            not_yet_reported: 2,
            not_billable: 1,
        });
        proto::GetResponse {
            account_id: "a".to_owned(),
            period: wire(1, 3),
            granularity: proto::Granularity::Hour.into(),
            time_zone: "UTC".to_owned(),
            as_of: Some(wire::time_to_wire(hour(2), "as_of").unwrap()),
            meters: vec![proto::MeterUsage {
                meter: "tokens".to_owned(),
                unit: String::new(),
                quantities,
                points: vec![proto::UsagePoint {
                    period: wire(1, 2),
                    quantities,
                }],
            }],
        }
    }

    #[test]
    fn response_is_decoded() {
        let usage = Usage::from_wire(answer()).unwrap();
        assert_eq!(usage.period, Period::new(hour(1), hour(3)));
        assert_eq!(usage.granularity, Granularity::Hour);
        assert!(usage.period.contains(usage.as_of));
        let tokens = usage.meter("tokens").unwrap();
        assert_eq!(tokens.quantities.total, 6);
        assert_eq!(tokens.points[0].period.end, hour(2));
        assert_eq!(usage.meter("calls"), None);
    }

    #[test]
    fn missing_period_is_malformed() {
        let mut response = answer();
        response.period = None;
        let error = Usage::from_wire(response).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }

    #[test]
    fn granularity_is_unchanged_by_a_round_trip() {
        for granularity in [
            Granularity::Total,
            Granularity::Slot,
            Granularity::Hour,
            Granularity::Day,
            Granularity::Month,
        ] {
            let wire = granularity.to_wire().into();
            assert_eq!(Granularity::from_wire(wire).unwrap(), granularity);
        }
    }

    #[test]
    fn unset_fields_are_not_sent() {
        let wire = Get::account("a").into_wire().unwrap();
        assert_eq!(wire.period, None);
        assert_eq!((&*wire.meter, &*wire.time_zone), ("", ""));
    }
}
