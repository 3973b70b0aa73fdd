//! Requests to Stripe: the only module that names async-stripe. `transport.rs` sends them.
//!
//! Each function sends one request, or reads the pages of one list, and returns plain types. Stripe's floats are
//! converted to integers here; a fraction is an error. There are no retries: callers decide when to repeat a request.

pub(crate) mod account;
pub(crate) mod catalog;
#[cfg(test)]
mod changed_answers;
pub(crate) mod event_summaries;
mod failure;
pub(crate) mod invoices;
pub(crate) mod key_check;
pub(crate) mod list_subscriptions;
pub(crate) mod object_list;
pub(crate) mod sender_marks;
pub(crate) mod subscriptions;
mod transport;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use moka::sync::Cache;
use stripe::{IdempotencyKey, RequestStrategy, StripeRequest as _};
use stripe_billing::{
    BillingMeter, BillingMeterEventSummary, billing_meter::ListBillingMeter,
    billing_meter_event::CreateBillingMeterEvent,
    billing_meter_event_summary::ListIdBillingMeterEventSummary,
};
use tracing::{Instrument as _, field::Empty};

use self::{
    account::AccountGuard,
    catalog::{CUSTOMER_KEY, VALUE_KEY},
    failure::{failure, is_not_found, is_undecided_status, message_contains},
    transport::{RequestError, Transport},
};
pub(crate) use self::{failure::Failure, invoices::Invoices, transport::ShownDate};
use crate::{
    config::StripeConfig,
    domain::{Millis, SECOND_MS, stripe_account::is_live_key, window::Interval},
    metrics::{self, StripeOutcome},
    otlp,
    planted_defects::{Defect, as_float, planted},
    read_rate::ReadRate,
};

/// Reads of totals, and of subscriptions that a change waits for, in a second. Stripe limits them together with others.
const READS_PER_SEC: u32 = 10;
/// How long a meter's id is cached.
const METER_ID_TTL: Duration = Duration::from_mins(10);
/// Items on one page: Stripe's limit.
const PAGE_SIZE: i64 = 100;
/// Meters of the Stripe account that are read.
const MAX_METERS: usize = 1_000;
/// The names of Stripe's objects in messages and metrics.
const METER: &str = "meter";
const SUMMARY: &str = "event summary";
const SUBSCRIPTION: &str = "subscription";
const INVOICE: &str = "invoice";
const LINE: &str = "invoice line";
const PRICE: &str = "price";
/// 2^53: a double represents every whole number up to it.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;
/// The last second of the year 9999.
const LAST_SECS: i64 = 253_402_300_799;
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

/// How Stripe took a meter event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is new.
    New,
    /// Stripe had an event with this identifier, perhaps with other content.
    Known,
}

/// A Stripe account.
#[derive(Clone)]
pub(crate) struct Stripe {
    /// Only for [`Stripe::client`], and to identify the account.
    client: Transport,
    /// Refuses requests while the key's account is not known to be the one that usage is reported to.
    guard: AccountGuard,
    /// Whether the key is of live mode, if its prefix says so.
    is_live: Option<bool>,
    /// Meter ids by event name. An id does not change while its meter is active.
    meter_ids: Cache<String, String>,
    /// The rate of reads that are repeated while something waits.
    reads: Arc<ReadRate>,
}

impl std::fmt::Debug for Stripe {
    /// Does not print the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stripe").finish_non_exhaustive()
    }
}

impl Stripe {
    /// A client of the account that a secret key belongs to. With `REPORTING=shadow` it can only read.
    ///
    /// # Errors
    /// The key or the URL is not valid in a request.
    pub(crate) fn new(secret_key: &str, config: &StripeConfig) -> Result<Self, String> {
        #[cfg(feature = "planted-defects")]
        crate::planted_defects::check_key(secret_key)?;
        let meter_ids = Cache::builder()
            .max_capacity(10_000)
            .time_to_live(METER_ID_TTL)
            .build();
        Ok(Self {
            client: Transport::new(
                secret_key,
                config.stripe_api_base.as_deref(),
                config.reporting,
            )?,
            guard: AccountGuard::default(),
            is_live: is_live_key(secret_key),
            meter_ids,
            reads: Arc::new(ReadRate::per_sec(READS_PER_SEC)),
        })
    }

    /// Whether it only reads, because another integration reports usage.
    pub(crate) fn is_read_only(&self) -> bool {
        self.client.is_read_only()
    }

    /// Waits for the next turn of the rate that repeated reads share.
    pub(crate) async fn read_turn(&self) {
        self.reads.turn().await;
    }

    /// The client, unless requests are refused.
    fn client(&self) -> Result<&Transport, Failure> {
        self.guard.check()?;
        Ok(&self.client)
    }

    /// The number of requests for meter events and their totals that Stripe has refused because there were too many.
    pub(crate) fn throttled(&self) -> u64 {
        self.client.throttled()
    }

    /// Sends one meter event. An event whose identifier Stripe already has counts as a success.
    ///
    /// `request_key` must be new for each attempt, because Stripe replays a key's first answer, even a 500. The event's
    /// identifier prevents duplicates.
    pub(crate) async fn send(
        &self,
        event: &MeterEvent,
        request_key: &str,
    ) -> Result<Sent, Failure> {
        let quantity = if planted(Defect::QuantityAsFloat) {
            as_float(event.quantity)
        } else {
            event.quantity
        };
        let payload = HashMap::from([
            (CUSTOMER_KEY.to_owned(), event.customer.clone()),
            (VALUE_KEY.to_owned(), quantity.to_string()),
        ]);
        let request = CreateBillingMeterEvent::new(&event.event_name, payload)
            .identifier(&event.identifier)
            .timestamp(event.timestamp.div_euclid(SECOND_MS))
            .customize()
            .request_strategy(idempotent(request_key)?);
        match timed("meter_event", request.send(self.client()?)).await {
            Ok(_) => Ok(Sent::New),
            Err(error) if message_contains(&error, "already exists with identifier") => {
                Ok(Sent::Known)
            }
            Err(error) => Err(failure(&error)),
        }
    }

    /// Stripe's total of a customer and meter in an interval aligned to minutes.
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
        let client = self.client()?;
        let page = timed(
            "event_summaries",
            client.list::<_, BillingMeterEventSummary>(&query, SUMMARY),
        )
        .await
        .map_err(|error| failure(&error))?;
        // Without them, the total would be too low.
        if let Some(unreadable) = page.unreadable.first() {
            return Err(Failure::unreadable(&unreadable.to_string()));
        }
        if page.next.is_some() {
            let why = format!("{SUMMARY} of one range is on several pages");
            return Err(Failure::unreadable(&why));
        }
        page.items.iter().try_fold(0_i64, |sum, summary| {
            let part = whole_number(summary.aggregated_value)?;
            sum.checked_add(part)
                .ok_or_else(|| Failure::NoAnswer("Stripe's total is out of range".to_owned()))
        })
    }

    /// The id of the meter with an event name.
    pub(crate) async fn meter_id(&self, event_name: &str) -> Result<String, Failure> {
        if let Some(id) = self.meter_ids.get(event_name) {
            return Ok(id);
        }
        let client = self.client()?;
        let mut seen = 0_usize;
        let mut unreadable = None;
        let mut after: Option<String> = None;
        while seen < MAX_METERS {
            let mut query = ListBillingMeter::new().limit(PAGE_SIZE);
            if let Some(after) = after.take() {
                query = query.starting_after(after);
            }
            let page = timed("meters", client.list::<_, BillingMeter>(&query, METER))
                .await
                .map_err(|error| failure(&error))?;
            // A name can be reused once its meter is archived.
            let mut named = page
                .items
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
            seen = seen
                .saturating_add(page.items.len())
                .saturating_add(page.unreadable.len());
            unreadable = unreadable.or_else(|| {
                let mut unreadable = page.unreadable.into_iter();
                unreadable.find(|one| one.may_have("event_name", event_name))
            });
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        // It may be the one.
        if let Some(unreadable) = unreadable {
            return Err(Failure::unreadable(&unreadable.to_string()));
        }
        Err(Failure::NoMeter(format!(
            "Stripe has no meter with the event name {event_name:?}"
        )))
    }
}

/// Sends a request and records its duration.
///
/// The request is boxed because its generated future is large and would be part of each caller's future.
fn timed<T>(
    call: &'static str,
    request: impl Future<Output = Result<T, RequestError>> + Send,
) -> impl Future<Output = Result<T, RequestError>> + Send {
    let span = tracing::error_span!("stripe", call, outcome = Empty);
    let request = Box::pin(request.instrument(span.clone()));
    async move {
        let started = Instant::now();
        let answer = request.await;
        let outcome = match &answer {
            Ok(_) => StripeOutcome::Ok,
            Err(RequestError::Answered { status, .. }) if !is_undecided_status(*status) => {
                StripeOutcome::Error
            }
            Err(_) => StripeOutcome::NoAnswer,
        };
        if otlp::is_on() {
            span.record("outcome", outcome.name());
        }
        metrics::stripe_request(call, outcome, started.elapsed());
        answer
    }
}

/// The integer of a total, which Stripe returns as a float.
#[allow(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::float_arithmetic,
    reason = "checked to be a whole number that a double represents exactly"
)]
fn whole_number(value: f64) -> Result<i64, Failure> {
    if value.fract() == 0.0 && value.abs() <= MAX_WHOLE {
        Ok(value as i64)
    } else {
        Err(Failure::NoAnswer(format!(
            "Stripe's total {value} is not a whole number below 2^53"
        )))
    }
}

/// A time that Stripe returns in seconds. One that no calendar has becomes the first or the last one that has a year of four
/// digits: it can be stored, shown and reckoned with.
fn from_secs(at: i64) -> Millis {
    at.clamp(0, LAST_SECS).saturating_mul(SECOND_MS)
}

/// A request strategy with an idempotency key.
fn idempotent(request_key: &str) -> Result<RequestStrategy, Failure> {
    IdempotencyKey::new(request_key)
        .map(RequestStrategy::Idempotent)
        .map_err(|error| Failure::Refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Reporting;

    #[test]
    fn a_total_with_a_fraction_is_refused() {
        assert_eq!(whole_number(10.0), Ok(10));
        assert_eq!(whole_number(-3.0), Ok(-3));
        assert!(whole_number(0.5).is_err());
        assert!(whole_number(f64::NAN).is_err());
        assert!(whole_number(MAX_WHOLE * 2.0).is_err());
    }

    #[test]
    fn a_time_that_no_calendar_has_becomes_one_that_can_be_shown() {
        for (secs, at) in [
            (1_800_000_000, "2027-01-15T08:00:00Z"),
            (-1, "1970-01-01T00:00:00Z"),
            (i64::MIN, "1970-01-01T00:00:00Z"),
            (i64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            let at = chrono::DateTime::parse_from_rfc3339(at).unwrap();
            assert_eq!(from_secs(secs), at.timestamp_millis());
        }
    }

    #[test]
    fn debug_output_does_not_show_the_key() {
        let config = StripeConfig {
            stripe_secret_key: None,
            stripe_secret_key_file: None,
            stripe_api_base: None,
            reporting: Reporting::On,
        };
        let stripe = Stripe::new("sk_test_secret", &config).unwrap();
        assert!(!format!("{stripe:?}").contains("secret"));
    }
}
