//! Corrections: what an admin adds to or takes from usage, and what comes back.

use crate::{Error, UsageReport, increment::Key, proto, wire};
use chrono::{DateTime, Utc};

/// A correction of an account's usage: a report of its own, which Stripe gets as its own meter event. What was
/// counted is never edited.
///
/// ```
/// use usage_client::Correct;
///
/// let refund = Correct::new("acct_42", -1_200, "counted twice by a faulty worker").meter("tokens");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is corrected before it is sent"]
pub struct Correct {
    account_id: String,
    meter: String,
    quantity: i64,
    reason: String,
    time: Option<DateTime<Utc>>,
    requested_by: String,
    key: Key,
}

impl Correct {
    /// Adds a quantity to the account's usage, or takes it away where it is below zero: not 0, and at most
    /// 1,000,000,000,000 either way. The reason, of 1 to 500 characters, is kept and shown.
    pub fn new(account_id: impl Into<String>, quantity: i64, reason: impl Into<String>) -> Self {
        Self {
            account_id: account_id.into(),
            meter: String::new(),
            quantity,
            reason: reason.into(),
            time: None,
            requested_by: String::new(),
            key: Key::Unset,
        }
    }

    /// Which meter; the default one unless given.
    pub fn meter(mut self, meter: impl Into<String>) -> Self {
        self.meter = meter.into();
        self
    }

    /// The moment it belongs to, and with it the billing period: at most 34 days ago and 5 minutes ahead. Left
    /// out, it is the moment in which the server enters it.
    pub fn time(mut self, time: impl Into<DateTime<Utc>>) -> Self {
        self.time = Some(time.into());
        self
    }

    /// Who enters it, at most 128 characters; the caller's address unless given.
    pub fn requested_by(mut self, requested_by: impl Into<String>) -> Self {
        self.requested_by = requested_by.into();
        self
    }

    /// The caller's own name for this correction, at most 255 bytes: within an account the same name enters
    /// once. Left out, the client mints a UUID of version 7.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Key::Is(key.into());
        self
    }

    /// The key it will be sent with, minted now unless there is one.
    ///
    /// Ask for it before the first attempt where the key must outlive this process, or where a clone is sent
    /// again after a failure.
    pub fn ensure_key(&mut self) -> Option<&str> {
        self.key.ensure()
    }

    pub(crate) fn into_wire(self) -> Result<proto::CorrectRequest, Error> {
        let time = self.time.map(|time| wire::time_to_wire(time, "time"));
        Ok(proto::CorrectRequest {
            account_id: self.account_id,
            meter: self.meter,
            quantity: self.quantity,
            reason: self.reason,
            time: time.transpose()?,
            requested_by: self.requested_by,
            idempotency_key: self.key.into_wire()?,
        })
    }
}

/// A correction that was entered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Corrected {
    /// The correction.
    pub report: UsageReport,
    /// The key had entered it before; this call entered nothing.
    pub duplicate: bool,
    /// The key that it was sent with.
    pub key: Option<String>,
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
        })
    }
}
