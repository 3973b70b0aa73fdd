//! The styles of the pages. The address has a digest of them, so browsers keep them for good.

use std::sync::LazyLock;

use axum::{
    http::header,
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

pub(super) fn url() -> &'static str {
    &URL
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
    (headers, STYLE).into_response()
}
