//! The HTTP client of every request to Stripe.
//!
//! async-stripe makes the requests and reads the objects. Its own client opens a connection for each request, hides the
//! headers of answers, and does not say whether a request was sent at all. This one keeps connections, reads Stripe's
//! clock from each answer, and tells a request that was not sent from one without an answer.

use std::{
    fmt::Display,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use serde_json::Value;
use stripe_client_core::{
    CustomizedStripeRequest, RequestBuilder, StripeClient, StripeClientErr, StripeMethod, VERSION,
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tower::{BoxError, ServiceBuilder, ServiceExt as _, util::BoxCloneSyncService};

use crate::{
    config::Reporting,
    domain::Millis,
    metrics,
    request_context::{TRACE_PARENT, outgoing_trace},
};

/// The base URL of Stripe's API.
const STRIPE_API_BASE: &str = "https://api.stripe.com";
/// The timeout of one request, with its connection.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection may take with its name and its TLS. Nothing was sent until then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// While Stripe cannot be reached, one request in this time tries to. The others fail at once.
const TRY_INTERVAL: Duration = Duration::from_secs(1);
/// How long an unused connection is kept: shorter than a server or a firewall in between keeps it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Messages from Stripe are truncated to this length.
const MAX_MESSAGE_CHARS: usize = 500;
/// The largest answer that is read.
const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;
/// The paths of meter events and of their totals, whose limits the sender has to keep. Other requests have another limit.
const METERING: &str = "/v1/billing/meter";
/// The message of an error that has none.
pub(super) const NO_MESSAGE: &str = "no message";
const USER_AGENT: &str = concat!("usage-server/", env!("CARGO_PKG_VERSION"));

type Connection = MaybeHttpsStream<TokioIo<TcpStream>>;

/// A client of one Stripe account. Clones share its connections.
#[derive(Clone)]
pub(super) struct Transport {
    http: Client<BoxCloneSyncService<Uri, Connection, BoxError>, Full<Bytes>>,
    /// Without a slash at its end.
    base: String,
    authorization: HeaderValue,
    version: HeaderValue,
    last_date: Arc<RwLock<Option<ShownDate>>>,
    reach: Arc<Mutex<Reach>>,
    /// The number of requests about metering that Stripe has refused because there were too many.
    throttled: Arc<AtomicU64>,
    try_interval: Duration,
    reporting: Reporting,
}

/// Whether requests reach Stripe.
#[derive(Debug, Default)]
struct Reach {
    /// When a request last did.
    reached: Option<Instant>,
    /// When one that could not last tried, and why it could not.
    unreachable: Option<(Instant, String)>,
}

/// Stripe's clock, and when it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShownDate {
    /// In whole seconds.
    pub(crate) date: Millis,
    /// Before the request.
    pub(crate) begun: Instant,
    /// After the answer.
    pub(crate) ended: Instant,
}

/// An answer of Stripe.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Stripe's clock, if the answer shows it.
    pub(super) date: Option<Millis>,
    pub(super) body: Bytes,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    /// There was no connection, so Stripe did not get the request.
    #[error("Stripe cannot be reached: {0}")]
    NotSent(String),
    /// The request would change something, and Stripe is only read.
    #[error("REPORTING is shadow, so Stripe is only read and {0} was not sent")]
    InShadow(String),
    /// Stripe may have got the request.
    #[error("{0}")]
    NoAnswer(String),
    /// Stripe's answer is a success, but not what was expected.
    #[error("{0}")]
    Unreadable(String),
    /// Stripe's answer is an error.
    #[error("Stripe answered {status}{}{code}: {message}", if code.is_empty() { "" } else { " " })]
    Answered {
        status: u16,
        /// Empty if the answer has none.
        code: String,
        message: String,
    },
}

impl StripeClientErr for RequestError {
    /// An answer that cannot be read may follow a success.
    fn deserialize_err(message: impl Display) -> Self {
        Self::Unreadable(format!("Stripe's answer cannot be read: {message}"))
    }
}

impl Transport {
    /// # Errors
    /// The key or the URL is not valid in a request.
    pub(super) fn new(
        secret_key: &str,
        api_base: Option<&str>,
        reporting: Reporting,
    ) -> Result<Self, String> {
        let base = api_base.unwrap_or(STRIPE_API_BASE).trim_end_matches('/');
        let is_url = base
            .parse::<Uri>()
            .is_ok_and(|base| base.scheme().is_some() && base.host().is_some());
        if !is_url {
            return Err(format!("{base:?} is not a URL with a scheme and a host"));
        }
        let mut authorization = HeaderValue::try_from(format!("Bearer {secret_key}"))
            .map_err(|_| "the secret key has characters that a header cannot have".to_owned())?;
        authorization.set_sensitive(true);
        Ok(Self {
            http: client(CONNECT_TIMEOUT),
            base: base.to_owned(),
            authorization,
            version: HeaderValue::try_from(VERSION.as_str()).map_err(|error| error.to_string())?,
            last_date: Arc::default(),
            reach: Arc::default(),
            throttled: Arc::default(),
            try_interval: TRY_INTERVAL,
            reporting,
        })
    }

    /// Stripe's clock, as the last answer showed it.
    pub(super) fn last_date(&self) -> Option<ShownDate> {
        *self
            .last_date
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of requests about metering that Stripe has refused because there were too many.
    pub(super) fn throttled(&self) -> u64 {
        self.throttled.load(Ordering::Relaxed)
    }

    /// Reads a path such as `/v1/balance`.
    pub(super) async fn get(&self, path: &str) -> Result<Answer, RequestError> {
        self.ask(Method::GET, path).await
    }

    /// Sends a request without parameters.
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<Answer, RequestError> {
        self.request(method, path, None, HeaderMap::new()).await
    }

    async fn request(
        &self,
        method: Method,
        path_and_query: &str,
        form: Option<String>,
        mut headers: HeaderMap,
    ) -> Result<Answer, RequestError> {
        // The only place that sends anything: nothing is changed at Stripe in shadow mode, whatever asks for it.
        if self.reporting.is_shadow() && method != Method::GET {
            let path = path_and_query.split('?').next().unwrap_or_default();
            // What would ask for it does not run in shadow mode, so this is a defect.
            metrics::refused_in_shadow();
            tracing::error!(%method, path, "a request that would change something at Stripe was not sent, because REPORTING is shadow; please report this");
            return Err(RequestError::InShadow(format!("{method} {path}")));
        }
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert("stripe-version", self.version.clone());
        headers.extend(outgoing_trace().map(|trace| (TRACE_PARENT, trace)));
        if form.is_some() {
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            );
        }
        let mut request = Request::new(Full::from(form.unwrap_or_default()));
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{path_and_query}", self.base)
            .parse()
            .map_err(|error| RequestError::NotSent(with_causes(&error)))?;
        *request.headers_mut() = headers;
        self.may_try()?;
        let begun = Instant::now();
        let answer = timeout(REQUEST_TIMEOUT, self.exchange(request)).await;
        let answer = answer.unwrap_or_else(|_| {
            let secs = REQUEST_TIMEOUT.as_secs();
            let why = format!("Stripe did not answer within {secs} s");
            Err(RequestError::NoAnswer(why))
        });
        let mut reach = self.reach();
        match &answer {
            // Another request may have reached Stripe meanwhile.
            Err(RequestError::NotSent(why)) if reach.reached.is_none_or(|at| at < begun) => {
                reach.unreachable = Some((Instant::now(), why.clone()));
            }
            Err(RequestError::NotSent(_)) => {}
            _ => {
                *reach = Reach {
                    reached: Some(Instant::now()),
                    unreachable: None,
                };
            }
        }
        drop(reach);
        answer
    }

    /// Whether only reading requests are sent.
    pub(super) fn is_read_only(&self) -> bool {
        self.reporting.is_shadow()
    }

    /// Whether the last requests could not reach Stripe.
    pub(super) fn is_unreachable(&self) -> bool {
        self.reach().unreachable.is_some()
    }

    /// Whether a request may be tried now.
    fn may_try(&self) -> Result<(), RequestError> {
        if let Some((tried, why)) = &mut self.reach().unreachable {
            if tried.elapsed() < self.try_interval {
                return Err(RequestError::NotSent(why.clone()));
            }
            *tried = Instant::now();
        }
        Ok(())
    }

    fn reach(&self) -> MutexGuard<'_, Reach> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, RequestError> {
        let begun = Instant::now();
        let host = host_of(request.uri());
        let answer = self.http.request(request).await.map_err(|error| {
            let why = truncate(&format!("{host}: {}", with_causes(&error)));
            if error.is_connect() {
                RequestError::NotSent(why)
            } else {
                RequestError::NoAnswer(format!("Stripe did not answer: {why}"))
            }
        })?;
        let date = answer.headers().get(header::DATE).and_then(parse_date);
        if let Some(date) = date {
            let shown = ShownDate {
                date,
                begun,
                ended: Instant::now(),
            };
            *self
                .last_date
                .write()
                .unwrap_or_else(PoisonError::into_inner) = Some(shown);
        }
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect();
        let body = body.await.map_err(|error| {
            let why = with_causes(&*error);
            RequestError::NoAnswer(format!("Stripe's answer broke off: {why}"))
        })?;
        Ok(Answer {
            status,
            date,
            body: body.to_bytes(),
        })
    }
}

impl StripeClient for Transport {
    type Err = RequestError;

    /// Sends a request once. Its strategy gives it a key, and no repetition.
    async fn execute(&self, request: CustomizedStripeRequest) -> Result<Bytes, RequestError> {
        let (request, config) = request.into_pieces();
        let key = config
            .request_strategy
            .and_then(|strategy| strategy.get_key());
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let key = HeaderValue::try_from(key.as_str())
                .map_err(|error| RequestError::NotSent(with_causes(&error)))?;
            headers.insert("idempotency-key", key);
        }
        self.send(request, headers).await
    }
}

impl Transport {
    /// Sends a request once. Returns the body of a success.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        headers: HeaderMap,
    ) -> Result<Bytes, RequestError> {
        let method = match request.method {
            StripeMethod::Get => Method::GET,
            StripeMethod::Post => Method::POST,
            StripeMethod::Delete => Method::DELETE,
        };
        let query = request.query.filter(|query| !query.is_empty());
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        let path = format!("/v1{}{query}", request.path);
        let answer = self.request(method, &path, request.body, headers).await?;
        if answer.status.is_success() {
            Ok(answer.body)
        } else {
            let error = error_of(&answer);
            if path.starts_with(METERING) && is_throttled(&error) {
                self.throttled.fetch_add(1, Ordering::Relaxed);
            }
            Err(error)
        }
    }
}

/// Whether Stripe got too many requests. That it has locked the customer is a 429 too, at any rate.
fn is_throttled(error: &RequestError) -> bool {
    matches!(error, RequestError::Answered { status: 429, code, .. } if code != "lock_timeout")
}

fn client(
    connect_timeout: Duration,
) -> Client<BoxCloneSyncService<Uri, Connection, BoxError>, Full<Bytes>> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(IDLE_TIMEOUT));
    let https = HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    let connector = ServiceBuilder::new()
        .timeout(connect_timeout)
        .service(https)
        .map_err(move |error: BoxError| connect_error(error, connect_timeout));
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .build(BoxCloneSyncService::new(connector))
}

/// Says what took too long: the error of a timeout alone does not.
fn connect_error(error: BoxError, limit: Duration) -> BoxError {
    if error.is::<tower::timeout::error::Elapsed>() {
        let text = format!("no connection within {limit:?}");
        return io::Error::new(io::ErrorKind::TimedOut, text).into();
    }
    error
}

/// The error in an answer that is not a success.
fn error_of(answer: &Answer) -> RequestError {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |field: &str| {
        let value = body.pointer(field).and_then(Value::as_str);
        value.map(truncate).unwrap_or_default()
    };
    let message = text("/error/message");
    RequestError::Answered {
        status: answer.status.as_u16(),
        code: text("/error/code"),
        message: if message.is_empty() {
            NO_MESSAGE.to_owned()
        } else {
            message
        },
    }
}

/// The host and, if it is not the usual one, the port. An address may also have a name and a password.
fn host_of(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    match uri.port_u16() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// An error with its causes: the outermost one only says that connecting failed.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    truncate(&text)
}

pub(super) fn truncate(text: &str) -> String {
    text.chars().take(MAX_MESSAGE_CHARS).collect()
}

/// Parses an HTTP date.
fn parse_date(date: &HeaderValue) -> Option<Millis> {
    let date = chrono::DateTime::parse_from_rfc2822(date.to_str().ok()?).ok()?;
    Some(date.timestamp_millis())
}

#[cfg(test)]
mod tests;
