//! Calls that are configured with methods and sent when they are awaited.

use crate::{Counted, Error, Get, Granularity, Increment, Usage, UsageClient};
use chrono::{DateTime, Utc};
use std::{future::IntoFuture, pin::Pin};

/// The future of a sent call.
type Sent<'a, A> = Pin<Box<dyn Future<Output = Result<A, Error>> + Send + 'a>>;

/// An increment that is counted when it is awaited; see [`UsageClient::increment`].
#[derive(Debug, Clone)]
#[must_use = "nothing is counted until it is awaited"]
pub struct IncrementCall<'a> {
    pub(crate) client: &'a UsageClient,
    pub(crate) increment: Increment,
}

impl IncrementCall<'_> {
    /// The meter; see [`Increment::meter`].
    pub fn meter(mut self, meter: impl Into<String>) -> Self {
        self.increment = self.increment.meter(meter);
        self
    }

    /// The quantity; see [`Increment::quantity`].
    pub fn quantity(mut self, quantity: i64) -> Self {
        self.increment = self.increment.quantity(quantity);
        self
    }

    /// The idempotency key; see [`Increment::key`].
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.increment = self.increment.key(key);
        self
    }

    /// Sends no key; see [`Increment::without_key`].
    pub fn without_key(mut self) -> Self {
        self.increment = self.increment.without_key();
        self
    }

    /// When it was used; see [`Increment::timestamp`].
    pub fn timestamp(mut self, timestamp: impl Into<DateTime<Utc>>) -> Self {
        self.increment = self.increment.timestamp(timestamp);
        self
    }
}

impl<'a> IntoFuture for IncrementCall<'a> {
    type Output = Result<Counted, Error>;
    type IntoFuture = Sent<'a, Counted>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.client.send_increment(self.increment))
    }
}

/// Usage that is read when it is awaited; see [`UsageClient::get`].
#[derive(Debug, Clone)]
#[must_use = "nothing is read until it is awaited"]
pub struct GetCall<'a> {
    pub(crate) client: &'a UsageClient,
    pub(crate) get: Get,
}

impl GetCall<'_> {
    /// Only this meter; see [`Get::meter`].
    pub fn meter(mut self, meter: impl Into<String>) -> Self {
        self.get = self.get.meter(meter);
        self
    }

    /// The period; see [`Get::period`].
    pub fn period(
        mut self,
        start: impl Into<DateTime<Utc>>,
        end: impl Into<DateTime<Utc>>,
    ) -> Self {
        self.get = self.get.period(start, end);
        self
    }

    /// Splits the period into points; see [`Get::granularity`].
    pub fn granularity(mut self, granularity: Granularity) -> Self {
        self.get = self.get.granularity(granularity);
        self
    }

    /// The time zone of days and months; see [`Get::time_zone`].
    pub fn time_zone(mut self, time_zone: impl Into<String>) -> Self {
        self.get = self.get.time_zone(time_zone);
        self
    }

    /// Rounds the period outward; see [`Get::round_outward`].
    pub fn round_outward(mut self) -> Self {
        self.get = self.get.round_outward();
        self
    }
}

impl<'a> IntoFuture for GetCall<'a> {
    type Output = Result<Usage, Error>;
    type IntoFuture = Sent<'a, Usage>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.client.send_get(self.get))
    }
}
