//! What a failed request means: whether Stripe may have done it, whether a repetition helps, and what has to be fixed.
//! A 401 or 403 is [`Failure::Denied`]: the sender then pauses (`workers/send_event.rs`), because every request would
//! fail.

use super::transport::{NO_MESSAGE, RequestError, truncate};
use crate::{
    metrics,
    planted_defects::{Defect, planted},
};

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Stripe could not be reached, so it surely has not done it. Repeat the request.
    NotSent(String),
    /// No definite answer: Stripe may or may not have done it. Repeat the request.
    NoAnswer(String),
    /// Stripe has the object, but not as it is expected. Until it is changed there, or this service, so is every answer.
    Unreadable(String),
    /// The key is invalid or lacks a permission: every request fails until that is fixed.
    Denied(String),
    /// No active meter has this event name: every event of the meter fails until that is fixed.
    NoMeter(String),
    /// The customer does not exist or was deleted.
    NoCustomer(String),
    /// The request's key was used before, with other content.
    KeyReused(String),
    /// Refused: a repetition fails the same way. With Stripe's code and message.
    Refused(String),
}

impl Failure {
    /// Stripe has the object, but not as it is expected. Counted.
    pub(super) fn unreadable(why: &str) -> Self {
        // Stripe's ids are in it.
        let failure = Self::Unreadable(truncate(why));
        metrics::stripe_failure(failure.name());
        failure
    }

    /// The failure's name in metrics.
    fn name(&self) -> &'static str {
        match self {
            Self::NotSent(_) => "not_sent",
            Self::NoAnswer(_) => "no_answer",
            Self::Unreadable(_) => "unreadable",
            Self::Denied(_) => "denied",
            Self::NoMeter(_) => "no_meter",
            Self::NoCustomer(_) => "no_customer",
            Self::KeyReused(_) => "key_reused",
            Self::Refused(_) => "refused",
        }
    }

    /// Whether there is no answer of Stripe that decides: a repetition may succeed.
    pub(crate) fn is_undecided(&self) -> bool {
        matches!(
            self,
            Self::NotSent(_) | Self::NoAnswer(_) | Self::Unreadable(_)
        )
    }

    /// What went wrong, with Stripe's message.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::NotSent(message)
            | Self::NoAnswer(message)
            | Self::Unreadable(message)
            | Self::Denied(message)
            | Self::NoMeter(message)
            | Self::NoCustomer(message)
            | Self::KeyReused(message)
            | Self::Refused(message) => message,
        }
    }
}

/// Whether an answer with this status decides nothing: Stripe is busy, fails, or gets too many requests.
pub(super) fn is_undecided_status(status: u16) -> bool {
    matches!(status, 409 | 429 | 500..)
}

/// Whether the error says that the object does not exist. Not any 404 does: a wrong base URL has one too.
pub(super) fn is_missing_object(error: &RequestError) -> bool {
    matches!(error, RequestError::Answered { code, .. } if code == "resource_missing")
}

/// Whether the error is a 404, or says that the object does not exist.
pub(super) fn is_not_found(error: &RequestError) -> bool {
    is_missing_object(error) || matches!(error, RequestError::Answered { status: 404, .. })
}

pub(super) fn message_contains(error: &RequestError, text: &str) -> bool {
    matches!(error, RequestError::Answered { message, .. } if message.contains(text))
}

/// Whether the error has neither a code nor a message.
fn has_no_reason(error: &RequestError) -> bool {
    matches!(error, RequestError::Answered { code, message, .. } if code.is_empty() && message == NO_MESSAGE)
}

/// Classifies an error and counts it.
pub(super) fn failure(error: &RequestError) -> Failure {
    let failure = failure_of(error);
    metrics::stripe_failure(failure.name());
    failure
}

fn failure_of(error: &RequestError) -> Failure {
    let text = truncate(&error.to_string());
    let (status, code) = match error {
        RequestError::NotSent(_) => return Failure::NotSent(text),
        RequestError::InShadow(_) => return Failure::Refused(text),
        // A broken connection or an unreadable body may follow a success.
        RequestError::NoAnswer(_) | RequestError::Unreadable(_) => return Failure::NoAnswer(text),
        RequestError::Answered { status, code, .. } => (*status, code.as_str()),
    };
    match status {
        401 | 403 => Failure::Denied(text),
        429 if planted(Defect::RateLimitTakenForRefusal) => Failure::Refused(text),
        status if is_undecided_status(status) => Failure::NoAnswer(text),
        _ if matches!(code, "no_meter" | "archived_meter")
            || message_contains(error, "No active meter found") =>
        {
            Failure::NoMeter(text)
        }
        _ if message_contains(error, "Keys for idempotent requests") => Failure::KeyReused(text),
        _ if message_contains(error, "No such customer") => Failure::NoCustomer(text),
        400 if planted(Defect::RefusalTakenForNoAnswer) => Failure::NoAnswer(text),
        // Not Stripe's error, which says why: something on the way answered.
        400 if has_no_reason(error) => Failure::NoAnswer(text),
        400 => Failure::Refused(text),
        // For example the 404 of a wrong base URL, which does not depend on the request.
        _ => Failure::NoAnswer(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_400_without_a_reason_decides_nothing() {
        let of = |code: &str, message: &str| {
            failure_of(&RequestError::Answered {
                status: 400,
                code: code.to_owned(),
                message: message.to_owned(),
            })
        };
        assert!(of("", NO_MESSAGE).is_undecided());
        for refused in [of("parameter_missing", NO_MESSAGE), of("", "not a number")] {
            assert!(matches!(refused, Failure::Refused(_)), "{refused:?}");
        }
    }
}
