//! Counting one increment: what is sent and what comes back.
//!
//! A logical call has one idempotency key for its whole life, however often it is sent. Sending is
//! the client's matter, see `client.rs`.

use crate::{Error, proto, wire};
use chrono::{DateTime, Utc};
use uuid::Uuid;

/// What names a logical call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Key {
    /// Nobody has said anything: the client mints one.
    #[default]
    Unset,
    Is(String),
    /// The caller wants none.
    Without,
}

impl Key {
    /// Version 7 of UUIDs: keys that follow each other in time cost the server's index least.
    pub(crate) fn ensure(&mut self) -> Option<&str> {
        if *self == Self::Unset {
            *self = Self::Is(Uuid::now_v7().to_string());
        }
        match self {
            Self::Is(key) => Some(key),
            Self::Unset | Self::Without => None,
        }
    }

    /// The wire says "none" by an empty key: a key that came out empty by mistake would cost the
    /// caller its protection without a word.
    pub(crate) fn into_wire(self) -> Result<String, Error> {
        match self {
            Self::Is(key) if key.is_empty() => Err(Error::invalid(
                "idempotency_key",
                "the key is empty; to send none, say `without_key`",
            )),
            Self::Is(key) => Ok(key),
            Self::Unset | Self::Without => Ok(String::new()),
        }
    }
}

/// One call's worth of usage of an account.
///
/// ```
/// use usage_client::Increment;
///
/// let one_call = Increment::new("acct_42");
/// let tokens = Increment::new("acct_42").meter("tokens").quantity(1_200);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is counted before it is sent"]
pub struct Increment {
    account_id: String,
    meter: String,
    quantity: Option<i64>,
    key: Key,
    timestamp: Option<DateTime<Utc>>,
}

impl Increment {
    /// One unit of the default meter, used now by the server's clock.
    ///
    /// The account is the caller's own id for who used it: 1 to 128 characters out of
    /// `A-Z a-z 0-9 . _ : @ / + = -`.
    pub fn new(account_id: impl Into<String>) -> Self {
        Self {
            account_id: account_id.into(),
            meter: String::new(),
            quantity: None,
            key: Key::Unset,
            timestamp: None,
        }
    }

    /// What was used: one of the meters that the server is configured with.
    pub fn meter(mut self, meter: impl Into<String>) -> Self {
        self.meter = meter.into();
        self
    }

    /// How much, in the meter's unit: 1 to 1,000,000,000,000.
    pub fn quantity(mut self, quantity: i64) -> Self {
        self.quantity = Some(quantity);
        self
    }

    /// The caller's own name for this increment, at most 255 bytes: within an account the same name
    /// counts once. Best is a name that the usage has anyway, such as the id of the request that
    /// caused it. Left out, the client mints a UUID of version 7.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Key::Is(key.into());
        self
    }

    /// Sends no key: an attempt whose answer is lost cannot be repeated without the risk of counting
    /// twice.
    pub fn without_key(mut self) -> Self {
        self.key = Key::Without;
        self
    }

    /// When it was used: at most 34 days ago and 5 minutes ahead. Left out, it is the moment in
    /// which the server counts it.
    pub fn timestamp(mut self, timestamp: impl Into<DateTime<Utc>>) -> Self {
        self.timestamp = Some(timestamp.into());
        self
    }

    /// The key it will be sent with, minted now unless there is one; none after
    /// [`without_key`](Self::without_key).
    ///
    /// Ask for it before the first attempt where the key must outlive this process, or where a clone
    /// is sent again after a failure.
    pub fn ensure_key(&mut self) -> Option<&str> {
        self.key.ensure()
    }

    pub(crate) fn into_wire(self) -> Result<proto::IncrementRequest, Error> {
        let timestamp = self
            .timestamp
            .map(|time| wire::time_to_wire(time, "timestamp"));
        Ok(proto::IncrementRequest {
            account_id: self.account_id,
            meter: self.meter,
            quantity: self.quantity,
            idempotency_key: self.key.into_wire()?,
            timestamp: timestamp.transpose()?,
            ..Default::default()
        })
    }
}

impl From<&str> for Increment {
    fn from(account_id: &str) -> Self {
        Self::new(account_id)
    }
}

impl From<String> for Increment {
    fn from(account_id: String) -> Self {
        Self::new(account_id)
    }
}

impl From<&String> for Increment {
    fn from(account_id: &String) -> Self {
        Self::new(account_id)
    }
}

/// An increment that is durably counted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counted {
    /// The key had been counted before; this call added nothing.
    pub duplicate: bool,
    /// The key it was sent with; none if the caller wanted none.
    pub key: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn what_is_left_out_stays_out() {
        let wire = Increment::new("a").into_wire().unwrap();
        assert_eq!(wire.quantity, None);
        assert_eq!(wire.timestamp, None);
        assert_eq!(wire.meter, "");
        assert_eq!(wire.idempotency_key, "");
    }

    #[test]
    fn a_key_is_minted_once() {
        let mut increment = Increment::new("a");
        let first = increment.ensure_key().unwrap().to_owned();
        assert_eq!(Uuid::parse_str(&first).unwrap().get_version_num(), 7);
        assert_eq!(increment.clone().ensure_key(), Some(&*first));
        assert_eq!(increment.into_wire().unwrap().idempotency_key, first);
    }

    #[test]
    fn a_given_key_stands_and_no_key_stays_none() {
        assert_eq!(Increment::new("a").key("k").ensure_key(), Some("k"));
        assert_eq!(Increment::new("a").without_key().ensure_key(), None);
    }

    #[test]
    fn an_empty_key_is_refused_before_it_is_sent() {
        let error = Increment::new("a").key("").into_wire().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.violations()[0].field, "idempotency_key");
    }
}
