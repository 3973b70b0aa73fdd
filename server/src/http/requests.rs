//! Names each request of HTTP: in its answer, and in each line of the log that it causes.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use tracing::Instrument as _;

use crate::{
    domain::http_paths::HttpPath,
    request_context::{REQUEST_ID, RequestContext},
    request_log::RequestLog,
};

/// Handles a request in its context. Around everything else, so that each answer has an id.
pub(super) async fn name_request(
    State(log): State<RequestLog>,
    mut request: Request,
    next: Next,
) -> Response {
    let context = RequestContext::of(request.headers());
    // What is not known can be any text.
    let path = HttpPath::find(request.uri().path());
    let span = context.span(path.map_or("unknown", HttpPath::name));
    let header = context.header();
    let mut open = log.begin(span.clone());
    request.extensions_mut().insert(context.clone());
    let handling = context.scope(next.run(request)).instrument(span);
    let mut answer = handling.await;
    open.end(answer.status().as_str());
    let header = header.map(|value| (REQUEST_ID, value));
    answer.headers_mut().extend(header);
    answer
}
