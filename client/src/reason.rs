//! The stable names of error reasons, the same for a whole call and for one item of a batch.

use crate::proto::ErrorReason;
use std::fmt;

/// Why a call, or one item of a batch, was rejected.
///
/// Reasons are stable: new ones may be added, none is renamed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// A field is missing or outside its limits.
    InvalidField,
    /// The meter is not configured; the message lists the configured meters.
    UnknownMeter,
    /// The time of the increment or correction is more than 34 days ago.
    TimestampTooOld,
    /// The time of the increment or correction is more than 5 minutes in the future.
    TimestampInFuture,
    /// The field is reserved for a future version.
    NotSupported,
    /// The period starts or ends inside a slot; the message names the nearest valid times.
    PeriodNotAligned,
    /// The response would contain more than 10,000 points.
    TooManyPoints,
    /// The page token is damaged or was issued for another filter.
    PageTokenInvalid,
    /// The idempotency key was used before with different content. Nothing was counted.
    KeyReused,
    /// The Stripe customer is linked to another account.
    CustomerTaken,
    /// The account has changed since its etag was read.
    EtagMismatch,
    /// The account does not exist.
    AccountNotFound,
    /// No report run has this id.
    RunNotFound,
    /// The server's queue is full. Nothing was counted.
    Overloaded,
    /// The database did not respond. The call may have taken effect.
    DatabaseUnavailable,
    /// The server is shutting down.
    ShuttingDown,
    /// The clocks around the server contradict each other, so nothing that depends on the time is done: repeat later.
    ClockInDoubt,
    /// The server has no Stripe key, so it does not report.
    ReportingDisabled,
    /// The call needs data from Stripe, and Stripe did not respond. Nothing was changed.
    StripeUnavailable,
    /// Another change of the account's subscription is in progress.
    ChangeInProgress,
    /// Stripe does not allow this change of the subscription, or the change would lose usage.
    SubscriptionNotChangeable,
    /// An admin must first resolve usage reports of the current billing period.
    UsageNeedsDecision,
    /// Stripe did not show all usage in time. Nothing was changed.
    ChangeTimedOut,
    /// No change of the account's subscription is in progress.
    NoChangeInProgress,
    /// An admin aborted the change. Nothing was changed.
    ChangeAborted,
    /// A bug in the server; its log contains the cause.
    Internal,
    /// The correction would make the total of its billing period negative.
    BelowZero,
    /// No usage report has this id.
    ReportNotFound,
    /// The account has no such difference with its invoices, or it has changed.
    DifferenceNotFound,
    /// No increment of the account has this idempotency key: it was not counted, or is no longer kept.
    IncrementNotFound,
    /// No billing period of the account is known at this time, or no line of this invoice.
    InvoiceNotFound,
    /// The report needs no decision, was resolved with another action, or cannot be billed as requested.
    NotResolvable,
    /// The deadline passed in the server. The call may have taken effect.
    DeadlineExceeded,
    /// The server could not read the message.
    MalformedMessage,
    /// The message is too large; send less in one call.
    MessageTooLarge,
    /// Stripe has no such customer, or it was deleted there.
    UnknownCustomer,
    /// Stripe has no such subscription, or it belongs to another customer.
    UnknownSubscription,
    /// The call has no valid API key.
    Unauthenticated,
    /// The API key's role does not suffice, or it is limited to other accounts or meters.
    PermissionDenied,
    /// No API key has this id.
    ApiKeyNotFound,
    /// The key or certificate makes too many requests a second. Nothing was done.
    RateLimited,
    /// The message did not arrive at the server in time. Nothing was done.
    MessageTooSlow,
    /// The account was deleted less than 36 days ago. Nothing was counted or linked.
    AccountDeleted,
    /// The account cannot be deleted yet; the message says why.
    AccountNotDeletable,
    /// The month is not over, something of it is not final, or its rows contradict the ledger check.
    MonthNotClosed,
    /// The call is from a web page of an origin that may not call. Nothing was done.
    OriginNotAllowed,
    /// The server has no API key yet, and the call does not use a name of its own machine. Nothing was done.
    HostNotLocal,
    /// The server does not know the method, or the compression of the message.
    Unimplemented,
    /// A reason that this version of the client does not know.
    Unknown(String),
}

const PREFIX: &str = "ERROR_REASON_";

impl Reason {
    /// The name in `google.rpc.ErrorInfo`, such as `KEY_REUSED`.
    pub fn as_str(&self) -> &str {
        if let Self::Unknown(name) = self {
            return name;
        }
        let known = KNOWN.iter().find(|(_, reason)| reason == self);
        known.map_or("", |(wire, _)| short_name(*wire))
    }

    /// The reason in a `google.rpc.ErrorInfo`.
    pub(crate) fn from_name(name: &str) -> Self {
        let known = KNOWN.iter().find(|(wire, _)| short_name(*wire) == name);
        known.map_or_else(
            || Self::Unknown(name.to_owned()),
            |(_, reason)| reason.clone(),
        )
    }

    /// The reason in a result of a batch.
    pub(crate) fn from_number(number: i32) -> Self {
        let known = KNOWN.iter().find(|(wire, _)| i32::from(*wire) == number);
        known.map_or_else(
            || Self::Unknown(number.to_string()),
            |(_, reason)| reason.clone(),
        )
    }
}

/// The reasons of the proto that this version knows.
static KNOWN: [(ErrorReason, Reason); 48] = [
    (ErrorReason::InvalidField, Reason::InvalidField),
    (ErrorReason::UnknownMeter, Reason::UnknownMeter),
    (ErrorReason::TimestampTooOld, Reason::TimestampTooOld),
    (ErrorReason::TimestampInFuture, Reason::TimestampInFuture),
    (ErrorReason::NotSupported, Reason::NotSupported),
    (ErrorReason::PeriodNotAligned, Reason::PeriodNotAligned),
    (ErrorReason::TooManyPoints, Reason::TooManyPoints),
    (ErrorReason::PageTokenInvalid, Reason::PageTokenInvalid),
    (ErrorReason::KeyReused, Reason::KeyReused),
    (ErrorReason::CustomerTaken, Reason::CustomerTaken),
    (ErrorReason::EtagMismatch, Reason::EtagMismatch),
    (ErrorReason::AccountNotFound, Reason::AccountNotFound),
    (ErrorReason::RunNotFound, Reason::RunNotFound),
    (ErrorReason::Overloaded, Reason::Overloaded),
    (ErrorReason::RateLimited, Reason::RateLimited),
    (ErrorReason::MessageTooSlow, Reason::MessageTooSlow),
    (
        ErrorReason::DatabaseUnavailable,
        Reason::DatabaseUnavailable,
    ),
    (ErrorReason::ShuttingDown, Reason::ShuttingDown),
    (ErrorReason::ClockInDoubt, Reason::ClockInDoubt),
    (ErrorReason::ReportingDisabled, Reason::ReportingDisabled),
    (ErrorReason::StripeUnavailable, Reason::StripeUnavailable),
    (ErrorReason::ChangeInProgress, Reason::ChangeInProgress),
    (
        ErrorReason::SubscriptionNotChangeable,
        Reason::SubscriptionNotChangeable,
    ),
    (ErrorReason::UsageNeedsDecision, Reason::UsageNeedsDecision),
    (ErrorReason::ChangeTimedOut, Reason::ChangeTimedOut),
    (ErrorReason::NoChangeInProgress, Reason::NoChangeInProgress),
    (ErrorReason::ChangeAborted, Reason::ChangeAborted),
    (ErrorReason::Internal, Reason::Internal),
    (ErrorReason::BelowZero, Reason::BelowZero),
    (ErrorReason::ReportNotFound, Reason::ReportNotFound),
    (ErrorReason::DifferenceNotFound, Reason::DifferenceNotFound),
    (ErrorReason::IncrementNotFound, Reason::IncrementNotFound),
    (ErrorReason::InvoiceNotFound, Reason::InvoiceNotFound),
    (ErrorReason::MonthNotClosed, Reason::MonthNotClosed),
    (ErrorReason::OriginNotAllowed, Reason::OriginNotAllowed),
    (ErrorReason::HostNotLocal, Reason::HostNotLocal),
    (ErrorReason::NotResolvable, Reason::NotResolvable),
    (ErrorReason::DeadlineExceeded, Reason::DeadlineExceeded),
    (ErrorReason::MalformedMessage, Reason::MalformedMessage),
    (ErrorReason::MessageTooLarge, Reason::MessageTooLarge),
    (ErrorReason::Unimplemented, Reason::Unimplemented),
    (ErrorReason::UnknownCustomer, Reason::UnknownCustomer),
    (
        ErrorReason::UnknownSubscription,
        Reason::UnknownSubscription,
    ),
    (ErrorReason::Unauthenticated, Reason::Unauthenticated),
    (ErrorReason::PermissionDenied, Reason::PermissionDenied),
    (ErrorReason::ApiKeyNotFound, Reason::ApiKeyNotFound),
    (ErrorReason::AccountDeleted, Reason::AccountDeleted),
    (
        ErrorReason::AccountNotDeletable,
        Reason::AccountNotDeletable,
    ),
];

fn short_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix(PREFIX).unwrap_or(name)
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
    fn every_proto_reason_is_known_by_name_and_number() {
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
        assert_eq!(known, 48);
    }

    #[test]
    fn reason_of_a_newer_server_keeps_its_name() {
        assert_eq!(Reason::from_name("TOO_BLUE").as_str(), "TOO_BLUE");
        assert_eq!(Reason::from_number(4711).as_str(), "4711");
        assert_eq!(Reason::from_number(0), Reason::Unknown("0".to_owned()));
    }
}
