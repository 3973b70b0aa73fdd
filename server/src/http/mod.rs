//! HTTP: Stripe's webhooks, health and metrics.

mod connections;
mod requests;
mod webhook_event;
mod webhook_signature;
mod webhooks;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use self::webhooks::{Webhooks, receive_webhook};
use crate::{
    authentication::Authenticator,
    clock::Clock,
    connections::{Activity, LimitedListener, Places, Protocol, Security},
    domain::{access::Requirement, method_roles::http_requirement},
    error::Error,
    metrics::{self, Exporter},
    readiness::Readiness,
    request_log::RequestLog,
    store::Store,
    workers::wake::Wake,
};

/// Open connections of a socket. A new one takes the place of the longest silent one.
const MAX_CONNECTIONS: usize = 512;
/// And of one address, where that is limited.
const MAX_OF_ADDRESS: usize = 256;

/// What the HTTP handlers need.
pub(crate) struct Http {
    pub(crate) store: Store,
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) clock: Clock,
    /// The signing secrets of the webhook endpoint; all are valid.
    pub(crate) webhook_secrets: Vec<String>,
    /// Wakes the job that reads a webhook's object from Stripe.
    pub(crate) webhook_stored: Wake,
    /// Which requests have a line in the log.
    pub(crate) requests: RequestLog,
    /// Who asks for metrics.
    pub(crate) authenticator: Authenticator,
    /// The connections that one address may have, if that is limited.
    pub(crate) connections_of_address: Option<usize>,
}

/// Which paths a socket serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paths {
    /// Webhooks, health and metrics.
    All,
    /// Health and metrics.
    WithoutWebhooks,
    /// Health and metrics, for everyone who reaches the socket.
    Metrics,
    /// Webhooks alone.
    Webhooks,
}

struct Shared {
    readiness: Arc<Readiness>,
    requests: RequestLog,
    exporter: Option<Exporter>,
    authenticator: Authenticator,
    webhooks: Webhooks,
    places: Places,
}

/// Serves HTTP on any number of sockets.
#[derive(Clone)]
pub(crate) struct HttpServer(Arc<Shared>);

impl HttpServer {
    /// Without an exporter, no socket shows metrics.
    pub(crate) fn new(http: Http, exporter: Option<Exporter>) -> Self {
        let of_address = http.connections_of_address;
        Self(Arc::new(Shared {
            places: Places {
                all: MAX_CONNECTIONS,
                of_address: of_address.map(|limit| limit.min(MAX_OF_ADDRESS)),
            },
            readiness: Arc::clone(&http.readiness),
            requests: http.requests.clone(),
            exporter,
            authenticator: http.authenticator.clone(),
            webhooks: Webhooks::new(http),
        }))
    }

    /// Serves a socket until the token is cancelled, then finishes the requests in progress.
    ///
    /// # Errors
    /// The socket fails.
    pub(crate) async fn serve(
        &self,
        listener: TcpListener,
        security: Security,
        paths: Paths,
        shutdown: &CancellationToken,
    ) -> std::io::Result<()> {
        let address = listener.local_addr()?;
        tracing::info!(%address, ?paths, "serving HTTP");
        let listener = LimitedListener::new(listener, Protocol::Http1, security, self.0.places);
        let closing = listener.close_unwanted();
        tokio::select! {
            never = closing => match never {},
            () = connections::serve(listener, self.router(paths), shutdown) => Ok(()),
        }
    }

    fn router(&self, paths: Paths) -> Router {
        let mut router = Router::new();
        if matches!(paths, Paths::All | Paths::Webhooks) {
            router = router.route("/webhooks/stripe", post(receive_webhook));
        }
        if paths != Paths::Webhooks {
            router = router
                .route("/health/live", get(async || "live\n"))
                .route("/health/ready", get(show_ready))
                .route("/metrics", get(show_metrics));
        }
        let mut router = router.fallback(async || (StatusCode::NOT_FOUND, "not found\n"));
        // What is public looks no key up.
        if matches!(paths, Paths::All | Paths::WithoutWebhooks) {
            let check = middleware::from_fn_with_state(Arc::clone(&self.0), check_access);
            router = router.layer(check);
        }
        router
            .layer(CatchPanicLayer::custom(panicked))
            .layer(middleware::from_fn_with_state(
                self.0.requests.clone(),
                requests::name_request,
            ))
            .with_state(Arc::clone(&self.0))
    }
}

/// Passes a request on if its path demands nothing, or its caller has the role.
async fn check_access(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let requirement = match http_requirement(request.uri().path()) {
        None => return (StatusCode::NOT_FOUND, "not found\n").into_response(),
        Some(Requirement::Nothing) => return next.run(request).await,
        Some(requirement) => requirement,
    };
    let connection = request.extensions().get::<Arc<Activity>>().cloned();
    let certificate = connection.as_ref().and_then(|of| of.client_certificate());
    let authenticator = &shared.authenticator;
    let caller = authenticator
        .authenticate(request.headers(), certificate)
        .await;
    let allowed = caller.and_then(|caller| {
        caller
            .check_role(requirement)
            .and_then(|()| caller.check_everything())
            .map_err(Error::PermissionDenied)
    });
    match allowed {
        Ok(()) => next.run(request).await,
        Err(error) => {
            let status = match error {
                Error::Unauthenticated => StatusCode::UNAUTHORIZED,
                Error::PermissionDenied(_) => StatusCode::FORBIDDEN,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, format!("{error}\n")).into_response()
        }
    }
}

async fn show_metrics(State(shared): State<Arc<Shared>>) -> Response {
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    let Some(exporter) = &shared.exporter else {
        return (StatusCode::NOT_FOUND, "not found\n").into_response();
    };
    metrics::waiting_increments(shared.readiness.waiting_increments());
    ([(header::CONTENT_TYPE, TEXT)], exporter.render()).into_response()
}

/// One word, because anyone may ask. The log says why.
async fn show_ready(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    match shared.readiness.check().await {
        Ok(()) => (StatusCode::OK, "ready\n"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "unready\n"),
    }
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    // The panic is in the log.
    (StatusCode::INTERNAL_SERVER_ERROR, "internal error\n").into_response()
}
