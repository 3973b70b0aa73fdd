//! Whether a form comes from a page of this console.

use axum::http::{HeaderMap, header, request::Parts};

use super::Place;
use crate::http::host_name;

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
    match (origin, host_name(&head.uri, headers)) {
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
}
