//! The styles of the pages. The address has a digest of them, so browsers keep them for good.

use std::sync::LazyLock;

use axum::{
    http::header,
    response::{IntoResponse as _, Response},
};
use sha2::{Digest as _, Sha256};

use crate::domain::{hex::hex, http_paths::HttpPath};

const STYLE: &str = include_str!("style.css");

static URL: LazyLock<String> = LazyLock::new(|| {
    let mut digest = hex(&Sha256::digest(STYLE.as_bytes()));
    digest.truncate(16);
    format!("{}?v={digest}", HttpPath::ConsoleStyle.name())
});

pub(super) fn url() -> &'static str {
    &URL
}

pub(super) fn answer() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/css; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, STYLE).into_response()
}
