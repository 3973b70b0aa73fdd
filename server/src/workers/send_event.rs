//! One request of the sender: sends a meter event to Stripe, and maps the response to the report's transition.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::time::Instant;

use super::lease::LEASE;
use crate::{
    domain::{
        Millis,
        meter::Meters,
        pause::PauseReason,
        report::{Report, Transition, identifier},
        stream::Stream,
    },
    store::{Store, send::SendResult},
    stripe::{Failure, MeterEvent, Sent, Stripe},
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

impl Ended {
    /// The report was not sent, because its mark had expired. It is due again.
    pub(super) fn unsent(report: Report, may_have_arrived: bool) -> Self {
        tracing::warn!(report = %report.id, "a report was not sent: this replica was suspended after it had marked it");
        Self {
            send_result: SendResult {
                report,
                transition: None,
                cannot_have_arrived: !may_have_arrived,
                error: Some("not sent: the replica was suspended before the request".to_owned()),
                next_attempt_at: 0,
            },
            pause: None,
        }
    }
}

/// When a report was marked as sent, by the database's clock and by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) at: Millis,
    pub(super) instant: Instant,
}

/// How long a mark is valid: no longer than a lease lasts, after which another replica may send the report. A replica that
/// was suspended for a day would otherwise repeat an event whose identifier Stripe has forgotten.
const MARK_VALID: Duration = LEASE;

/// The error of a report that Stripe knows although this database has not sent it.
const KNOWN: &str = "Stripe has an event with its identifier, and this database has not sent it";

/// What is not sent for a while, whatever the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    KeyRefused,
    /// Stripe cannot be reached, and why.
    Unreachable(String),
    Meter(String),
    /// Everything, until a command ends the pause.
    InDatabase(PauseReason),
}

impl Requests {
    /// The event name of a meter at Stripe; absent if the meter is no longer configured.
    pub(super) fn event_name(&self, meter: &str) -> Option<String> {
        let meter = self.meters.find(meter)?;
        Some(meter.event_name.to_string())
    }

    /// Whether a mark is still valid, on both clocks. A database that does not respond leaves that open: then it is not.
    pub(super) async fn is_valid(&self, mark: Mark) -> bool {
        let now = self.store.now().await.unwrap_or(Millis::MAX);
        let age = now.saturating_sub(mark.at);
        duration(age) <= MARK_VALID && mark.instant.elapsed() <= MARK_VALID
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
            timestamp: report.event_at(),
            identifier: name.clone(),
        };
        let is_first = report.looked_up_at.is_none();
        let answer = self
            .stripe
            .send(&event, &format!("{name}-{}", report.attempts))
            .await;
        let (transition, pause) = match &answer {
            // Stripe knows it, and this database did not send it. It may have other content at Stripe.
            Ok(Sent::Known) | Err(Failure::KeyReused(_)) if is_first && !may_have_arrived => {
                let pause = Pause::InDatabase(PauseReason::UnsentReportKnown);
                (Some(Transition::MarkUnknown), Some(pause))
            }
            Ok(Sent::New | Sent::Known) => (Some(Transition::Accept), None),
            Err(Failure::KeyReused(_)) => (Some(Transition::MarkUnknown), None),
            Err(Failure::NotSent(why)) => (None, Some(Pause::Unreachable(why.clone()))),
            Err(Failure::NoAnswer(_)) => (None, None),
            Err(Failure::Denied(_)) => (None, Some(Pause::KeyRefused)),
            Err(Failure::NoMeter(_)) => (None, Some(Pause::Meter(meter))),
            Err(Failure::NoCustomer(_) | Failure::Refused(_)) if may_have_arrived => (None, None),
            Err(Failure::NoCustomer(_)) => (Some(Transition::MarkCustomerDeleted), None),
            Err(Failure::Refused(_)) => (Some(Transition::Reject), None),
        };
        let error = match &answer {
            Ok(Sent::Known) if pause.is_some() => Some(KNOWN.to_owned()),
            Ok(_) => None,
            Err(failure) => Some(failure.message().to_owned()),
        };
        match &error {
            None => tracing::debug!(report = %report.id, "Stripe accepted a meter event"),
            Some(error) => {
                tracing::warn!(report = %report.id, attempt = report.attempts, %error, "Stripe did not accept a meter event");
            }
        }
        let next_attempt_at = match &pause {
            // The pause is the wait.
            Some(Pause::Unreachable(_)) => 0,
            _ => backoff_ms(report.attempts.saturating_sub(1), self.retry_ms),
        };
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
