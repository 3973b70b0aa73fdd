//! Where a request comes from, as browsers say: a page of this console, or another site.

use axum::http::{HeaderMap, StatusCode, header, request::Parts};

use super::{Place, calls::Failure};
use crate::http::host_name;

const FETCH_SITE: &str = "sec-fetch-site";
const FETCH_MODE: &str = "sec-fetch-mode";
const FETCH_DEST: &str = "sec-fetch-dest";

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

/// Whether a browser says at all where a request comes from.
pub(super) fn says_where_from(head: &Parts) -> bool {
    let headers = &head.headers;
    headers.contains_key(FETCH_SITE) || headers.contains_key(header::ORIGIN)
}

/// Whether no page of another site asks: a page of this console, whoever types an address, or no browser at all.
pub(super) fn is_own_request(headers: &HeaderMap) -> bool {
    let site = headers.get(FETCH_SITE);
    site.is_none_or(|site| site == "same-origin" || site == "none")
}

/// Whether a request may show what a session sees: one of our own, or a link of another site that was followed. What other
/// sites load into their pages may not.
pub(super) fn may_show(headers: &HeaderMap) -> bool {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
    is_own_request(headers) || is(FETCH_MODE, "navigate") && is(FETCH_DEST, "document")
}

pub(super) fn foreign_page() -> Failure {
    Failure {
        status: StatusCode::FORBIDDEN,
        reason: "FOREIGN_PAGE".to_owned(),
        message: "a page of another site may link to this page, and not load it".to_owned(),
        retry_after_secs: None,
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
    #[test]
    fn links_of_other_sites_are_followed_and_nothing_else_of_them() {
        let navigate = ("sec-fetch-mode", "navigate");
        let document = ("sec-fetch-dest", "document");
        let site = |site| ("sec-fetch-site", site);
        for (headers, may, is_own) in [
            (vec![], true, true),
            (vec![site("same-origin")], true, true),
            (vec![site("none"), navigate, document], true, true),
            (vec![site("cross-site"), navigate, document], true, false),
            (vec![site("same-site"), navigate, document], true, false),
            (vec![site("cross-site"), document], false, false),
            (vec![site("cross-site"), navigate], false, false),
            (
                vec![site("same-site"), navigate, ("sec-fetch-dest", "iframe")],
                false,
                false,
            ),
            (vec![site("what"), ("sec-fetch-mode", "cors")], false, false),
        ] {
            let head = head(&headers);
            assert_eq!(may_show(&head.headers), may, "{headers:?}");
            assert_eq!(is_own_request(&head.headers), is_own, "{headers:?}");
        }
    }
}
