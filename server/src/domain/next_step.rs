//! What the sender does next with a due report: the decision about its invoice, together with earlier attempts and a
//! restore of the database.

use super::{
    Millis,
    clock_check::is_ahead,
    invoice_deadline::SendDecision,
    report::{MAX_EVENT_AGE_MS, NO_RESPONSE_MS, Report, State, Transition},
};
use crate::planted_defects::{Defect, planted};

/// What the sender does next with a due report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// Send it.
    Send {
        /// The time it is billed at instead of its own, because its own invoice is final. It gets another timestamp.
        bill_at: Option<Millis>,
        /// The earliest timestamp.
        not_before: Option<Millis>,
    },
    /// Check whether an earlier attempt arrived at Stripe.
    CheckDelivery,
    /// Look up whether Stripe has it from before a restore at this time.
    LookUp(Millis),
    /// Decide again at this time.
    Wait(Millis),
    /// No subscription charges it. Keep it as `uncharged`, and decide again at this time.
    Hold(Millis),
    /// Do not send it.
    Skip(Skip),
}

/// A report that is not sent: its transition, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    /// Its transition.
    pub transition: Transition,
    /// Why, for the log and for an admin.
    pub why: &'static str,
}

const WITHOUT_RESPONSE: &str =
    "Stripe did not respond for 23 hours; delivery is checked before it is sent again";

fn skip(transition: Transition, why: &'static str) -> NextStep {
    NextStep::Skip(Skip { transition, why })
}

/// What the sender does next with a due report. `decision` is that of its invoice, if its state is not `unknown`.
pub fn next_step(
    report: &Report,
    decision: Option<&SendDecision>,
    restored_at: Option<Millis>,
    now: Millis,
) -> NextStep {
    let look_up = restored_at
        .filter(|_| report.needs_look_up(restored_at) && !planted(Defect::RestoredWithoutLook));
    let decision = match decision {
        Some(decision) if report.state != State::Unknown => decision,
        _ => return look_up.map_or(NextStep::CheckDelivery, NextStep::LookUp),
    };
    if look_up.is_some() {
        return skip(
            Transition::MarkUnknown,
            "counted before a restore; it is looked up at Stripe before it is sent",
        );
    }
    let may_have_arrived = report.first_sent_at.is_some();
    match decision {
        SendDecision::Uncharged { .. } | SendDecision::NotBillable if may_have_arrived => skip(
            Transition::MarkUnknown,
            "no invoice charges it, and Stripe did not respond; delivery is checked",
        ),
        SendDecision::Uncharged { until, .. } => {
            end_of_wait(report, now).map_or(NextStep::Hold(*until), NextStep::Skip)
        }
        SendDecision::NotBillable => skip(
            Transition::MarkNotBillable,
            "its time is in a trial or after a requested cancel, which no invoice charges",
        ),
        SendDecision::Wait { until, .. } => {
            end_of_wait(report, now).map_or(NextStep::Wait(*until), NextStep::Skip)
        }
        SendDecision::SendAt(_) if restored_at.is_some_and(|at| report.first_at < at) => {
            // Before the restore it may have been sent at any time since its invoice became final.
            skip(
                Transition::MarkTooLate,
                "its invoice is final, and it may have been billed in a later period before a restore",
            )
        }
        // An attempt that has not arrived by now is too late. A delivery check finds one that has.
        SendDecision::TooLate | SendDecision::CustomerDeleted | SendDecision::SendAt(_)
            if may_have_arrived =>
        {
            skip(
                Transition::MarkUnknown,
                "Stripe did not respond before the invoice became final; delivery is checked",
            )
        }
        SendDecision::TooLate => skip(
            Transition::MarkTooLate,
            "its invoice became final before Stripe accepted it",
        ),
        SendDecision::CustomerDeleted => skip(
            Transition::MarkCustomerDeleted,
            "the customer was deleted at Stripe, and its invoice became final before Stripe accepted it",
        ),
        SendDecision::Send { .. } | SendDecision::SendAt(_) if is_without_response(report, now) => {
            skip(Transition::MarkUnknown, WITHOUT_RESPONSE)
        }
        SendDecision::Send { not_before } => NextStep::Send {
            bill_at: None,
            not_before: *not_before,
        },
        SendDecision::SendAt(at) => NextStep::Send {
            bill_at: Some(*at),
            not_before: None,
        },
    }
}

/// What happens to a report that waits, whatever it waits for, once a person has to decide on it.
pub fn end_of_wait(report: &Report, now: Millis) -> Option<Skip> {
    if report.state != State::Unknown && is_without_response(report, now) {
        return Some(Skip {
            transition: Transition::MarkUnknown,
            why: WITHOUT_RESPONSE,
        });
    }
    let latest = report.event_timestamp.unwrap_or(report.window_end);
    skip_if_too_old(report, latest, now)
}

/// Whether Stripe may have forgotten the identifier of an earlier attempt.
fn is_without_response(report: &Report, now: Millis) -> bool {
    !planted(Defect::ResentAfterDay)
        && report.first_sent_at.is_some_and(|first| {
            now.saturating_sub(first) >= NO_RESPONSE_MS || is_ahead(first, now)
        })
}

/// What happens instead of sending a report with this timestamp, if Stripe would refuse it as too old.
pub fn skip_if_too_old(report: &Report, stamp: Millis, now: Millis) -> Option<Skip> {
    let is_too_old = stamp < now.saturating_sub(MAX_EVENT_AGE_MS);
    (is_too_old && report.first_sent_at.is_none()).then_some(Skip {
        transition: Transition::MarkTooLate,
        why: "older than the 35 days that Stripe accepts",
    })
}

#[cfg(test)]
mod tests;
