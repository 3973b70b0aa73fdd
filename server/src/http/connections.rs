//! The connections of a socket for HTTP.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::front::Front;
use crate::{
    client_address::ClientAddress,
    connections::{Connection, LimitedListener, Protocol},
    domain::trusted_proxies::TrustedProxies,
};

/// The largest head of a request, with all its headers. A larger one gets 431.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// The same for HTTP/2.
const MAX_HEADER_LIST_BYTES: u32 = 32 * 1024;
/// The most headers of a request over HTTP/1.
const MAX_HEADERS: usize = 64;
/// Calls that a caller resets before they begin, and those that are reset because of its errors, after which its connection
/// is closed.
const MAX_RESETS: usize = 20;
const MAX_ERROR_RESETS: usize = 100;
/// The interval of pings of HTTP/2. They find connections whose other end is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How connections are served.
#[derive(Clone)]
pub(super) enum Builder {
    Http1(http1::Builder),
    Any(Arc<auto::Builder<TokioExecutor>>),
}

impl Builder {
    pub(super) fn new(protocol: Protocol, streams_per_connection: u32) -> Self {
        if protocol == Protocol::Http1 {
            let mut builder = http1::Builder::new();
            builder
                .max_buf_size(MAX_HEAD_BYTES)
                .max_header_size(MAX_HEAD_BYTES)
                .max_headers(MAX_HEADERS);
            return Self::Http1(builder);
        }
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            // The head has to fit into it.
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .max_concurrent_streams(streams_per_connection)
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            .max_pending_accept_reset_streams(MAX_RESETS)
            .max_local_error_reset_streams(MAX_ERROR_RESETS);
        Self::Any(Arc::new(builder))
    }
}

/// Serves until the token is cancelled, then finishes the requests in progress. The proxies may say where a request comes from.
pub(super) async fn serve(
    mut listener: LimitedListener,
    front: Front,
    builder: Builder,
    proxies: TrustedProxies,
    shutdown: &CancellationToken,
) {
    let graceful = GracefulShutdown::new();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            connection = listener.accept() => {
                let (front, builder, proxies) = (front.clone(), builder.clone(), proxies.clone());
                let watcher = graceful.watcher();
                tasks.spawn(serve_connection(connection, front, builder, proxies, watcher));
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
    front: Front,
    builder: Builder,
    proxies: TrustedProxies,
    watcher: Watcher,
) {
    let activity = connection.activity();
    let service = service_fn(move |mut request: Request<Incoming>| {
        // With a request in progress, the connection keeps its place.
        let call = activity.begin_call();
        let address = ClientAddress::of(activity.peer(), request.headers(), &proxies);
        let extensions = request.extensions_mut();
        extensions.insert(Arc::clone(&activity));
        extensions.insert(address);
        let front = front.clone();
        async move {
            let answer = front.answer(request.map(Body::new)).await;
            drop(call);
            answer
        }
    });
    let connection = TokioIo::new(connection);
    let served = match &builder {
        Builder::Http1(builder) => {
            let serving = watcher.watch(builder.serve_connection(connection, service));
            serving.await.map_err(Into::into)
        }
        Builder::Any(builder) => {
            let serving = builder.serve_connection(connection, service);
            watcher.watch(serving).await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}
