//! Which web pages may call the services: those of origins that a setting names, by default none.
//!
//! A page of another origin is refused, not only kept from reading the answer: without keys, any page that a developer looks at
//! could otherwise change what the service on the same machine stores.

use axum::{
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};

use crate::{config::Origin, error::Error};

/// How long a browser remembers what is allowed.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");
/// What clients of Connect and gRPC-Web send, and what names a request.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, content-encoding, connect-protocol-version, connect-timeout-ms, \
     connect-content-encoding, connect-accept-encoding, grpc-timeout, x-grpc-web, x-user-agent, x-request-id, traceparent",
);
/// What they read.
const ANSWER_HEADERS: HeaderValue = HeaderValue::from_static(
    "grpc-status, grpc-message, grpc-status-details-bin, content-encoding, connect-content-encoding, www-authenticate, \
     x-request-id",
);

/// The origins whose pages may call.
#[derive(Debug)]
pub(crate) struct Cors(Vec<Origin>);

/// Who asks.
pub(super) enum Asked {
    /// A program, or a page that is not of another origin as far as its browser says.
    ByNoPage,
    /// A page of this origin, which is allowed.
    ByAllowed(HeaderValue),
    /// A browser that asks what is allowed.
    Answered(Box<Response>),
    /// A page that may not ask.
    Refused(Error),
}

impl Cors {
    pub(crate) fn new(origins: Vec<Origin>) -> Self {
        Self(origins)
    }

    pub(super) fn check(&self, request: &Request) -> Asked {
        let headers = request.headers();
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Asked::ByNoPage;
        };
        let is_allowed = self
            .0
            .iter()
            .any(|known| known.as_bytes() == origin.as_bytes());
        if !is_allowed {
            let origin = String::from_utf8_lossy(origin.as_bytes());
            return Asked::Refused(Error::OriginNotAllowed(origin.into_owned()));
        }
        let is_preflight = request.method() == Method::OPTIONS
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !is_preflight {
            return Asked::ByAllowed(origin.clone());
        }
        let mut answer = StatusCode::NO_CONTENT.into_response();
        self.mark(&mut answer, Some(origin.clone()));
        let headers = answer.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        Asked::Answered(Box::new(answer))
    }

    /// Lets the page read an answer. With any origin set, answers differ by it.
    pub(super) fn mark(&self, answer: &mut Response, origin: Option<HeaderValue>) {
        if self.0.is_empty() {
            return;
        }
        let headers = answer.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
        }
    }
}
