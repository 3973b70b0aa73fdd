//! HTTP: the services as JSON and their description, the console, Stripe's webhooks, health and metrics.

mod connections;
pub(crate) mod cors;
mod front;
mod local_names;
mod requests;
mod webhook_event;
mod webhook_signature;
mod webhooks;

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::util::BoxCloneSyncService;
use tower_http::catch_panic::CatchPanicLayer;

pub(crate) use self::local_names::host_name;
use self::{
    cors::Cors,
    front::Front,
    local_names::LocalNames,
    webhooks::{Webhooks, receive_webhook},
};
use crate::{
    authentication::Authenticator,
    clock::Clock,
    connections::{Activity, LimitedListener, Places, Protocol, Security},
    console::{self, Console, Place, Stack},
    contract::Contract,
    domain::{
        access::Requirement,
        client_certificate::ClientCertificate,
        http_paths::{HttpPath, HttpSocket},
        trusted_proxies::TrustedProxies,
        window::Slots,
    },
    error::Error,
    metrics::{self, Exporter},
    readiness::Readiness,
    request_log::RequestLog,
    request_rates::RequestRates,
    store::Store,
    workers::wake::Wake,
};

/// Open connections of a socket. A new one takes the place of the longest silent one.
const MAX_CONNECTIONS: usize = 512;
/// And of one address, where that is limited.
const MAX_OF_ADDRESS: usize = 256;

/// The services over HTTP, which answer the paths of their methods.
pub(crate) type RpcService = BoxCloneSyncService<Request, Response, Infallible>;

/// The services over HTTP, and what belongs to them.
#[derive(Clone)]
pub(crate) struct RpcOverHttp {
    pub(crate) service: RpcService,
    /// Which web pages may call them.
    pub(crate) cors: Arc<Cors>,
    /// What they are.
    pub(crate) contract: Arc<Contract>,
    /// Concurrent requests on one connection of HTTP/2.
    pub(crate) streams_per_connection: u32,
}

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
    /// How often.
    pub(crate) rates: RequestRates,
    /// The connections that one address may have, if that is limited.
    pub(crate) connections_of_address: Option<usize>,
    /// Who may say where a request comes from.
    pub(crate) trusted_proxies: TrustedProxies,
}

impl Http {
    /// The console, whose pages call these services.
    pub(crate) fn console(&self, stack: Stack, slots: Slots, writes_without_key: bool) -> Console {
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let authenticator = self.authenticator.clone();
        Console::new(
            store,
            clock,
            authenticator,
            stack,
            slots,
            writes_without_key,
        )
    }
}

struct Shared {
    readiness: Arc<Readiness>,
    requests: RequestLog,
    exporter: Option<Exporter>,
    authenticator: Authenticator,
    rates: RequestRates,
    webhooks: Webhooks,
    rpc: RpcOverHttp,
    /// Absent if it is not served.
    console: Option<Arc<Console>>,
    places: Places,
    trusted_proxies: TrustedProxies,
}

/// Serves HTTP on any number of sockets.
#[derive(Clone)]
pub(crate) struct HttpServer(Arc<Shared>);

impl HttpServer {
    /// Without an exporter, no socket shows metrics.
    pub(crate) fn new(
        http: Http,
        exporter: Option<Exporter>,
        rpc: RpcOverHttp,
        console: Option<Console>,
    ) -> Self {
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
            rates: http.rates.clone(),
            trusted_proxies: http.trusted_proxies.clone(),
            webhooks: Webhooks::new(http),
            rpc,
            console: console.map(Arc::new),
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
        socket: HttpSocket,
        shutdown: &CancellationToken,
    ) -> std::io::Result<()> {
        let address = listener.local_addr()?;
        tracing::info!(%address, paths = ?socket, "serving HTTP");
        let place = Place {
            is_tls: matches!(security, Security::Tls(..)),
            is_loopback: address.ip().to_canonical().is_loopback(),
        };
        let (protocol, services) = if socket.has_services() {
            let rpc = &self.0.rpc;
            let services = front::Services {
                rpc: rpc.service.clone(),
                cors: Arc::clone(&rpc.cors),
                console: self.0.console.clone().map(|console| (console, place)),
            };
            (Protocol::Http, Some(services))
        } else {
            (Protocol::Http1, None)
        };
        let listener = LimitedListener::new(listener, protocol, security, self.0.places);
        let closing = listener.close_unwanted();
        let names = LocalNames::new(place, &self.0.authenticator);
        let contract = Arc::clone(&self.0.rpc.contract);
        let front = Front::new(self.router(socket, place), names, contract, services);
        let builder = connections::Builder::new(protocol, self.0.rpc.streams_per_connection);
        let proxies = self.0.trusted_proxies.clone();
        tokio::select! {
            never = closing => match never {},
            () = connections::serve(listener, front, builder, proxies, shutdown) => Ok(()),
        }
    }

    /// The paths that the table has for a socket, and no other.
    fn router(&self, socket: HttpSocket, place: Place) -> Router {
        let served = HttpPath::ALL
            .into_iter()
            .filter(|path| self.0.requirement(*path, socket).is_some());
        let router = served.fold(Router::new(), |router, path| {
            router.route(path.name(), handler(path))
        });
        let shared = Arc::clone(&self.0);
        let check = middleware::from_fn_with_state((shared, socket, place), check_access);
        router
            .fallback(async || not_found())
            .layer(check)
            .layer(CatchPanicLayer::custom(panicked))
            .layer(middleware::from_fn_with_state(
                self.0.requests.clone(),
                requests::name_request,
            ))
            .with_state(Arc::clone(&self.0))
    }
}

fn handler(path: HttpPath) -> MethodRouter<Arc<Shared>> {
    match path {
        HttpPath::Live => get(async || "live\n"),
        HttpPath::Ready => get(show_ready),
        HttpPath::Metrics => get(show_metrics),
        HttpPath::OpenApi => get(show_openapi),
        HttpPath::StripeWebhooks => post(receive_webhook),
        HttpPath::ConsoleSignIn
        | HttpPath::ConsoleResolve
        | HttpPath::ConsoleCorrect
        | HttpPath::ConsoleForce => get(show_console).post(show_console),
        HttpPath::ConsoleSignOut => post(show_console),
        HttpPath::ConsoleOverview
        | HttpPath::ConsoleUsage
        | HttpPath::ConsoleAccounts
        | HttpPath::ConsoleAccount
        | HttpPath::ConsoleReports
        | HttpPath::ConsoleReport
        | HttpPath::ConsoleInvoice
        | HttpPath::ConsoleFind
        | HttpPath::ConsoleRuns
        | HttpPath::ConsoleVerification
        | HttpPath::ConsoleShadow
        | HttpPath::ConsoleSignOff
        | HttpPath::ConsoleAudit
        | HttpPath::ConsoleKeys
        | HttpPath::ConsoleSetUp
        | HttpPath::ConsoleRun
        | HttpPath::ConsoleStyle => get(show_console),
    }
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "not found\n").into_response()
}

/// Passes a request on if its path demands nothing on the socket, or its caller has the role.
async fn check_access(
    State((shared, socket, place)): State<(Arc<Shared>, HttpSocket, Place)>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = HttpPath::find(request.uri().path());
    let requirement = match path.and_then(|path| shared.requirement(path, socket)) {
        None => return not_found(),
        // Its pages say themselves what is missing.
        Some(requirement) if path.is_some_and(HttpPath::is_console) => {
            request.extensions_mut().insert((requirement, place));
            let mut answer = next.run(request).await;
            console::protect(&mut answer);
            return answer;
        }
        // What is public looks no key up.
        Some(Requirement::Nothing) => return next.run(request).await,
        Some(requirement) => requirement,
    };
    let connection = request.extensions().get::<Arc<Activity>>();
    let certificate = connection.and_then(|of| of.client_certificate());
    let allowed = shared.allow(request.headers(), certificate, requirement);
    match allowed.await {
        Ok(()) => next.run(request).await,
        Err(error) => refusal(&error),
    }
}

async fn show_console(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = HttpPath::find(request.uri().path());
    let checked: Option<&(Requirement, Place)> = request.extensions().get();
    let (Some(console), Some(path), Some((requirement, place))) =
        (&shared.console, path, checked.copied())
    else {
        return not_found();
    };
    // The browser is silent until it has its answer, however long that takes.
    let activity = request.extensions().get::<Arc<Activity>>().cloned();
    let _waiting = activity.map(|activity| activity.begin_wait());
    console.answer(path, requirement, place, request).await
}

async fn show_openapi(State(shared): State<Arc<Shared>>) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, Body::from(shared.rpc.contract.openapi_text())).into_response()
}

impl Shared {
    /// What a path demands on a socket; absent if it is not served there.
    fn requirement(&self, path: HttpPath, socket: HttpSocket) -> Option<Requirement> {
        let is_off = path.is_console() && self.console.is_none();
        path.requirement(socket).filter(|_| !is_off)
    }

    async fn allow(
        &self,
        headers: &HeaderMap,
        certificate: Option<&ClientCertificate>,
        requirement: Requirement,
    ) -> Result<(), Error> {
        let caller = self
            .authenticator
            .authenticate(headers, certificate)
            .await?;
        self.rates.check(&caller)?;
        let checked = caller.check_role(requirement);
        let checked = match requirement {
            // It shows nothing that is stored.
            Requirement::AnyRole => checked,
            _ => checked.and_then(|()| caller.check_everything()),
        };
        checked.map_err(Error::PermissionDenied)
    }
}

fn refusal(error: &Error) -> Response {
    let status = match error {
        Error::Unauthenticated => StatusCode::UNAUTHORIZED,
        Error::PermissionDenied(_) => StatusCode::FORBIDDEN,
        Error::TooManyRequests { .. } => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut text = format!("{error}\n");
    if matches!(error, Error::HostNotLocal) {
        // A person who reads it in a browser finds the name in the documentation.
        text.insert_str(0, &format!("{}: ", error.reason()));
    }
    let mut answer = (status, text).into_response();
    if let Error::TooManyRequests { retry_after, .. } = error {
        // In whole seconds, and never sooner than it may be sent again.
        let secs = HeaderValue::from(retry_after.as_secs().saturating_add(1));
        answer.headers_mut().insert(header::RETRY_AFTER, secs);
    }
    answer
}

async fn show_metrics(State(shared): State<Arc<Shared>>) -> Response {
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    let Some(exporter) = &shared.exporter else {
        return not_found();
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
