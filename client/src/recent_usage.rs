//! The recent usage of accounts in a list.

use crate::{Error, Period, proto, wire};

/// The usage of one account and meter in the present period, the last one and the last days: all usage and corrections, in
/// the meter's unit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecentUsage {
    /// The account.
    pub account_id: String,
    /// The meter.
    pub meter: String,
    /// The present billing period of the meter as far as it is known, else the calendar month in UTC.
    pub period: Period,
    /// The usage in [`Self::period`] to date; none if that began more than 70 days ago.
    pub quantity: Option<i64>,
    /// The billing period before, or the calendar month before; none if none is known.
    pub previous_period: Option<Period>,
    /// The usage in [`Self::previous_period`]; none if there is none, or it began more than 70 days ago.
    pub previous_quantity: Option<i64>,
    /// The usage of each of the last 30 days in UTC, the oldest first. The current day is the last.
    pub days: Vec<i64>,
}

impl RecentUsage {
    pub(crate) fn from_wire(usage: proto::RecentUsage) -> Result<Self, Error> {
        let previous = usage.previous_period;
        let previous = previous.map(|of| wire::required_period(Some(of), "usage.previous_period"));
        Ok(Self {
            account_id: usage.account_id,
            meter: usage.meter,
            period: wire::required_period(usage.period, "usage.period")?,
            quantity: usage.quantity,
            previous_period: previous.transpose()?,
            previous_quantity: usage.previous_quantity,
            days: usage.days,
        })
    }
}
