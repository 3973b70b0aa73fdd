//! The names of this machine, and which requests must use one of them.
//!
//! A page of another site can give its own name the address of this machine, and then call what is there and read the
//! answers. So while no caller needs a key, a socket that only this machine reaches is asked by its own names.

use std::net::IpAddr;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use serde_json::json;

use crate::{
    authentication::Authenticator,
    console::{self, Place},
    domain::http_paths::HttpPath,
    request_context::{REQUEST_ID, RequestContext},
};

const REFUSAL: &str = "HOST_NOT_LOCAL: without API keys, this server answers only at localhost, 127.0.0.1 and [::1]; \
                       create a key with `usage-server keys create` to use another name";

/// Refuses requests by names that are not those of this machine. Cheap to clone.
#[derive(Clone)]
pub(super) struct LocalNames {
    /// Absent if the socket answers at any name.
    authenticator: Option<Authenticator>,
}

impl LocalNames {
    pub(super) fn new(place: Place, authenticator: &Authenticator) -> Self {
        // No page of another site has a certificate for its name here.
        let is_open_to_pages = place.is_loopback && !place.is_tls;
        Self {
            authenticator: is_open_to_pages.then(|| authenticator.clone()),
        }
    }

    /// The refusal of a request, if it has to be refused.
    pub(super) fn check(
        &self,
        request: &Request,
        is_method: bool,
    ) -> impl Future<Output = Option<Response>> + use<> {
        let asked = self.authenticator.as_ref();
        let asked = asked.filter(|_| is_by_foreign_name(request)).cloned();
        let asked = asked.map(|of| (of, RequestContext::of(request.headers())));
        async move {
            let (authenticator, context) = asked?;
            match authenticator.lets_anyone_call().await {
                Ok(false) => None,
                Ok(true) => Some(refusal(&context, is_method)),
                Err(error) => Some(super::refusal(&error)),
            }
        }
    }
}

/// Whether a request asks for what is not for everyone by a name that is not one of this machine.
fn is_by_foreign_name(request: &Request) -> bool {
    let path = HttpPath::find(request.uri().path());
    let is_for_everyone = matches!(
        path,
        Some(HttpPath::Live | HttpPath::Ready | HttpPath::StripeWebhooks)
    );
    // Browsers always name a host.
    let host = host_name(request.uri(), request.headers());
    !is_for_everyone && host.is_some_and(|host| !is_local_name(&host))
}

/// The host that a request asks, with its port.
pub(crate) fn host_name(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    // HTTP/2 has it in the address.
    let authority = uri.authority().map(ToString::to_string);
    authority.or_else(|| {
        let host = headers.get(header::HOST)?;
        Some(String::from_utf8_lossy(host.as_bytes()).into_owned())
    })
}

fn refusal(context: &RequestContext, is_method: bool) -> Response {
    let (kind, text) = if is_method {
        let error = json!({ "code": "failed_precondition", "message": REFUSAL });
        ("application/json", error.to_string())
    } else {
        ("text/plain; charset=utf-8", format!("{REFUSAL}\n"))
    };
    let mut answer = (StatusCode::MISDIRECTED_REQUEST, Body::from(text)).into_response();
    console::protect(&mut answer);
    let id = context.header();
    let answer_headers: &mut HeaderMap = answer.headers_mut();
    answer_headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer_headers.extend(id.map(|id| (REQUEST_ID, id)));
    answer
}

fn is_local_name(host: &str) -> bool {
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if without_port.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let address = without_port.strip_prefix('[');
    let address = address.and_then(|rest| rest.strip_suffix(']'));
    let address: Option<IpAddr> = address.unwrap_or(without_port).parse().ok();
    address.is_some_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for local in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1",
            "127.0.0.1:8080",
            "127.9.9.9:1",
            "[::1]",
            "[::1]:8080",
        ] {
            assert!(is_local_name(local), "{local}");
        }
        for other in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8080",
            "10.0.0.1:8080",
            "[2001:db8::1]:8080",
            ":8080",
        ] {
            assert!(!is_local_name(other), "{other}");
        }
    }
}
