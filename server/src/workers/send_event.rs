//! One request of the sender: sends a meter event to Stripe, and maps the response to the report's transition.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    backoff::{backoff_ms, duration},
    lease::LEASE,
};
use crate::{
    domain::{
        Millis,
        meter::Meters,
        pause::PauseReason,
        report::{Report, Transition, identifier},
        stream::Stream,
    },
    log_limit::LogLimit,
    planted_defects::{Defect, planted},
    store::{Store, send_queue::SendResult},
    stripe::{Failure, MeterEvent, Sent, Stripe},
};

/// Reports that Stripe neither took nor refused.
static UNDECIDED: LogLimit = LogLimit::new();

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
    /// Whether Stripe decided about an event, so that it accepts the key for events.
    pub(super) is_key_accepted: bool,
}

impl Ended {
    /// The report was not sent, because its claim had expired. It is due again.
    pub(super) fn unsent(report: Report, may_have_arrived: bool) -> Self {
        tracing::warn!(report = %report.id, "a report was not sent: this replica was suspended after it had claimed it");
        Self {
            send_result: SendResult {
                report,
                transition: None,
                cannot_have_arrived: !may_have_arrived,
                error: Some("not sent: the replica was suspended before the request".to_owned()),
                next_attempt_at: 0,
            },
            pause: None,
            is_key_accepted: false,
        }
    }

    /// A report that was looked for at Stripe.
    pub(super) fn looked_up(send_result: SendResult) -> Self {
        Self {
            send_result,
            pause: None,
            is_key_accepted: false,
        }
    }
}

/// When a report was claimed, which is when it was recorded as `sending`, by the database's clock and by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) at: Millis,
    pub(super) instant: Instant,
}

/// How long a claim is valid: no longer than a lease lasts, after which another replica may send the report. A replica that
/// was suspended for a day would otherwise repeat an event whose identifier Stripe has forgotten.
const CLAIM_VALID: Duration = LEASE;

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

    /// Whether a claim is still valid, on both clocks. A database that does not respond leaves that open: then it is not.
    pub(super) async fn is_valid(&self, claim: Claim) -> bool {
        let now = self.store.now_as_read().await.unwrap_or(Millis::MAX);
        let age = now.saturating_sub(claim.at);
        let is_young = duration(age) <= CLAIM_VALID && claim.instant.elapsed() <= CLAIM_VALID;
        is_young || planted(Defect::StaleMarkSent)
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
        let number = if planted(Defect::NewIdentifierOnRetry) {
            report.attempts.saturating_sub(1)
        } else {
            report.generation
        };
        let name = identifier(report.id, number);
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
            Err(Failure::NotSent(why)) if self.stripe.is_unreachable() => {
                (None, Some(Pause::Unreachable(why.clone())))
            }
            // Unsent, while others reach Stripe; or without an answer.
            Err(Failure::NotSent(_) | Failure::NoAnswer(_) | Failure::Unreadable(_)) => {
                (None, None)
            }
            Err(Failure::Denied(_)) => (None, Some(Pause::KeyRefused)),
            Err(Failure::NoMeter(_)) => (None, Some(Pause::Meter(meter))),
            Err(Failure::NoCustomer(_) | Failure::Refused(_)) if may_have_arrived => (None, None),
            Err(Failure::NoCustomer(_)) => (Some(Transition::MarkCustomerDeleted), None),
            Err(Failure::Refused(_)) => (Some(Transition::Reject), None),
        };
        let (transition, pause) = misread(&answer).unwrap_or((transition, pause));
        let error = match &answer {
            Ok(Sent::Known) if pause.is_some() => Some(KNOWN.to_owned()),
            Ok(_) => None,
            Err(failure) => Some(failure.message().to_owned()),
        };
        log(
            &report,
            error.as_deref(),
            pause.is_some(),
            transition.is_some(),
        );
        // A pause is due to a refusal, or nothing was sent.
        let is_certain = pause.is_some() || matches!(answer, Err(Failure::NotSent(_)));
        let next_attempt_at = match &pause {
            // The pause is the wait.
            Some(Pause::Unreachable(_)) => 0,
            _ => backoff_ms(report.attempts.saturating_sub(1), self.retry_ms),
        };
        Ended {
            send_result: SendResult {
                report,
                transition,
                cannot_have_arrived: is_certain && !may_have_arrived,
                error,
                next_attempt_at,
            },
            pause,
            is_key_accepted: is_key_accepted(&answer),
        }
    }
}

/// Logs how an attempt ended.
fn log(report: &Report, error: Option<&str>, is_paused: bool, is_decided: bool) {
    match error {
        None => tracing::debug!(report = %report.id, "Stripe accepted a meter event"),
        // An outage of Stripe fails all reports that are sent meanwhile.
        Some(error) if !is_paused && !is_decided => {
            if let Some(unlogged) = UNDECIDED.count() {
                tracing::warn!(report = %report.id, attempt = report.attempts, error, unlogged, "Stripe did not accept a meter event: it is sent again");
            }
        }
        // A pause has a line for all reports, and each attempt may end like the one before.
        Some(error) if !is_paused && report.last_error.as_deref() != Some(error) => {
            tracing::warn!(report = %report.id, attempt = report.attempts, error, "Stripe did not accept a meter event");
        }
        Some(error) => {
            tracing::debug!(report = %report.id, attempt = report.attempts, error, "Stripe did not accept a meter event again");
        }
    }
}

/// What a deliberate defect makes of an answer.
fn misread(answer: &Result<Sent, Failure>) -> Option<(Option<Transition>, Option<Pause>)> {
    let transition = match answer {
        Ok(Sent::Known) if planted(Defect::KnownTakenForRefusal) => Some(Transition::Reject),
        Err(Failure::NoAnswer(_)) if planted(Defect::NoAnswerTakenForRefusal) => {
            Some(Transition::Reject)
        }
        Err(Failure::NoAnswer(_)) if planted(Defect::NoAnswerTakenForSuccess) => {
            Some(Transition::Accept)
        }
        Err(Failure::Denied(_)) if planted(Defect::RefusedKeyRejectsUsage) => {
            Some(Transition::Reject)
        }
        _ => return None,
    };
    Some((transition, None))
}

/// Whether an answer about an event shows that Stripe accepts the key.
fn is_key_accepted(answer: &Result<Sent, Failure>) -> bool {
    match answer {
        Ok(_) => true,
        Err(failure) => !failure.is_undecided() && !matches!(failure, Failure::Denied(_)),
    }
}
