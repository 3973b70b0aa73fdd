//! Stripe: the only room that names async-stripe.
//!
//! It sends one request and says in the domain's words what came of it. Stripe's floats become integers
//! here, and what is not whole is refused. When to try again is the reporter's business.

pub(crate) mod catalog;
pub(crate) mod event_summaries;
pub(crate) mod invoices;
pub(crate) mod key_check;
pub(crate) mod list_subscriptions;
pub(crate) mod subscriptions;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use moka::sync::Cache;
use stripe::{
    Client, ClientBuilder, IdempotencyKey, RequestStrategy, StripeError, StripeRequest as _,
};
use stripe_billing::{
    billing_meter::ListBillingMeter, billing_meter_event::CreateBillingMeterEvent,
    billing_meter_event_summary::ListIdBillingMeterEventSummary,
};

use crate::domain::{Millis, SECOND_MS, window::Interval};
use crate::metrics;

/// How long one request may take: much shorter than the lease of whoever sends.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the id of a meter is remembered.
const METER_ID_KEPT: Duration = Duration::from_mins(10);
/// How many meters of the Stripe account are looked through.
const METERS_READ: usize = 1_000;
const METERS_PER_PAGE: i64 = 100;
/// Doubles hold every whole number up to here.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;
/// What a message from Stripe is cut to before it is kept.
const MAX_MESSAGE_CHARS: usize = 500;

/// One meter event.
#[derive(Clone, Debug)]
pub(crate) struct MeterEvent {
    pub(crate) event_name: String,
    pub(crate) customer: String,
    pub(crate) quantity: i64,
    /// Whole seconds, in milliseconds.
    pub(crate) timestamp: Millis,
    pub(crate) identifier: String,
}

/// Why a request did not do what it was to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No final answer: the same identifier may be sent again.
    Unanswered(String),
    /// The key is wrong or may not do this: nothing can be sent until that is mended.
    Denied(String),
    /// No active meter has this event name: nothing of this meter can be sent until that is mended.
    NoMeter(String),
    /// The customer is gone.
    NoCustomer(String),
    /// Refused for good, with Stripe's code and message.
    Refused(String),
}

impl Failure {
    /// A name for counting.
    fn name(&self) -> &'static str {
        match self {
            Self::Unanswered(_) => "unanswered",
            Self::Denied(_) => "denied",
            Self::NoMeter(_) => "no_meter",
            Self::NoCustomer(_) => "no_customer",
            Self::Refused(_) => "refused",
        }
    }

    /// What went wrong, in words.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::Unanswered(message)
            | Self::Denied(message)
            | Self::NoMeter(message)
            | Self::NoCustomer(message)
            | Self::Refused(message) => message,
        }
    }
}

/// A Stripe account.
#[derive(Clone)]
pub(crate) struct Stripe {
    client: Client,
    /// Ids of meters by event name; they never change while a meter is active.
    meter_ids: Cache<String, String>,
}

impl std::fmt::Debug for Stripe {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stripe").finish_non_exhaustive()
    }
}

impl Stripe {
    /// A client of the account that a secret key belongs to.
    ///
    /// # Errors
    /// A key or URL that cannot be sent, in words.
    pub(crate) fn new(secret_key: &str, api_base: Option<&str>) -> Result<Self, String> {
        let mut builder = ClientBuilder::new(secret_key).timeout(REQUEST_TIMEOUT);
        if let Some(base) = api_base {
            builder = builder.url(format!("{}/", base.trim_end_matches('/')));
        }
        let client = builder.build().map_err(|error| error.to_string())?;
        let meter_ids = Cache::builder()
            .max_capacity(10_000)
            .time_to_live(METER_ID_KEPT)
            .build();
        Ok(Self { client, meter_ids })
    }

    /// Sends one meter event, once. An event that Stripe has already is as good as taken.
    ///
    /// `request_key` names this attempt: Stripe replays the first answer of a key, a 500 included, so each
    /// attempt needs its own. It is the identifier that keeps the event single.
    pub(crate) async fn send(&self, event: &MeterEvent, request_key: &str) -> Result<(), Failure> {
        let payload = HashMap::from([
            ("stripe_customer_id".to_owned(), event.customer.clone()),
            ("value".to_owned(), event.quantity.to_string()),
        ]);
        let key = IdempotencyKey::new(request_key)
            .map_err(|error| Failure::Refused(error.to_string()))?;
        let request = CreateBillingMeterEvent::new(&event.event_name, payload)
            .identifier(&event.identifier)
            .timestamp(event.timestamp.div_euclid(SECOND_MS))
            .customize()
            .request_strategy(RequestStrategy::Idempotent(key));
        match timed("meter_event", request.send(&self.client)).await {
            Ok(_) => Ok(()),
            Err(error) if says(&error, "already exists with identifier") => Ok(()),
            Err(error) => Err(failure(&error)),
        }
    }

    /// What Stripe holds of a customer and meter in a minute-aligned interval.
    pub(crate) async fn total(
        &self,
        event_name: &str,
        customer: &str,
        range: Interval,
    ) -> Result<i64, Failure> {
        let meter = self.meter_id(event_name).await?;
        let query = ListIdBillingMeterEventSummary::new(
            meter,
            customer,
            range.end.div_euclid(SECOND_MS),
            range.start.div_euclid(SECOND_MS),
        );
        let page = timed("event_summaries", query.send(&self.client))
            .await
            .map_err(|error| failure(&error))?;
        page.data.iter().try_fold(0_i64, |sum, summary| {
            let part = whole(summary.aggregated_value)?;
            sum.checked_add(part)
                .ok_or_else(|| Failure::Unanswered("Stripe's total is out of range".to_owned()))
        })
    }

    /// The id of the meter with an event name.
    pub(crate) async fn meter_id(&self, event_name: &str) -> Result<String, Failure> {
        if let Some(id) = self.meter_ids.get(event_name) {
            return Ok(id);
        }
        let mut read = 0_usize;
        let mut after: Option<String> = None;
        while read < METERS_READ {
            let mut query = ListBillingMeter::new().limit(METERS_PER_PAGE);
            if let Some(after) = after.take() {
                query = query.starting_after(after);
            }
            let page = timed("meters", query.send(&self.client))
                .await
                .map_err(|error| failure(&error))?;
            // A name may be used again once its meter is archived.
            let mut named = page
                .data
                .iter()
                .filter(|meter| meter.event_name == event_name);
            let active = named
                .clone()
                .find(|meter| meter.status.as_str() == "active");
            if let Some(meter) = active.or_else(|| named.next()) {
                let id = meter.id.to_string();
                self.meter_ids.insert(event_name.to_owned(), id.clone());
                return Ok(id);
            }
            read = read.saturating_add(page.data.len());
            match page.data.last() {
                Some(last) if page.has_more => after = Some(last.id.to_string()),
                _ => break,
            }
        }
        Err(Failure::NoMeter(format!(
            "Stripe has no meter with the event name {event_name:?}"
        )))
    }
}

/// Waits for Stripe's answer to a call, and records how long that took.
///
/// The request is boxed: its generated future is large, and each caller's would hold it.
fn timed<T>(
    call: &'static str,
    request: impl Future<Output = Result<T, StripeError>> + Send,
) -> impl Future<Output = Result<T, StripeError>> + Send {
    let request = Box::pin(request);
    async move {
        let started = Instant::now();
        let answer = request.await;
        metrics::stripe_request(call, started.elapsed());
        answer
    }
}

/// A total that Stripe gives as a float.
#[allow(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::float_arithmetic,
    reason = "checked to be whole and within what a double holds exactly"
)]
fn whole(value: f64) -> Result<i64, Failure> {
    if value.fract() == 0.0 && value.abs() <= MAX_WHOLE {
        Ok(value as i64)
    } else {
        Err(Failure::Unanswered(format!(
            "Stripe's total {value} is not a whole number below 2^53"
        )))
    }
}

/// Whether Stripe has nothing of that id.
fn is_missing(error: &StripeError) -> bool {
    matches!(error, StripeError::Stripe(api, status) if *status == 404
        || api.code.as_ref().is_some_and(|code| code.to_string() == "resource_missing"))
}

/// A moment that Stripe gives in seconds.
fn seconds(at: i64) -> Millis {
    at.saturating_mul(SECOND_MS)
}

fn says(error: &StripeError, text: &str) -> bool {
    let StripeError::Stripe(api, _) = error else {
        return false;
    };
    api.message
        .as_deref()
        .is_some_and(|message| message.contains(text))
}

/// What an error means for the event that was being sent; counts it.
fn failure(error: &StripeError) -> Failure {
    let failure = meaning(error);
    metrics::stripe_failure(failure.name());
    failure
}

fn meaning(error: &StripeError) -> Failure {
    let StripeError::Stripe(api, status) = error else {
        // A body that does not decode may have been a success, and a broken connection too.
        return Failure::Unanswered(cut(&error.to_string()));
    };
    let code = api
        .code
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let message = api.message.as_deref().unwrap_or("no message");
    let text = if code.is_empty() {
        cut(&format!("Stripe answered {status}: {message}"))
    } else {
        cut(&format!("Stripe answered {status} {code}: {message}"))
    };
    match status {
        401 | 403 => Failure::Denied(text),
        409 | 429 | 500.. => Failure::Unanswered(text),
        _ if matches!(code.as_str(), "no_meter" | "archived_meter")
            || says(error, "No active meter found") =>
        {
            Failure::NoMeter(text)
        }
        _ if says(error, "No such customer") => Failure::NoCustomer(text),
        400 => Failure::Refused(text),
        // Such as the 404 of a wrong address: it says nothing of the event.
        _ => Failure::Unanswered(text),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_MESSAGE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_totals_are_believed() {
        assert_eq!(whole(10.0), Ok(10));
        assert_eq!(whole(-3.0), Ok(-3));
        assert!(whole(0.5).is_err());
        assert!(whole(f64::NAN).is_err());
        assert!(whole(MAX_WHOLE * 2.0).is_err());
    }

    #[test]
    fn the_key_is_never_shown() {
        let stripe = Stripe::new("sk_test_secret", None).unwrap();
        assert!(!format!("{stripe:?}").contains("secret"));
    }
}
