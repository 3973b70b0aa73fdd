//! Corrections of usage by an admin.

use crate::{Error, UsageReport, increment::Key, proto, wire};
use chrono::{DateTime, Utc};

/// A correction of an account's usage: a separate report, sent to Stripe as a separate meter event. Counted usage is
/// never edited.
///
/// ```
/// use usage_client::Correct;
///
/// let refund = Correct::new("acct_42", -1_200, "counted twice by a faulty worker").meter("tokens");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is corrected until it is sent"]
pub struct Correct {
    account_id: String,
    meter: String,
    quantity: i64,
    reason: String,
    timestamp: Option<DateTime<Utc>>,
    requested_by: String,
    key: Key,
    dry_run: bool,
}

impl Correct {
    /// Adds a quantity to the account's usage, or subtracts it if it is negative: -1,000,000,000,000 to
    /// 1,000,000,000,000, not 0. The reason, of 1 to 500 characters and not only spaces, is stored with the
    /// report.
    pub fn new(account_id: impl Into<String>, quantity: i64, reason: impl Into<String>) -> Self {
        Self {
            account_id: account_id.into(),
            meter: String::new(),
            quantity,
            reason: reason.into(),
            timestamp: None,
            requested_by: String::new(),
            key: Key::Unset,
            dry_run: false,
        }
    }

    /// The meter; by default the server's default meter.
    pub fn meter(mut self, meter: impl Into<String>) -> Self {
        self.meter = meter.into();
        self
    }

    /// The time that the correction applies to, and so its billing period: at most 34 days ago and 5 minutes in the
    /// future, truncated to milliseconds. By default the time at which the server enters it.
    pub fn timestamp(mut self, timestamp: impl Into<DateTime<Utc>>) -> Self {
        self.timestamp = Some(timestamp.into());
        self
    }

    /// Who enters it, at most 128 characters; by default the API key, or without one the caller's network address.
    pub fn requested_by(mut self, requested_by: impl Into<String>) -> Self {
        self.requested_by = requested_by.into();
        self
    }

    /// The idempotency key, at most 255 bytes: within an account, a key is entered once. By default the client
    /// generates a UUIDv7.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Key::Is(key.into());
        self
    }

    /// Only returns what would be entered; enters nothing.
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// The correction's key, generated now if it has none.
    ///
    /// Call this before the first attempt to store the key, or to send a clone again after a failure.
    pub fn ensure_key(&mut self) -> Option<&str> {
        self.key.ensure()
    }

    pub(crate) fn into_wire(self) -> Result<proto::CorrectRequest, Error> {
        let timestamp = wire::optional_time_to_wire(self.timestamp, "timestamp")?;
        Ok(proto::CorrectRequest {
            account_id: self.account_id,
            meter: self.meter,
            quantity: self.quantity,
            reason: self.reason,
            timestamp,
            requested_by: self.requested_by,
            idempotency_key: self.key.into_wire()?,
            dry_run: self.dry_run,
        })
    }
}

/// An entered correction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Corrected {
    /// The correction.
    pub report: UsageReport,
    /// Whether the key was used before; this call then entered nothing.
    pub duplicate: bool,
    /// The key it was sent with.
    pub key: Option<String>,
    /// Of a dry run: the totals that the correction would change.
    pub totals: Vec<CorrectedTotal>,
}

/// The total of an account and meter in a period, as it will be billed, before and after a correction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CorrectedTotal {
    /// When the period starts, if that is known.
    pub start: Option<DateTime<Utc>>,
    /// When it ends, if that is known.
    pub end: Option<DateTime<Utc>>,
    /// The total without the correction.
    pub before: i64,
    /// The total with it.
    pub after: i64,
}

impl CorrectedTotal {
    fn from_wire(total: proto::CorrectedTotal) -> Result<Self, Error> {
        let period = total.period.unwrap_or_default();
        Ok(Self {
            start: wire::optional_time(period.start, "totals.period.start")?,
            end: wire::optional_time(period.end, "totals.period.end")?,
            before: total.before,
            after: total.after,
        })
    }
}

impl Corrected {
    pub(crate) fn from_wire(
        response: proto::CorrectResponse,
        key: Option<String>,
    ) -> Result<Self, Error> {
        Ok(Self {
            report: UsageReport::required_from_wire(response.report)?,
            duplicate: response.duplicate,
            key,
            totals: response
                .totals
                .into_iter()
                .map(CorrectedTotal::from_wire)
                .collect::<Result<_, _>>()?,
        })
    }
}
