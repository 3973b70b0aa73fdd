//! The styles of the pages. The address has a digest of them, so browsers keep them for good.

use std::sync::LazyLock;

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use sha2::{Digest as _, Sha256};

use crate::domain::{hex::hex, http_paths::HttpPath};

const STYLE: &str = include_str!("style.css");

/// The query that names these styles and no others.
static QUERY: LazyLock<String> = LazyLock::new(|| {
    let mut digest = hex(&Sha256::digest(STYLE.as_bytes()));
    digest.truncate(16);
    format!("v={digest}")
});
static URL: LazyLock<String> =
    LazyLock::new(|| format!("{}?{}", HttpPath::ConsoleStyle.name(), *QUERY));

/// The query of the same styles where there is no visitor.
static FORGETTING: LazyLock<String> = LazyLock::new(|| format!("{}&forget=pages", *QUERY));
static FORGETTING_URL: LazyLock<String> =
    LazyLock::new(|| format!("{}?{}", HttpPath::ConsoleStyle.name(), *FORGETTING));

pub(super) fn url() -> &'static str {
    &URL
}

/// The address for pages without a visitor. Its answer makes the browser forget the pages that it keeps for its button that
/// goes back. It has to come after the page that shows: of the page before, a browser decides only then what to keep.
pub(super) fn forgetting_url() -> &'static str {
    &FORGETTING_URL
}

/// The styles. Only at the address that has their digest, they never change.
pub(super) fn answer(query: Option<&str>) -> Response {
    let is_own = query == Some(QUERY.as_str());
    let caching = if is_own {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let headers = [
        (header::CONTENT_TYPE, "text/css; charset=utf-8"),
        (header::CACHE_CONTROL, caching),
    ];
    let mut answer = (headers, STYLE).into_response();
    if query == Some(FORGETTING.as_str()) {
        answer.headers_mut().insert(
            HeaderName::from_static("clear-site-data"),
            HeaderValue::from_static("\"cache\""),
        );
    }
    answer
}
