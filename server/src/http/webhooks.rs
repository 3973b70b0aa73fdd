//! Stripe's webhooks. A webhook only triggers an earlier sync: it is verified and stored, and a job reads the object again
//! from Stripe.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Http, Shared, webhook_event, webhook_signature};
use crate::{
    domain::SECOND_MS,
    log_limit::LogLimit,
    metrics,
    planted_defects::{Defect, planted},
    store::webhooks::NewWebhookEvent,
};

/// The header with Stripe's signatures.
const SIGNATURE: &str = "stripe-signature";
/// How far a signature's time may be from now, before or after. Stripe's libraries check the past only.
const SIGNATURE_TOLERANCE_SECS: i64 = 300;
/// The largest accepted body: far larger than any of Stripe's events.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// The timeouts of a webhook: to wait for each of two permits, to read its body and to store it. In total they are less
/// than the ten seconds after which Stripe gives up and resends it much later.
const PERMIT_TIMEOUT: Duration = Duration::from_millis(1_500);
const BODY_TIMEOUT: Duration = Duration::from_secs(2);
const STORE_TIMEOUT: Duration = Duration::from_secs(4);
/// A body of up to this size is read at once: those of all connections together need little memory, and most of Stripe's
/// events are smaller.
const SMALL_BODY_BYTES: usize = 64 * 1024;
/// Larger bodies that are read concurrently.
const MAX_LARGE_BODIES: usize = 32;
/// Webhooks that are stored concurrently: limits the load on the database. Only those with a valid signature are stored.
const MAX_WEBHOOKS: usize = 64;
/// Webhooks that wait for a permit. Far fewer than connections, so that they leave places for others.
const MAX_WAITING_WEBHOOKS: usize = 64;

/// Limit the lines that senders of webhooks cause.
static REFUSED: LogLimit = LogLimit::new();
static TIMED_OUT: LogLimit = LogLimit::new();

/// What the handler of webhooks needs.
pub(super) struct Webhooks {
    http: Http,
    /// One permit for each large body that is read.
    large_body_permits: Semaphore,
    /// One permit for each webhook that is stored.
    webhook_permits: Semaphore,
    /// One permit for each webhook that waits for one of those.
    waiting_permits: Semaphore,
}

impl Webhooks {
    pub(super) fn new(http: Http) -> Self {
        Self {
            http,
            large_body_permits: Semaphore::new(MAX_LARGE_BODIES),
            webhook_permits: Semaphore::new(MAX_WEBHOOKS),
            waiting_permits: Semaphore::new(MAX_WAITING_WEBHOOKS),
        }
    }
}

/// What was done with a webhook. Stripe resends every webhook that is not answered with 2xx.
enum WebhookOutcome {
    Stored,
    Replayed,
    /// Signed correctly, but of a kind that this service does not need.
    Ignored,
    NoSecrets,
    Busy,
    TooLarge,
    BodyTimedOut,
    BodyFailed(axum::Error),
    BadSignature(webhook_signature::SignatureError),
    Unreadable(String),
    StoreFailed(crate::error::Error),
    StoreTimedOut,
}

pub(super) async fn receive_webhook(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Response {
    let outcome = shared.webhooks.receive(request).await;
    metrics::webhook(outcome.name());
    outcome.into_response()
}

impl Webhooks {
    async fn receive(&self, request: Request) -> WebhookOutcome {
        if self.http.webhook_secrets.is_empty() {
            return WebhookOutcome::NoSecrets;
        }
        if has_too_large_length(request.headers()) {
            return WebhookOutcome::TooLarge;
        }
        if !request.headers().contains_key(SIGNATURE) {
            // Rejected before its body is read.
            let missing = webhook_signature::SignatureError::Malformed("is missing");
            return WebhookOutcome::BadSignature(missing);
        }
        let (head, body) = request.into_parts();
        let body = match self.read(&head.headers, body).await {
            Ok(body) => body,
            Err(outcome) => return outcome,
        };
        let event = match self.verify(&head.headers, &body) {
            Ok(Some(event)) => event,
            Ok(None) => return WebhookOutcome::Ignored,
            Err(outcome) => return outcome,
        };
        let Some(_permit) = self.acquire_permit().await else {
            return WebhookOutcome::Busy;
        };
        self.store(&event).await
    }

    /// Reads the body. A large one, or one of unknown length, needs a permit, so unfinished bodies use little memory and
    /// keep no small one out.
    async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, WebhookOutcome> {
        if stated_length(headers).is_some_and(|length| length <= SMALL_BODY_BYTES) {
            return read_body(body).await;
        }
        let permit = tokio::time::timeout(PERMIT_TIMEOUT, self.large_body_permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(WebhookOutcome::Busy);
        };
        read_body(body).await
    }

    /// Waits for a permit, unless too many webhooks do.
    async fn acquire_permit(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(permit) = self.webhook_permits.try_acquire() {
            return Some(permit);
        }
        let _waiting = self.waiting_permits.try_acquire().ok()?;
        let acquired = tokio::time::timeout(PERMIT_TIMEOUT, self.webhook_permits.acquire()).await;
        acquired.ok()?.ok()
    }

    /// Verifies the signature, then parses the body. Nothing of an unverified body is parsed.
    fn verify(
        &self,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Option<NewWebhookEvent>, WebhookOutcome> {
        let signature = headers.get(SIGNATURE).ok_or(WebhookOutcome::BadSignature(
            webhook_signature::SignatureError::Malformed("is missing"),
        ))?;
        let signed = webhook_signature::verify(
            signature.as_bytes(),
            body,
            &self.http.webhook_secrets,
            self.http.clock.now().div_euclid(SECOND_MS),
            SIGNATURE_TOLERANCE_SECS,
        );
        if !planted(Defect::UnsignedWebhookTrusted) {
            signed.map_err(WebhookOutcome::BadSignature)?;
        }
        webhook_event::parse(body).map_err(WebhookOutcome::Unreadable)
    }

    async fn store(&self, event: &NewWebhookEvent) -> WebhookOutcome {
        let http = &self.http;
        let storing = http.store.record_webhook_event(event, http.clock.now());
        match tokio::time::timeout(STORE_TIMEOUT, storing).await {
            Ok(Ok(true)) => {
                tracing::debug!(event = %event.id, kind = %event.kind, "webhook stored");
                http.webhook_stored.wake();
                WebhookOutcome::Stored
            }
            Ok(Ok(false)) => WebhookOutcome::Replayed,
            Ok(Err(error)) => WebhookOutcome::StoreFailed(error),
            // It may still be stored; then Stripe's next attempt is a replay.
            Err(_) => WebhookOutcome::StoreTimedOut,
        }
    }
}

/// Whether the stated length is over the limit. Checked before the body is read, so that the sender gets the answer.
fn has_too_large_length(headers: &HeaderMap) -> bool {
    stated_length(headers).is_some_and(|length| length > MAX_BODY_BYTES)
}

fn stated_length(headers: &HeaderMap) -> Option<usize> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

async fn read_body(body: Body) -> Result<Bytes, WebhookOutcome> {
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if is_too_large(&error) => Err(WebhookOutcome::TooLarge),
        Ok(Err(error)) => Err(WebhookOutcome::BodyFailed(error)),
        Err(_) => Err(WebhookOutcome::BodyTimedOut),
    }
}

/// Whether a body of unknown length is over the limit. The error has no type, only a text.
fn is_too_large(error: &axum::Error) -> bool {
    error.to_string().contains("length limit exceeded")
}

impl WebhookOutcome {
    /// The outcome's name in metrics.
    fn name(&self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Replayed => "replayed",
            Self::Ignored => "ignored",
            Self::NoSecrets => "no_secrets",
            Self::Busy => "busy",
            Self::TooLarge => "too_large",
            Self::BodyTimedOut | Self::BodyFailed(_) => "no_body",
            Self::BadSignature(error) => error.name(),
            Self::Unreadable(_) => "unreadable",
            Self::StoreFailed(_) | Self::StoreTimedOut => "not_stored",
        }
    }

    /// The response to Stripe. Logs what an operator has to fix.
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Stored => (StatusCode::OK, "stored".to_owned()),
            Self::Replayed => (StatusCode::OK, "stored before".to_owned()),
            Self::Ignored => (
                StatusCode::OK,
                "ignored: the service does not need this kind of event".to_owned(),
            ),
            Self::NoSecrets => (
                StatusCode::SERVICE_UNAVAILABLE,
                "webhooks are not accepted: STRIPE_WEBHOOK_SECRETS is not set".to_owned(),
            ),
            Self::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too many webhooks are in progress; retry later".to_owned(),
            ),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {MAX_BODY_BYTES} bytes"),
            ),
            Self::BodyTimedOut => (
                StatusCode::REQUEST_TIMEOUT,
                format!(
                    "the body did not arrive within {} s",
                    BODY_TIMEOUT.as_secs()
                ),
            ),
            Self::BodyFailed(error) => (
                StatusCode::BAD_REQUEST,
                format!("the body could not be read: {error}"),
            ),
            Self::BadSignature(error) => {
                // Anyone who reaches the socket can cause it.
                if let Some(unlogged) = REFUSED.count() {
                    tracing::warn!(%error, unlogged, "webhook refused");
                }
                (StatusCode::BAD_REQUEST, error.to_string())
            }
            Self::Unreadable(error) => {
                tracing::error!(%error, "cannot parse a correctly signed webhook");
                (StatusCode::BAD_REQUEST, error)
            }
            Self::StoreFailed(error) => {
                // The cause is logged only. Stripe gets what it can act on.
                error.log();
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the webhook could not be stored; retry later".to_owned(),
                )
            }
            Self::StoreTimedOut => {
                if let Some(unlogged) = TIMED_OUT.count() {
                    tracing::error!(timeout = ?STORE_TIMEOUT, unlogged, "storing a webhook timed out");
                }
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "storing the webhook timed out; retry later".to_owned(),
                )
            }
        };
        (status, format!("{text}\n")).into_response()
    }
}
