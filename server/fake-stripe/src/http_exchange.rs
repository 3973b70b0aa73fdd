//! One request and its response with the headers that Stripe sends.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::Value;

use crate::errors::StripeError;
use crate::faults::CallSubject;
use crate::settings::API_VERSION;

/// The path that meter events are posted to.
const METER_EVENTS: &str = "/v1/billing/meter_events";

/// The part of a response that is the same when it is replayed; [`respond`] adds the rest.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
    pub(crate) content_type: &'static str,
    pub(crate) rate_limited: Option<&'static str>,
    /// Whether the endpoint had started, so that the response is stored under the idempotency key.
    pub(crate) started: bool,
    /// The request that this response was first sent to.
    pub(crate) request_id: String,
}

impl Answer {
    /// A JSON response of an endpoint that had started.
    pub(crate) fn json(status: u16, body: &Value, call: &Call) -> Answer {
        Answer {
            status,
            body: Bytes::from(body.to_string()),
            content_type: "application/json",
            rate_limited: None,
            started: true,
            request_id: call.request_id.clone(),
        }
    }

    /// An error in Stripe's error body.
    pub(crate) fn error(error: &StripeError, call: &Call) -> Answer {
        Answer {
            started: error.started,
            rate_limited: error.rate_limited,
            ..Answer::json(error.status, &error.body(&call.request_id), call)
        }
    }
}

/// One request with its decoded parameters.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) request_id: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) pairs: Vec<(String, String)>,
    /// The customer that the request names.
    pub(crate) customer: Option<String>,
    /// The event name that the request is about, or that of its meter.
    pub(crate) event_name: Option<String>,
}

impl Call {
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        find(&self.pairs, name)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn idempotency_key(&self) -> Option<&str> {
        self.header("idempotency-key").filter(|key| !key.is_empty())
    }

    pub(crate) fn is_meter_event(&self) -> bool {
        self.method == "POST" && self.path == METER_EVENTS
    }

    pub(crate) fn subject(&self) -> CallSubject<'_> {
        CallSubject {
            method: &self.method,
            path: &self.path,
            customer: self.customer.as_deref(),
            event_name: self.event_name.as_deref(),
        }
    }
}

/// The first value of a parameter, by its name with all brackets.
pub(crate) fn find<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

/// The HTML page of a gateway that got no response from Stripe.
pub(crate) fn bad_gateway(call: &Call) -> Answer {
    Answer {
        status: 502,
        body: Bytes::from_static(
            b"<html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>",
        ),
        content_type: "text/html",
        rate_limited: None,
        started: false,
        request_id: call.request_id.clone(),
    }
}

/// Adds the headers that Stripe sends with every answer.
pub(crate) fn respond(date: &str, answer: &Answer, call: &Call) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.body.clone()));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let mut put = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    put(header::CONTENT_TYPE, answer.content_type);
    put(header::DATE, date);
    put(HeaderName::from_static("request-id"), &call.request_id);
    let version = call
        .headers
        .get("stripe-version")
        .and_then(|version| version.to_str().ok());
    put(
        HeaderName::from_static("stripe-version"),
        version.unwrap_or(API_VERSION),
    );
    if let Some(key) = call.idempotency_key() {
        put(HeaderName::from_static("idempotency-key"), key);
        put(
            HeaderName::from_static("original-request"),
            &answer.request_id,
        );
    }
    if answer.request_id != call.request_id {
        put(HeaderName::from_static("idempotent-replayed"), "true");
    }
    if let Some(reason) = answer.rate_limited {
        put(
            HeaderName::from_static("stripe-rate-limited-reason"),
            reason,
        );
    }
    match answer.status {
        401 => put(header::WWW_AUTHENTICATE, "Basic realm=\"Stripe\""),
        // In Stripe's libraries this header overrides their own retry rules.
        400 | 404 | 501 => put(HeaderName::from_static("stripe-should-retry"), "false"),
        _ => {}
    }
    response
}
