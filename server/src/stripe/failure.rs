//! What a failed request means: whether Stripe may have done it, whether a repetition helps, and what has to be fixed.
//! A 401 or 403 is [`Failure::Denied`]: the sender then pauses (`workers/sender.rs`), because every request would fail.

use stripe::StripeError;

use crate::metrics;

/// Messages from Stripe are truncated to this length.
const MAX_MESSAGE_CHARS: usize = 500;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No definite answer: Stripe may or may not have done it. Repeat the request.
    NoAnswer(String),
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
    /// The failure's name in metrics.
    fn name(&self) -> &'static str {
        match self {
            Self::NoAnswer(_) => "no_answer",
            Self::Denied(_) => "denied",
            Self::NoMeter(_) => "no_meter",
            Self::NoCustomer(_) => "no_customer",
            Self::KeyReused(_) => "key_reused",
            Self::Refused(_) => "refused",
        }
    }

    /// What went wrong, with Stripe's message.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::NoAnswer(message)
            | Self::Denied(message)
            | Self::NoMeter(message)
            | Self::NoCustomer(message)
            | Self::KeyReused(message)
            | Self::Refused(message) => message,
        }
    }
}

/// Whether the error says that the object does not exist. Not any 404 does: a wrong base URL has one too.
pub(super) fn is_missing_object(error: &StripeError) -> bool {
    matches!(error, StripeError::Stripe(api, _)
        if api.code.as_ref().is_some_and(|code| code.to_string() == "resource_missing"))
}

/// Whether the error is a 404, or says that the object does not exist.
pub(super) fn is_not_found(error: &StripeError) -> bool {
    is_missing_object(error) || matches!(error, StripeError::Stripe(_, 404))
}

pub(super) fn message_contains(error: &StripeError, text: &str) -> bool {
    let StripeError::Stripe(api, _) = error else {
        return false;
    };
    api.message
        .as_deref()
        .is_some_and(|message| message.contains(text))
}

/// Classifies an error and counts it.
pub(super) fn failure(error: &StripeError) -> Failure {
    let failure = failure_of(error);
    metrics::stripe_failure(failure.name());
    failure
}

fn failure_of(error: &StripeError) -> Failure {
    let StripeError::Stripe(api, status) = error else {
        // A broken connection or an unreadable body may follow a success.
        return Failure::NoAnswer(truncate(&error.to_string()));
    };
    let code = api
        .code
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let message = api.message.as_deref().unwrap_or("no message");
    let text = if code.is_empty() {
        truncate(&format!("Stripe answered {status}: {message}"))
    } else {
        truncate(&format!("Stripe answered {status} {code}: {message}"))
    };
    match status {
        401 | 403 => Failure::Denied(text),
        409 | 429 | 500.. => Failure::NoAnswer(text),
        _ if matches!(code.as_str(), "no_meter" | "archived_meter")
            || message_contains(error, "No active meter found") =>
        {
            Failure::NoMeter(text)
        }
        _ if message_contains(error, "Keys for idempotent requests") => Failure::KeyReused(text),
        _ if message_contains(error, "No such customer") => Failure::NoCustomer(text),
        400 => Failure::Refused(text),
        // For example the 404 of a wrong base URL, which does not depend on the request.
        _ => Failure::NoAnswer(text),
    }
}

pub(super) fn truncate(text: &str) -> String {
    text.chars().take(MAX_MESSAGE_CHARS).collect()
}
