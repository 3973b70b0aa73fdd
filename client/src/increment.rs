//! Increments and their idempotency keys. Sending them is in `client.rs`.

use crate::{Error, proto, wire};
use chrono::{DateTime, Utc};
use uuid::Uuid;

/// The idempotency key of a call, the same for all its attempts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Key {
    /// Not set: the client generates one.
    #[default]
    Unset,
    Is(String),
    /// Set to none by the caller.
    Without,
}

impl Key {
    /// Generates a UUIDv7 if no key is set. Time-ordered keys are the fastest for the server's index.
    pub(crate) fn ensure(&mut self) -> Option<&str> {
        if *self == Self::Unset {
            *self = Self::Is(Uuid::now_v7().to_string());
        }
        match self {
            Self::Is(key) => Some(key),
            Self::Unset | Self::Without => None,
        }
    }

    /// An empty key means none in the proto, so a key that is empty by mistake is an error.
    pub(crate) fn into_wire(self) -> Result<String, Error> {
        match self {
            Self::Is(key) if key.is_empty() => Err(Error::invalid(
                "idempotency_key",
                "the key is empty; it must have 1 to 255 bytes, or be left out",
            )),
            Self::Is(key) => Ok(key),
            Self::Unset | Self::Without => Ok(String::new()),
        }
    }
}

/// Usage of an account.
///
/// ```
/// use usage_client::Increment;
///
/// let one_call = Increment::new("acct_42");
/// let tokens = Increment::new("acct_42").meter("tokens").quantity(1_200);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is counted until it is sent"]
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
    /// The account is the caller's own id for the user: 1 to 128 characters from
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

    /// The meter: one that the server is configured with.
    pub fn meter(mut self, meter: impl Into<String>) -> Self {
        self.meter = meter.into();
        self
    }

    /// The quantity in the meter's unit: 1 to 1,000,000,000,000.
    pub fn quantity(mut self, quantity: i64) -> Self {
        self.quantity = Some(quantity);
        self
    }

    /// The idempotency key, at most 255 bytes: within an account, a key is counted once. Use a name that the usage
    /// already has, such as the id of the request that caused it. By default the client generates a UUIDv7.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Key::Is(key.into());
        self
    }

    /// Sends no key. If the response is lost, repeating the call could count twice.
    pub fn without_key(mut self) -> Self {
        self.key = Key::Without;
        self
    }

    /// When it was used: at most 34 days ago and 5 minutes in the future, truncated to milliseconds. By default the time
    /// at which the server counts it.
    pub fn timestamp(mut self, timestamp: impl Into<DateTime<Utc>>) -> Self {
        self.timestamp = Some(timestamp.into());
        self
    }

    /// The increment's key, generated now if it has none; `None` after [`without_key`](Self::without_key).
    ///
    /// Call this before the first attempt to store the key, or to send a clone again after a failure.
    pub fn ensure_key(&mut self) -> Option<&str> {
        self.key.ensure()
    }

    pub(crate) fn into_wire(self) -> Result<proto::IncrementRequest, Error> {
        let timestamp = wire::optional_time_to_wire(self.timestamp, "timestamp")?;
        Ok(proto::IncrementRequest {
            account_id: self.account_id,
            meter: self.meter,
            quantity: self.quantity,
            idempotency_key: self.key.into_wire()?,
            timestamp,
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

/// A durably counted increment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counted {
    /// Whether the key was counted before; this call then added nothing.
    pub duplicate: bool,
    /// The key it was sent with; none after [`Increment::without_key`].
    pub key: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn unset_fields_are_not_sent() {
        let wire = Increment::new("a").into_wire().unwrap();
        assert_eq!(wire.quantity, None);
        assert_eq!(wire.timestamp, None);
        assert_eq!(wire.meter, "");
        assert_eq!(wire.idempotency_key, "");
    }

    #[test]
    fn key_is_generated_once() {
        let mut increment = Increment::new("a");
        let first = increment.ensure_key().unwrap().to_owned();
        assert_eq!(Uuid::parse_str(&first).unwrap().get_version_num(), 7);
        assert_eq!(increment.clone().ensure_key(), Some(&*first));
        assert_eq!(increment.into_wire().unwrap().idempotency_key, first);
    }

    #[test]
    fn set_key_and_no_key_are_not_replaced() {
        assert_eq!(Increment::new("a").key("k").ensure_key(), Some("k"));
        assert_eq!(Increment::new("a").without_key().ensure_key(), None);
    }

    #[test]
    fn empty_key_is_rejected() {
        let error = Increment::new("a").key("").into_wire().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.violations()[0].field, "idempotency_key");
        let said = "the key is empty; it must have 1 to 255 bytes, or be left out";
        assert_eq!(error.violations()[0].description, said);
    }
}
