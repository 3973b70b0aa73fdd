//! Why something was refused, as a stable name; the same for a whole call and for one item of a
//! batch.

use crate::proto::ErrorReason;
use std::fmt;

/// Why a call, or one item of a batch, was refused.
///
/// Reasons are stable: new ones may come, none is renamed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// A field is missing or outside its limits.
    InvalidField,
    /// The meter is not configured; the message lists the ones that are.
    UnknownMeter,
    /// The increment's own time is more than 34 days old.
    TimestampTooOld,
    /// The increment's own time is more than 5 minutes ahead.
    TimestampInFuture,
    /// The feature is reserved and not built yet.
    NotSupported,
    /// An edge of the period lies inside a slot; the message names the nearest edges.
    PeriodNotAligned,
    /// The answer would hold more than 10,000 points.
    TooManyPoints,
    /// The page token is damaged or belongs to another filter.
    PageTokenInvalid,
    /// The idempotency key was used before with other content. Nothing was counted.
    KeyReused,
    /// The Stripe customer belongs to another account.
    CustomerTaken,
    /// The account changed since the etag was read.
    EtagMismatch,
    /// Nobody has put this account.
    AccountNotFound,
    /// There is no report run with this id.
    RunNotFound,
    /// The server has as much work waiting as it accepts. It counted nothing.
    Overloaded,
    /// The database did not answer. The call may have taken effect.
    DatabaseUnavailable,
    /// The server is stopping.
    ShuttingDown,
    /// The server runs without a Stripe key, so it reports nothing.
    ReportingDisabled,
    /// Stripe did not answer, and the call needs to know what it says. Nothing was changed.
    StripeUnavailable,
    /// Another change of the account's subscription is under way.
    ChangeUnderWay,
    /// Stripe cannot do this to the subscription, or usage would be lost.
    SubscriptionNotChangeable,
    /// An admin has to decide on usage reports of the present period first.
    UsageUndecided,
    /// Usage did not show at Stripe in time. Nothing was changed.
    ChangeTimedOut,
    /// A defect of the server; its log has the cause.
    Internal,
    /// The correction would take its billing period below zero.
    BelowZero,
    /// There is no usage report with this id.
    ReportNotFound,
    /// There is nothing to decide on the report, or it was decided otherwise.
    NotResolvable,
    /// A reason that this version of the client does not know.
    Unknown(String),
}

const PREFIX: &str = "ERROR_REASON_";

impl Reason {
    /// The name on the wire, such as `KEY_REUSED`.
    pub fn as_str(&self) -> &str {
        let known = match self {
            Self::InvalidField => ErrorReason::InvalidField,
            Self::UnknownMeter => ErrorReason::UnknownMeter,
            Self::TimestampTooOld => ErrorReason::TimestampTooOld,
            Self::TimestampInFuture => ErrorReason::TimestampInFuture,
            Self::NotSupported => ErrorReason::NotSupported,
            Self::PeriodNotAligned => ErrorReason::PeriodNotAligned,
            Self::TooManyPoints => ErrorReason::TooManyPoints,
            Self::PageTokenInvalid => ErrorReason::PageTokenInvalid,
            Self::KeyReused => ErrorReason::KeyReused,
            Self::CustomerTaken => ErrorReason::CustomerTaken,
            Self::EtagMismatch => ErrorReason::EtagMismatch,
            Self::AccountNotFound => ErrorReason::AccountNotFound,
            Self::RunNotFound => ErrorReason::RunNotFound,
            Self::Overloaded => ErrorReason::Overloaded,
            Self::DatabaseUnavailable => ErrorReason::DatabaseUnavailable,
            Self::ShuttingDown => ErrorReason::ShuttingDown,
            Self::ReportingDisabled => ErrorReason::ReportingDisabled,
            Self::StripeUnavailable => ErrorReason::StripeUnavailable,
            Self::ChangeUnderWay => ErrorReason::ChangeUnderWay,
            Self::SubscriptionNotChangeable => ErrorReason::SubscriptionNotChangeable,
            Self::UsageUndecided => ErrorReason::UsageUndecided,
            Self::ChangeTimedOut => ErrorReason::ChangeTimedOut,
            Self::Internal => ErrorReason::Internal,
            Self::BelowZero => ErrorReason::BelowZero,
            Self::ReportNotFound => ErrorReason::ReportNotFound,
            Self::NotResolvable => ErrorReason::NotResolvable,
            Self::Unknown(name) => return name,
        };
        let name = known.as_str_name();
        name.strip_prefix(PREFIX).unwrap_or(name)
    }

    /// The reason in a `google.rpc.ErrorInfo`.
    pub(crate) fn from_name(name: &str) -> Self {
        ErrorReason::from_str_name(&format!("{PREFIX}{name}"))
            .and_then(Self::from_known)
            .unwrap_or_else(|| Self::Unknown(name.to_owned()))
    }

    /// The reason in a result of a batch.
    pub(crate) fn from_number(number: i32) -> Self {
        ErrorReason::try_from(number)
            .ok()
            .and_then(Self::from_known)
            .unwrap_or_else(|| Self::Unknown(number.to_string()))
    }

    fn from_known(reason: ErrorReason) -> Option<Self> {
        Some(match reason {
            ErrorReason::Unspecified => return None,
            ErrorReason::InvalidField => Self::InvalidField,
            ErrorReason::UnknownMeter => Self::UnknownMeter,
            ErrorReason::TimestampTooOld => Self::TimestampTooOld,
            ErrorReason::TimestampInFuture => Self::TimestampInFuture,
            ErrorReason::NotSupported => Self::NotSupported,
            ErrorReason::PeriodNotAligned => Self::PeriodNotAligned,
            ErrorReason::TooManyPoints => Self::TooManyPoints,
            ErrorReason::PageTokenInvalid => Self::PageTokenInvalid,
            ErrorReason::KeyReused => Self::KeyReused,
            ErrorReason::CustomerTaken => Self::CustomerTaken,
            ErrorReason::EtagMismatch => Self::EtagMismatch,
            ErrorReason::AccountNotFound => Self::AccountNotFound,
            ErrorReason::RunNotFound => Self::RunNotFound,
            ErrorReason::Overloaded => Self::Overloaded,
            ErrorReason::DatabaseUnavailable => Self::DatabaseUnavailable,
            ErrorReason::ShuttingDown => Self::ShuttingDown,
            ErrorReason::ReportingDisabled => Self::ReportingDisabled,
            ErrorReason::StripeUnavailable => Self::StripeUnavailable,
            ErrorReason::ChangeUnderWay => Self::ChangeUnderWay,
            ErrorReason::SubscriptionNotChangeable => Self::SubscriptionNotChangeable,
            ErrorReason::UsageUndecided => Self::UsageUndecided,
            ErrorReason::ChangeTimedOut => Self::ChangeTimedOut,
            ErrorReason::Internal => Self::Internal,
            ErrorReason::BelowZero => Self::BelowZero,
            ErrorReason::ReportNotFound => Self::ReportNotFound,
            ErrorReason::NotResolvable => Self::NotResolvable,
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_the_contract_is_known_by_name_and_by_number() {
        let known = (1..100)
            .filter_map(|number| ErrorReason::try_from(number).ok())
            .inspect(|reason| {
                let name = reason.as_str_name().strip_prefix(PREFIX).unwrap();
                let by_name = Reason::from_name(name);
                assert!(!matches!(by_name, Reason::Unknown(_)), "{name}");
                assert_eq!(by_name, Reason::from_number(i32::from(*reason)));
                assert_eq!(by_name.as_str(), name);
            })
            .count();
        assert_eq!(known, 26);
    }

    #[test]
    fn a_reason_from_a_newer_server_keeps_its_name() {
        assert_eq!(Reason::from_name("TOO_BLUE").as_str(), "TOO_BLUE");
        assert_eq!(Reason::from_number(4711).as_str(), "4711");
        assert_eq!(Reason::from_number(0), Reason::Unknown("0".to_owned()));
    }
}
