//! Why an input is rejected: one field, one reason, one sentence with the value and the limit.

/// The reason of a violation. The names are those of `usage.v1.ErrorReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A field is missing or outside its limits.
    InvalidField,
    /// The meter is not configured.
    UnknownMeter,
    /// The time is too long ago.
    TimestampTooOld,
    /// The time is too far in the future.
    TimestampInFuture,
    /// The field is reserved for a future version.
    NotSupported,
    /// The period starts or ends inside a slot.
    PeriodNotAligned,
    /// The response would contain too many points.
    TooManyPoints,
    /// The page token is damaged or belongs to another filter.
    PageTokenInvalid,
    /// The idempotency key was used for other content.
    KeyReused,
    /// Stripe has no such customer.
    UnknownCustomer,
    /// Stripe has no such subscription of the customer.
    UnknownSubscription,
    /// The caller's API key is limited to other accounts or meters.
    PermissionDenied,
    /// The account was deleted.
    AccountDeleted,
}

/// The name of each reason in the contract.
const NAMES: [(Reason, &str); 13] = [
    (Reason::InvalidField, "INVALID_FIELD"),
    (Reason::UnknownMeter, "UNKNOWN_METER"),
    (Reason::TimestampTooOld, "TIMESTAMP_TOO_OLD"),
    (Reason::TimestampInFuture, "TIMESTAMP_IN_FUTURE"),
    (Reason::NotSupported, "NOT_SUPPORTED"),
    (Reason::PeriodNotAligned, "PERIOD_NOT_ALIGNED"),
    (Reason::TooManyPoints, "TOO_MANY_POINTS"),
    (Reason::PageTokenInvalid, "PAGE_TOKEN_INVALID"),
    (Reason::KeyReused, "KEY_REUSED"),
    (Reason::UnknownCustomer, "UNKNOWN_CUSTOMER"),
    (Reason::UnknownSubscription, "UNKNOWN_SUBSCRIPTION"),
    (Reason::PermissionDenied, "PERMISSION_DENIED"),
    (Reason::AccountDeleted, "ACCOUNT_DELETED"),
];

impl Reason {
    /// The reason's name in the contract, such as `INVALID_FIELD`.
    pub fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(reason, _)| *reason == self)
            .map_or("INVALID_FIELD", |(_, name)| name)
    }

    /// The reason with a name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(reason, _)| *reason)
    }
}

/// One thing that is wrong with an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The stable reason.
    pub reason: Reason,
    /// The field at fault.
    pub field: String,
    /// What is wrong, with the value, the limit and what to do.
    pub message: String,
}

impl Violation {
    /// A violation of one field.
    pub fn new(reason: Reason, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason,
            field: field.into(),
            message: message.into(),
        }
    }

    /// A violation of a field that is missing or outside its limits.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Reason::InvalidField, field, message)
    }
}

/// A value in quotes, truncated so that it fits into an error message.
pub fn quoted(value: &str) -> String {
    const MAX_CHARS: usize = 64;
    let mut chars = value.chars();
    let head: String = chars.by_ref().take(MAX_CHARS).collect();
    if chars.next().is_some() {
        format!("{head:?} (shortened)")
    } else {
        format!("{head:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_that_leads_back_to_it() {
        for (reason, name) in NAMES {
            assert_eq!(reason.name(), name);
            assert_eq!(Reason::from_name(name), Some(reason));
        }
    }
}
