//! The usage of many accounts: lists of it, and its summary.

use crate::{
    Error, Granularity, Period, Quantities, ReportState, proto,
    wire::{self, non_empty, page_size_to_wire},
};
use chrono::{DateTime, Utc};

/// Lists the usage of one meter in a period, one entry for each account with usage: the largest quantity first.
///
/// Each page is one moment's state. While usage of the period still counts, a list by quantity can have an account on two
/// pages or on none; one [by account](Self::by_account) has each once.
///
/// ```
/// use chrono::{TimeZone, Utc};
/// use usage_client::ListUsage;
///
/// let march = Utc.with_ymd_and_hms(2026, 3, 1, 0, 0, 0).unwrap();
/// let april = Utc.with_ymd_and_hms(2026, 4, 1, 0, 0, 0).unwrap();
/// let of_team = ListUsage::of("tokens", march, april).account_prefix("team:").page_size(10);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is listed until it is sent"]
pub struct ListUsage {
    meter: String,
    period: Period,
    is_by_account: bool,
    account_prefix: String,
    round_outward: bool,
    page_size: u32,
    page_token: String,
}

impl ListUsage {
    /// The usage of this meter from `start` until just before `end`, at most 3,660 days. Each must be the start of a slot (by
    /// default a full hour in UTC), unless it is [rounded](Self::round_outward).
    pub fn of(
        meter: impl Into<String>,
        start: impl Into<DateTime<Utc>>,
        end: impl Into<DateTime<Utc>>,
    ) -> Self {
        Self {
            meter: meter.into(),
            period: Period::new(start, end),
            is_by_account: false,
            account_prefix: String::new(),
            round_outward: false,
            page_size: 0,
            page_token: String::new(),
        }
    }

    /// In the order of the account ids, byte by byte.
    pub fn by_account(mut self) -> Self {
        self.is_by_account = true;
        self
    }

    /// Only accounts whose ids begin with this.
    pub fn account_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.account_prefix = prefix.into();
        self
    }

    /// Moves a start or end that lies inside a slot outward. [`UsagePage::period`] is the period that was used.
    pub fn round_outward(mut self) -> Self {
        self.round_outward = true;
        self
    }

    /// The maximum number of accounts on the page, up to 1,000; by default 100.
    pub fn page_size(mut self, page_size: u32) -> Self {
        self.page_size = page_size;
        self
    }

    /// The page that follows the one with this [`UsagePage::next_page_token`], for the same query.
    pub fn page_token(mut self, page_token: impl Into<String>) -> Self {
        self.page_token = page_token.into();
        self
    }

    pub(crate) fn into_wire(self) -> Result<proto::ListUsageRequest, Error> {
        let order = if self.is_by_account {
            proto::UsageOrder::Account
        } else {
            proto::UsageOrder::Quantity
        };
        Ok(proto::ListUsageRequest {
            meter: self.meter,
            period: Some(wire::period_to_wire(
                self.period,
                "period.start",
                "period.end",
            )?),
            order: order.into(),
            account_prefix: self.account_prefix,
            round_outward: self.round_outward,
            page_size: page_size_to_wire(self.page_size),
            page_token: self.page_token,
        })
    }
}

/// A page of the usage of many accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsagePage {
    /// The accounts.
    pub usage: Vec<AccountUsage>,
    /// The token of the next page; none on the last page.
    pub next_page_token: Option<String>,
    /// The period that the page covers.
    pub period: Period,
    /// The meter's unit, as configured; may be empty.
    pub unit: String,
    /// The time of the response: everything acknowledged before it is included.
    pub as_of: DateTime<Utc>,
}

/// The usage of one account of one meter in a period.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountUsage {
    /// The account.
    pub account_id: String,
    /// All usage and corrections.
    pub quantity: i64,
}

impl AccountUsage {
    fn all_from_wire(usage: Vec<proto::AccountUsage>) -> Vec<Self> {
        let usage = usage.into_iter().map(|usage| Self {
            account_id: usage.account_id,
            quantity: usage.quantity,
        });
        usage.collect()
    }
}

impl UsagePage {
    pub(crate) fn from_wire(response: proto::ListUsageResponse) -> Result<Self, Error> {
        Ok(Self {
            usage: AccountUsage::all_from_wire(response.usage),
            next_page_token: non_empty(response.next_page_token),
            period: wire::required_period(response.period, "period")?,
            unit: response.unit,
            as_of: wire::required_time(response.as_of, "as_of")?,
        })
    }
}

/// Asks for the usage of all accounts together in a period: of all meters, as one total each.
///
/// ```
/// use chrono::{TimeZone, Utc};
/// use usage_client::{GetSummary, Granularity};
///
/// let march = Utc.with_ymd_and_hms(2026, 3, 1, 0, 0, 0).unwrap();
/// let april = Utc.with_ymd_and_hms(2026, 4, 1, 0, 0, 0).unwrap();
/// let by_day = GetSummary::of(march, april).granularity(Granularity::Day).top_accounts(10);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is queried until it is sent"]
pub struct GetSummary {
    meter: String,
    period: Period,
    granularity: Granularity,
    time_zone: String,
    round_outward: bool,
    account_prefix: String,
    top_accounts: u32,
}

impl GetSummary {
    /// From `start` until just before `end`, as in [`ListUsage::of`].
    pub fn of(start: impl Into<DateTime<Utc>>, end: impl Into<DateTime<Utc>>) -> Self {
        Self {
            meter: String::new(),
            period: Period::new(start, end),
            granularity: Granularity::Total,
            time_zone: String::new(),
            round_outward: false,
            account_prefix: String::new(),
            top_accounts: 0,
        }
    }

    /// Only this meter.
    pub fn meter(mut self, meter: impl Into<String>) -> Self {
        self.meter = meter.into();
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

    /// Moves a start or end that lies inside a slot outward. [`Summary::period`] is the period that was used. Days and months
    /// of the time zone that begin inside a slot then begin with it.
    pub fn round_outward(mut self) -> Self {
        self.round_outward = true;
        self
    }

    /// Only accounts whose ids begin with this.
    pub fn account_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.account_prefix = prefix.into();
        self
    }

    /// How many accounts with the most usage to return for each meter, up to 100; by default none.
    pub fn top_accounts(mut self, number: u32) -> Self {
        self.top_accounts = number;
        self
    }

    pub(crate) fn into_wire(self) -> Result<proto::GetSummaryRequest, Error> {
        Ok(proto::GetSummaryRequest {
            meter: self.meter,
            period: Some(wire::period_to_wire(
                self.period,
                "period.start",
                "period.end",
            )?),
            granularity: self.granularity.to_wire().into(),
            time_zone: self.time_zone,
            round_outward: self.round_outward,
            account_prefix: self.account_prefix,
            top_accounts: page_size_to_wire(self.top_accounts),
        })
    }
}

/// The usage of all accounts in a period, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The period that the response covers; longer than the requested one if that was rounded outward.
    pub period: Period,
    /// How the period is split.
    pub granularity: Granularity,
    /// The IANA time zone in which days and months start.
    pub time_zone: String,
    /// The time of the response: everything acknowledged before it is included.
    pub as_of: DateTime<Utc>,
    /// One entry per meter, in the order of the server's configuration, then meters with usage that are no longer configured.
    pub meters: Vec<MeterSummary>,
    /// How many accounts have at least one report of any of these meters in the whole period, each counted once.
    pub accounts: i64,
}

/// The usage of one meter of all accounts in a period.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MeterSummary {
    /// The meter.
    pub meter: String,
    /// The meter's unit, as configured; may be empty.
    pub unit: String,
    /// The totals of the whole period.
    pub quantities: Quantities,
    /// The totals of the whole period by state, of the states that reports are in.
    pub states: Vec<StateUsage>,
    /// The points, oldest first, without gaps; empty for [`Granularity::Total`].
    pub points: Vec<SummaryPoint>,
    /// How many accounts have at least one report in the whole period.
    pub accounts: i64,
    /// The accounts with the largest quantities in the whole period, the largest first.
    pub top_accounts: Vec<AccountUsage>,
}

/// The sum of the reports in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateUsage {
    /// The state.
    pub state: ReportState,
    /// All usage and corrections in that state.
    pub quantity: i64,
}

/// The usage of all accounts in one part of a period.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SummaryPoint {
    /// The part of the requested period that the point covers.
    pub period: Period,
    /// All usage and corrections of this part.
    pub total: i64,
    /// The same by state.
    pub states: Vec<StateUsage>,
}

impl Summary {
    /// The usage of one meter; none if the response does not contain it.
    pub fn meter(&self, name: &str) -> Option<&MeterSummary> {
        self.meters.iter().find(|summary| summary.meter == name)
    }

    pub(crate) fn from_wire(response: proto::GetSummaryResponse) -> Result<Self, Error> {
        let meters = response.meters.into_iter().map(MeterSummary::from_wire);
        Ok(Self {
            period: wire::required_period(response.period, "period")?,
            granularity: Granularity::from_wire(response.granularity)?,
            time_zone: response.time_zone,
            as_of: wire::required_time(response.as_of, "as_of")?,
            meters: meters.collect::<Result<_, _>>()?,
            accounts: response.accounts,
        })
    }
}

impl MeterSummary {
    fn from_wire(summary: proto::MeterSummary) -> Result<Self, Error> {
        let points = summary.points.into_iter().map(|point| {
            Ok(SummaryPoint {
                period: wire::required_period(point.period, "meters.points.period")?,
                total: point.total,
                states: StateUsage::all_from_wire(point.states),
            })
        });
        Ok(Self {
            meter: summary.meter,
            unit: summary.unit,
            quantities: summary.quantities.unwrap_or_default().into(),
            states: StateUsage::all_from_wire(summary.states),
            points: points.collect::<Result<_, Error>>()?,
            accounts: summary.accounts,
            top_accounts: AccountUsage::all_from_wire(summary.top_accounts),
        })
    }
}

impl StateUsage {
    fn all_from_wire(states: Vec<proto::StateUsage>) -> Vec<Self> {
        let states = states.into_iter().map(|one| Self {
            state: ReportState::from_wire(one.state),
            quantity: one.quantity,
        });
        states.collect()
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

    #[test]
    fn a_query_has_what_was_set() {
        let wire = ListUsage::of("tokens", hour(1), hour(2))
            .into_wire()
            .unwrap();
        assert_eq!(wire.order, i32::from(proto::UsageOrder::Quantity));
        assert_eq!((wire.page_size, &*wire.account_prefix), (0, ""));
        let by_account = ListUsage::of("tokens", hour(1), hour(2))
            .by_account()
            .account_prefix("a")
            .into_wire();
        let by_account = by_account.unwrap();
        assert_eq!(by_account.order, i32::from(proto::UsageOrder::Account));
        assert_eq!(by_account.account_prefix, "a");
    }

    #[test]
    fn a_summary_without_a_period_is_malformed() {
        let error = Summary::from_wire(proto::GetSummaryResponse::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        let error = UsagePage::from_wire(proto::ListUsageResponse::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }
}
