//! One request of the sender: sends a meter event to Stripe, and maps the response to the report's transition.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};

use crate::{
    domain::{
        Millis,
        meter::Meters,
        report::{Report, Transition, identifier},
        stream::Stream,
    },
    store::{Store, send::SendResult},
    stripe::{Failure, MeterEvent, Stripe},
};

/// The longest wait before a request is repeated.
pub(super) const MAX_RETRY: Duration = Duration::from_mins(15);

/// Dependencies of a request.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    pub(crate) store: Store,
    pub(crate) stripe: Stripe,
    pub(crate) meters: Arc<Meters>,
    /// The shortest wait before a request is repeated.
    pub(crate) retry_ms: Millis,
}

/// A completed request.
#[derive(Debug)]
pub(super) struct Ended {
    /// The result to record. Its `next_attempt_at` is relative until the sender adds the current time.
    pub(super) send_result: SendResult,
    /// What must not be sent for a while, if anything.
    pub(super) pause: Option<Pause>,
}

/// What Stripe rejects regardless of the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    KeyRefused,
    Meter(String),
}

impl Requests {
    /// The event name of a meter at Stripe; absent if the meter is no longer configured.
    pub(super) fn event_name(&self, meter: &str) -> Option<String> {
        let meter = self.meters.find(meter)?;
        Some(meter.event_name.to_string())
    }

    /// Sends an event. `may_have_arrived` means that an earlier attempt may have arrived. A rejection then does not
    /// decide about that attempt; only a delivery check does.
    pub(super) async fn send(
        &self,
        stream: Stream,
        report: Report,
        may_have_arrived: bool,
    ) -> Ended {
        let Stream { customer, meter } = stream;
        let name = identifier(report.id, report.generation);
        let event = MeterEvent {
            event_name: self.event_name(&meter).unwrap_or_else(|| meter.clone()),
            customer,
            quantity: report.quantity,
            timestamp: report.event_timestamp.unwrap_or(report.window_start),
            identifier: name.clone(),
        };
        let answer = self
            .stripe
            .send(&event, &format!("{name}-{}", report.attempts))
            .await;
        let (transition, pause) = match &answer {
            Ok(()) => (Some(Transition::Accept), None),
            Err(Failure::NoAnswer(_)) => (None, None),
            Err(Failure::Denied(_)) => (None, Some(Pause::KeyRefused)),
            Err(Failure::NoMeter(_)) => (None, Some(Pause::Meter(meter))),
            Err(Failure::NoCustomer(_) | Failure::Refused(_)) if may_have_arrived => (None, None),
            Err(Failure::NoCustomer(_)) => (Some(Transition::MarkCustomerDeleted), None),
            Err(Failure::Refused(_)) => (Some(Transition::Reject), None),
        };
        let error = answer.err().map(|failure| failure.message().to_owned());
        match &error {
            None => tracing::debug!(report = %report.id, "Stripe accepted a meter event"),
            Some(error) => {
                tracing::warn!(report = %report.id, attempt = report.attempts, %error, "Stripe did not accept a meter event");
            }
        }
        let next_attempt_at = backoff_ms(report.attempts.saturating_sub(1), self.retry_ms);
        Ended {
            send_result: SendResult {
                report,
                transition,
                cannot_have_arrived: pause.is_some() && !may_have_arrived,
                error,
                next_attempt_at,
            },
            pause,
        }
    }
}

/// How long after an attempt the next one follows: doubling, with jitter, up to a quarter of an hour.
pub(super) fn backoff_ms(attempts: i32, retry_ms: Millis) -> Millis {
    let mut backoff = ExponentialBuilder::default()
        .with_min_delay(duration(retry_ms))
        .with_max_delay(MAX_RETRY)
        .without_max_times()
        .with_jitter()
        .build();
    let nth = usize::try_from(attempts).unwrap_or(0);
    let wait = backoff.nth(nth).unwrap_or(MAX_RETRY);
    Millis::try_from(wait.as_millis()).unwrap_or(Millis::MAX)
}

/// A number of milliseconds as a duration; zero for a negative one.
pub(super) fn duration(ms: Millis) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_and_is_bounded() {
        let backoff = |attempts| backoff_ms(attempts, 1_000);
        assert!((1_000..=2_000).contains(&backoff(0)));
        assert!((4_000..=8_000).contains(&backoff(2)));
        let longest = Millis::try_from(MAX_RETRY.as_millis()).unwrap();
        assert!(backoff(40) <= 2 * longest);
    }
}
