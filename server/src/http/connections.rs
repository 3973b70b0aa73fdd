//! The connections of a socket for HTTP/1.

use std::sync::Arc;

use axum::{Router, body::Body, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::connections::{Connection, LimitedListener};

/// The largest head of a request, with all its headers. A larger one gets 431.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// The most headers of a request.
const MAX_HEADERS: usize = 64;

/// Serves until the token is cancelled, then finishes the requests in progress.
pub(super) async fn serve(
    mut listener: LimitedListener,
    router: Router,
    shutdown: &CancellationToken,
) {
    let graceful = GracefulShutdown::new();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            connection = listener.accept() => {
                tasks.spawn(serve_connection(connection, router.clone(), graceful.watcher()));
            }
            // Otherwise those that have ended would pile up.
            Some(_) = tasks.join_next() => {}
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

async fn serve_connection(
    connection: Connection,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let activity = connection.activity();
    let service = service_fn(move |mut request: Request<Incoming>| {
        // With a request in progress, the connection keeps its place.
        let call = activity.begin_call();
        request.extensions_mut().insert(Arc::clone(&activity));
        let router = router.clone();
        async move {
            let answer = router.oneshot(request.map(Body::new)).await;
            drop(call);
            answer
        }
    });
    let serving = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .max_header_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(connection), service);
    if let Err(error) = watcher.watch(serving).await {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}
