//! The HTTP side: Stripe's webhooks, health, and metrics. What a webhook is about is not acted on in here: it is
//! stored, and the job that reads the truth from Stripe is woken.

mod connections;
mod webhook_event;
mod webhook_signature;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use self::connections::Bounded;
use crate::{
    clock::Clock,
    domain::SECOND_MS,
    metrics::{self, Exporter},
    store::{Store, webhooks::NewWebhookEvent},
    workers::wake::Wake,
};

/// Stripe's header that a webhook is believed by.
const SIGNATURE: &str = "stripe-signature";
/// How far a signature's time may be from ours, as in Stripe's own libraries; theirs look back only.
const TOLERANCE_SECS: i64 = 300;
/// The largest body that is taken: far above any event of Stripe's.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// How long a webhook may wait for its turn, its body take to arrive, and the database to store it: less in all than
/// the ten seconds after which Stripe gives up and sends it again much later.
const TURN_WITHIN: Duration = Duration::from_secs(2);
const BODY_WITHIN: Duration = Duration::from_secs(3);
const STORED_WITHIN: Duration = Duration::from_secs(4);
/// How long the database may take to show that it is there.
const READY_WITHIN: Duration = Duration::from_secs(2);
/// How many webhooks are worked on at once: no more memory than so many bodies, and no more load on the database.
const WEBHOOKS_AT_ONCE: usize = 64;

/// What the HTTP side works with.
pub(crate) struct Http {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    /// The webhook endpoint's signing secrets, all of them valid.
    pub(crate) webhook_secrets: Vec<String>,
    /// Told when a webhook was stored, so that what it is about is read from Stripe at once.
    pub(crate) webhook_stored: Wake,
}

struct Shared {
    http: Http,
    exporter: Exporter,
    /// One permit a webhook that is worked on.
    room: Semaphore,
}

/// Serves until the token is cancelled, and then ends what is under way.
///
/// # Errors
/// A socket that fails.
pub(crate) async fn serve(
    listener: TcpListener,
    http: Http,
    exporter: Exporter,
    ending: CancellationToken,
) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    if http.webhook_secrets.is_empty() {
        tracing::warn!(
            "no STRIPE_WEBHOOK_SECRETS: webhooks are refused with 503, and changes at Stripe are learned by polling"
        );
    }
    let upkeep = exporter.clone().keep_up();
    tracing::info!(%address, "serving HTTP");
    let serving = axum::serve(Bounded::new(listener), router(http, exporter))
        .with_graceful_shutdown(ending.cancelled_owned())
        .into_future();
    tokio::select! {
        served = serving => served,
        never = upkeep => match never {},
    }
}

fn router(http: Http, exporter: Exporter) -> Router {
    let room = Semaphore::new(WEBHOOKS_AT_ONCE);
    Router::new()
        .route("/webhooks/stripe", post(take_webhook))
        .route("/health/live", get(async || "live\n"))
        .route("/health/ready", get(show_ready))
        .route("/metrics", get(show_metrics))
        .fallback(async || (StatusCode::NOT_FOUND, "there is nothing at this path\n"))
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(Arc::new(Shared {
            http,
            exporter,
            room,
        }))
}

async fn show_metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, TEXT)], shared.exporter.render())
}

async fn show_ready(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    match tokio::time::timeout(READY_WITHIN, shared.http.store.ping()).await {
        Ok(Ok(())) => (StatusCode::OK, "ready\n"),
        Ok(Err(error)) => {
            tracing::warn!(%error, "not ready: the database does not answer");
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "the database does not answer\n",
            )
        }
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the database does not answer in time\n",
        ),
    }
}

/// What becomes of a webhook. Stripe sends again whatever is not answered with 2xx.
enum Taken {
    Stored,
    Replayed,
    /// Signed right, and of a kind that nothing is to be done about.
    Ignored,
    NoSecrets,
    Busy,
    TooLarge,
    BodyLate,
    BodyBroken(axum::Error),
    Refused(webhook_signature::Refused),
    Unreadable(String),
    NotStored(crate::error::Error),
    NotStoredInTime,
}

async fn take_webhook(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let taken = shared.take(request).await;
    metrics::webhook(taken.name());
    taken.answer()
}

impl Shared {
    async fn take(&self, request: Request) -> Taken {
        if self.http.webhook_secrets.is_empty() {
            return Taken::NoSecrets;
        }
        let Ok(Ok(_place)) = tokio::time::timeout(TURN_WITHIN, self.room.acquire()).await else {
            return Taken::Busy;
        };
        let (head, body) = request.into_parts();
        if says_too_large(&head.headers) {
            return Taken::TooLarge;
        }
        let body = match read_whole(body).await {
            Ok(body) => body,
            Err(refused) => return refused,
        };
        let event = match self.believe(&head.headers, &body) {
            Ok(Some(event)) => event,
            Ok(None) => return Taken::Ignored,
            Err(refused) => return refused,
        };
        self.store(&event).await
    }

    /// Reads nothing of a body before its signature is known to be right.
    fn believe(&self, headers: &HeaderMap, body: &[u8]) -> Result<Option<NewWebhookEvent>, Taken> {
        let signed =
            headers
                .get(SIGNATURE)
                .ok_or(Taken::Refused(webhook_signature::Refused::Malformed(
                    "is missing",
                )))?;
        webhook_signature::verify(
            signed.as_bytes(),
            body,
            &self.http.webhook_secrets,
            self.http.clock.now().div_euclid(SECOND_MS),
            TOLERANCE_SECS,
        )
        .map_err(Taken::Refused)?;
        webhook_event::read(body).map_err(Taken::Unreadable)
    }

    async fn store(&self, event: &NewWebhookEvent) -> Taken {
        let http = &self.http;
        let storing = http.store.record_webhook_event(event, http.clock.now());
        match tokio::time::timeout(STORED_WITHIN, storing).await {
            Ok(Ok(true)) => {
                tracing::debug!(event = %event.id, kind = %event.kind, "webhook");
                http.webhook_stored.wake();
                Taken::Stored
            }
            Ok(Ok(false)) => Taken::Replayed,
            Ok(Err(error)) => Taken::NotStored(error),
            // It may be stored yet; then the next time it comes is a replay.
            Err(_) => Taken::NotStoredInTime,
        }
    }
}

/// Refused before anything of the body is read, so that whoever sends it hears of it.
fn says_too_large(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok())
        .is_some_and(|length| length > MAX_BODY_BYTES)
}

async fn read_whole(body: Body) -> Result<axum::body::Bytes, Taken> {
    match tokio::time::timeout(BODY_WITHIN, to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if is_too_large(&error) => Err(Taken::TooLarge),
        Ok(Err(error)) => Err(Taken::BodyBroken(error)),
        Err(_) => Err(Taken::BodyLate),
    }
}

/// Whether a body of unstated length passed the limit: an error's only name is its text.
fn is_too_large(error: &axum::Error) -> bool {
    error.to_string().contains("length limit exceeded")
}

impl Taken {
    /// A name for counting.
    fn name(&self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Replayed => "replayed",
            Self::Ignored => "ignored",
            Self::NoSecrets => "no_secrets",
            Self::Busy => "busy",
            Self::TooLarge => "too_large",
            Self::BodyLate | Self::BodyBroken(_) => "no_body",
            Self::Refused(refused) => refused.name(),
            Self::Unreadable(_) => "unreadable",
            Self::NotStored(_) | Self::NotStoredInTime => "not_stored",
        }
    }

    /// Says in a line what became of it, and logs what somebody has to mend.
    fn answer(self) -> Response {
        let (status, text) = match self {
            Self::Stored => (StatusCode::OK, "stored".to_owned()),
            Self::Replayed => (StatusCode::OK, "stored before".to_owned()),
            Self::Ignored => (
                StatusCode::OK,
                "nothing is to be done about this kind of event".to_owned(),
            ),
            Self::NoSecrets => (
                StatusCode::SERVICE_UNAVAILABLE,
                "no webhooks are taken: STRIPE_WEBHOOK_SECRETS is not set".to_owned(),
            ),
            Self::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{WEBHOOKS_AT_ONCE} webhooks are being stored; send it again"),
            ),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {MAX_BODY_BYTES} bytes"),
            ),
            Self::BodyLate => (
                StatusCode::REQUEST_TIMEOUT,
                format!("the body did not arrive in {} s", BODY_WITHIN.as_secs()),
            ),
            Self::BodyBroken(error) => (
                StatusCode::BAD_REQUEST,
                format!("the body did not arrive: {error}"),
            ),
            Self::Refused(refused) => {
                tracing::warn!(%refused, "a webhook was refused");
                (StatusCode::BAD_REQUEST, refused.to_string())
            }
            Self::Unreadable(why) => {
                tracing::error!(%why, "a webhook that was signed right cannot be read");
                (StatusCode::BAD_REQUEST, why)
            }
            Self::NotStored(error) => {
                // The cause is for the operator; Stripe gets what it can act on.
                tracing::error!(?error, "a webhook could not be stored");
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the webhook could not be stored; send it again".to_owned(),
                )
            }
            Self::NotStoredInTime => {
                tracing::error!(within = ?STORED_WITHIN, "a webhook was not stored in time");
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the webhook was not stored in time; send it again".to_owned(),
                )
            }
        };
        (status, format!("{text}\n")).into_response()
    }
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    tracing::error!("an HTTP request handler panicked");
    (StatusCode::INTERNAL_SERVER_ERROR, "internal error\n").into_response()
}
