//! Stripe's error body, and the errors that several resources share. Messages are Stripe's own where they are known,
//! since some callers match on them. What Stripe would do and the fake Stripe cannot is an error of its own kind
//! ([`StripeError::unsupported`]), so that it is never taken for a mistake of the caller.

use std::borrow::Cow;
use std::fmt::Display;

use serde_json::{Map, Value, json};

/// The code of [`StripeError::unsupported`]; Stripe has no such code.
pub(crate) const UNSUPPORTED: &str = "fake_stripe_unsupported";

/// An error in Stripe's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StripeError {
    pub(crate) status: u16,
    /// One of the four types of Stripe's description: `api_error`, `card_error`, `idempotency_error`,
    /// `invalid_request_error`. Rate limits have the last type and the code `rate_limit`.
    pub(crate) kind: Cow<'static, str>,
    pub(crate) code: Option<Cow<'static, str>>,
    pub(crate) message: String,
    pub(crate) param: Option<String>,
    /// Whether the endpoint had started. Only then is the response stored under the idempotency key.
    pub(crate) started: bool,
    /// The `Stripe-Rate-Limited-Reason` header.
    pub(crate) rate_limited: Option<&'static str>,
}

impl StripeError {
    /// An error from the endpoint itself; stored under an idempotency key.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        StripeError {
            status: 400,
            kind: Cow::Borrowed("invalid_request_error"),
            code: None,
            message: message.into(),
            param: None,
            started: true,
            rate_limited: None,
        }
    }

    /// An error before the endpoint started, such as an invalid parameter; not stored.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        StripeError {
            started: false,
            ..StripeError::refused(message)
        }
    }

    /// What Stripe supports and the fake Stripe does not: 501, not stored under an idempotency key.
    pub(crate) fn unsupported(what: impl Display) -> Self {
        StripeError {
            kind: Cow::Borrowed("api_error"),
            ..StripeError::invalid(format!("fake-stripe does not support {what}"))
        }
        .status(501)
        .code(UNSUPPORTED)
    }

    /// Parameters that Stripe takes and the fake Stripe does not.
    pub(crate) fn unsupported_params(params: &[String]) -> Self {
        let first = params.first().cloned().unwrap_or_default();
        let noun = noun_for(params);
        StripeError::unsupported(format!("the {noun} {}", params.join(", "))).param(first)
    }

    pub(crate) fn is_unsupported(&self) -> bool {
        self.code.as_deref() == Some(UNSUPPORTED)
    }

    pub(crate) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(Cow::Borrowed(code));
        self
    }

    pub(crate) fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    pub(crate) fn missing_param(param: &str) -> Self {
        StripeError::invalid(format!("Missing required param: {param}."))
            .code("parameter_missing")
            .param(param)
    }

    pub(crate) fn unknown_param(params: &[String]) -> Self {
        let first = params.first().cloned().unwrap_or_default();
        let noun = noun_for(params);
        StripeError::invalid(format!("Received unknown {noun}: {}", params.join(", ")))
            .code("parameter_unknown")
            .param(first)
    }

    /// A retrieval, update or deletion of an object that does not exist.
    pub(crate) fn no_such(what: &str, id: &str) -> Self {
        StripeError::refused(format!("No such {what}: '{id}'"))
            .status(404)
            .code("resource_missing")
            .param("id")
    }

    pub(crate) fn no_such_url(method: &str, path: &str) -> Self {
        StripeError::invalid(format!(
            "Unrecognized request URL ({method}: {path}). If you are trying to list objects, remove the trailing \
             slash. If you are trying to retrieve an object, make sure you passed a valid (non-empty) identifier in \
             your code. Please see https://stripe.com/docs or we can help at https://support.stripe.com/."
        ))
        .status(404)
    }

    pub(crate) fn rate_limit() -> Self {
        let mut error = StripeError::invalid(
            "Request rate limit exceeded. Learn more about rate limits here https://stripe.com/docs/rate-limits.",
        )
        .status(429)
        .code("rate_limit");
        error.rate_limited = Some("endpoint-rate");
        error
    }

    pub(crate) fn lock_timeout() -> Self {
        StripeError::invalid(
            "This object cannot be accessed right now because another API request or Stripe process is currently \
             accessing it. If you see this error intermittently, retry the request. If you see this error frequently \
             and are making multiple concurrent requests to a single object, make your requests serially or at a \
             lower rate.",
        )
        .status(429)
        .code("lock_timeout")
    }

    /// The response body, an object with the field `error`.
    pub(crate) fn body(&self, request_id: &str) -> Value {
        let mut error = Map::new();
        if let Some(code) = &self.code {
            error.insert("code".to_owned(), json!(code));
            if code != UNSUPPORTED {
                let page = code.replace('_', "-");
                error.insert(
                    "doc_url".to_owned(),
                    json!(format!("https://stripe.com/docs/error-codes/{page}")),
                );
            }
        }
        error.insert("message".to_owned(), json!(self.message));
        if let Some(param) = &self.param {
            error.insert("param".to_owned(), json!(param));
        }
        error.insert(
            "request_log_url".to_owned(),
            json!(format!(
                "https://dashboard.stripe.com/test/logs/{request_id}"
            )),
        );
        error.insert("type".to_owned(), json!(self.kind));
        json!({ "error": error })
    }
}

fn noun_for(params: &[String]) -> &'static str {
    if params.len() == 1 {
        "parameter"
    } else {
        "parameters"
    }
}
