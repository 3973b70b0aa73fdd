//! The task that sends the queued webhook deliveries, one after the other, with retries.

use std::sync::Arc;
use std::time::Duration;

use crate::billing::webhooks::{Delivery, webhook_signature};
use crate::state::App;

/// Attempts per delivery. Stripe retries for days, which a test cannot wait for.
const MAX_ATTEMPTS: u32 = 4;
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends the queued deliveries one after the other, until the fake Stripe stops.
pub(crate) async fn run(app: Arc<App>) {
    // A proxy from the environment must not intercept requests to loopback.
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(RESPONSE_TIMEOUT)
        .build()
        .unwrap_or_default();
    while app
        .wait_until(|state| state.billing.webhooks.has_queued())
        .await
    {
        let (delivery, delay_ms) = app.update(|state| {
            let webhooks = &mut state.billing.webhooks;
            (webhooks.take(), webhooks.options.delay_ms)
        });
        let Some(delivery) = delivery else { continue };
        if !app.pause(Duration::from_millis(delay_ms)).await {
            return;
        }
        let mut backoff = FIRST_BACKOFF;
        let (mut attempts, mut status) = (0, None);
        while attempts < MAX_ATTEMPTS {
            attempts = attempts.saturating_add(1);
            status = attempt(&app, &client, &delivery).await;
            if status.is_some_and(|status| (200..300).contains(&status)) {
                break;
            }
            if attempts < MAX_ATTEMPTS && !app.pause(backoff).await {
                return;
            }
            backoff = backoff.saturating_mul(2);
        }
        app.update(|state| {
            state
                .billing
                .webhooks
                .record_delivery(delivery, attempts, status);
        });
    }
}

async fn attempt(app: &App, client: &reqwest::Client, delivery: &Delivery) -> Option<u16> {
    let time = app.read(|state| state.clock.now_secs());
    let request = client
        .post(&delivery.url)
        .header("content-type", "application/json; charset=utf-8")
        .header(
            "user-agent",
            "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        )
        .header(
            "stripe-signature",
            webhook_signature(&delivery.secrets, time, &delivery.body),
        )
        .body(delivery.body.clone());
    match request.send().await {
        Ok(answer) => Some(answer.status().as_u16()),
        Err(error) => {
            tracing::debug!(%error, "webhook delivery failed");
            None
        }
    }
}
