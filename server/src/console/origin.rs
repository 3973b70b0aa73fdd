//! Whether a form comes from a page of this console, and whether a browser means this machine.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, header, request::Parts};

use super::{Place, calls::Failure};

const FETCH_SITE: &str = "sec-fetch-site";

/// Whether a request that changes something was sent by a page of this console, or by no browser at all. Browsers say where
/// a form comes from.
pub(super) fn is_own_form(head: &Parts) -> bool {
    let headers = &head.headers;
    if let Some(site) = headers.get(FETCH_SITE) {
        return site == "same-origin";
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let origin = origin.to_str().ok().and_then(|text| text.split_once("://"));
    match (origin, host(head)) {
        (Some((_, theirs)), Some(own)) => theirs.eq_ignore_ascii_case(&own),
        _ => false,
    }
}

/// Whether a browser speaks TLS, with this socket or with a proxy before it.
pub(super) fn is_secure(headers: &HeaderMap, place: Place) -> bool {
    let origin = headers.get(header::ORIGIN);
    let is_https = origin.is_some_and(|origin| origin.as_bytes().starts_with(b"https://"));
    place.is_tls || is_https
}

/// Whether a request without a key may be answered. A page of another site can give its own name the address of this machine,
/// and then read what is there: so a socket that only this machine reaches is asked by its own names.
pub(super) fn may_be_anyone(head: &Parts, place: Place) -> bool {
    !place.is_loopback || place.is_tls || host(head).is_some_and(|host| is_local_name(&host))
}

pub(super) fn foreign_name() -> Failure {
    Failure {
        status: StatusCode::MISDIRECTED_REQUEST,
        reason: "HOST_NOT_LOCAL".to_owned(),
        message: "without API keys, the console answers only at localhost, 127.0.0.1 and [::1]; \
                  create a key with `usage-server keys create` to use another name"
            .to_owned(),
        retry_after_secs: None,
    }
}

fn host(head: &Parts) -> Option<String> {
    // HTTP/2 has it in the address.
    let authority = head.uri.authority().map(ToString::to_string);
    authority.or_else(|| {
        let host = head.headers.get(header::HOST)?;
        host.to_str().ok().map(str::to_owned)
    })
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

    fn head(headers: &[(&str, &str)]) -> Parts {
        let mut builder = http::Request::builder().uri("/sign-in");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_form_of_another_origin_is_none_of_ours() {
        let host = ("host", "usage.example:8080");
        for (headers, is_own) in [
            (vec![host], true),
            (vec![host, ("origin", "https://usage.example:8080")], true),
            (vec![host, ("origin", "https://usage.example")], false),
            (vec![host, ("origin", "https://evil.example")], false),
            (vec![host, ("origin", "null")], false),
            (vec![("origin", "https://usage.example:8080")], false),
            (vec![host, ("sec-fetch-site", "same-origin")], true),
            (vec![host, ("sec-fetch-site", "same-site")], false),
            (vec![host, ("sec-fetch-site", "cross-site")], false),
            (vec![host, ("sec-fetch-site", "none")], false),
        ] {
            assert_eq!(is_own_form(&head(&headers)), is_own, "{headers:?}");
        }
    }

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
