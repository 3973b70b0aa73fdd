//! Acknowledgements of differences between invoices and what was reported.

use crate::{Error, InvoiceComparison, proto, wire};
use chrono::{DateTime, Utc};

/// An acknowledgement of a difference, with its reason of 1 to 500 characters.
///
/// ```
/// use usage_client::AcknowledgeDifference;
///
/// let known = AcknowledgeDifference::new("acct_42", "1798761600000:...", "credited by hand")
///     .requested_by("ann");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is acknowledged until it is sent"]
pub struct AcknowledgeDifference {
    account_id: String,
    difference_id: String,
    reason: String,
    requested_by: String,
}

impl AcknowledgeDifference {
    /// Acknowledges the difference of an account with this [`InvoiceComparison::difference_id`].
    pub fn new(
        account_id: impl Into<String>,
        difference_id: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            account_id: account_id.into(),
            difference_id: difference_id.into(),
            reason: reason.into(),
            requested_by: String::new(),
        }
    }

    /// Who acknowledges it, at most 128 characters; by default the API key, or without one the caller's network address.
    pub fn requested_by(mut self, requested_by: impl Into<String>) -> Self {
        self.requested_by = requested_by.into();
        self
    }

    pub(crate) fn into_wire(self) -> proto::AcknowledgeDifferenceRequest {
        proto::AcknowledgeDifferenceRequest {
            account_id: self.account_id,
            difference_id: self.difference_id,
            reason: self.reason,
            requested_by: self.requested_by,
        }
    }
}

/// An acknowledged difference.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AcknowledgedDifference {
    /// The difference after the call.
    pub difference: InvoiceComparison,
    /// Whether it was acknowledged already; this call then changed nothing.
    pub duplicate: bool,
}

impl AcknowledgedDifference {
    pub(crate) fn from_wire(response: proto::AcknowledgeDifferenceResponse) -> Result<Self, Error> {
        Ok(Self {
            difference: InvoiceComparison::from_wire(response.difference.unwrap_or_default())?,
            duplicate: response.duplicate,
        })
    }
}

/// Who has acknowledged a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DifferenceAcknowledgement {
    /// Why.
    pub reason: String,
    /// Who.
    pub requested_by: String,
    /// When.
    pub acknowledged_at: DateTime<Utc>,
}

impl DifferenceAcknowledgement {
    pub(crate) fn from_wire(from: proto::DifferenceAcknowledgement) -> Result<Self, Error> {
        Ok(Self {
            reason: from.reason,
            requested_by: from.requested_by,
            acknowledged_at: wire::required_time(
                from.acknowledged_at,
                "acknowledged.acknowledged_at",
            )?,
        })
    }
}
