//! Decides whether a report may be sent now: whether the invoice of its billing period can still charge it. The period
//! of a report is found in `billing_period`.
//!
//! The store reads the input for many reports at once. Only this file decides.

use super::{
    DAY_MS, HOUR_MS, MINUTE_MS, Millis, SECOND_MS,
    billed_usage::BilledUsage,
    billing_period::{InvoicePeriod, ROLLOVER_MS, latest, period_at, period_of},
    closing::CLOSE_AT_ONCE_MS,
    invoice_draft::Timing,
    late_usage::{LateUsage, LateUsageDecision},
    subscription_change::Step,
};
use crate::planted_defects::{Defect, planted};

/// How long a report waits while the account's subscription is being changed.
const CHANGE_WAIT_MS: Millis = SECOND_MS;
/// How long a report waits until it is looked at again whether a subscription charges it. A new item ends the wait.
const UNCHARGED_WAIT_MS: Millis = HOUR_MS;
/// How long a report waits for a sync of its invoice.
const INVOICE_WAIT_MS: Millis = 5 * SECOND_MS;
/// How long a report waits for a sync of the next billing period.
const NEXT_PERIOD_WAIT_MS: Millis = MINUTE_MS;

/// The known billing periods and subscription change of one account, customer and meter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BillingContext {
    /// The billing periods, in any order.
    pub periods: Vec<InvoicePeriod>,
    /// The subscription change in progress, if any.
    pub change: Option<ChangeInProgress>,
    /// If there is no period, a living subscription that the account is synced with, `sub_...`: its sync shows whether one
    /// charges the meter now.
    pub synced: Option<String>,
}

/// A change of a subscription that is in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeInProgress {
    /// Usage from this time on is billed as after the change.
    pub boundary_at: Millis,
    /// The current step.
    pub step: Step,
}

/// The decision on a due report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendDecision {
    /// Send it.
    Send {
        /// The earliest event timestamp, if the period charges only from a time after its start.
        not_before: Option<Millis>,
    },
    /// Send it as usage of this time, because its own invoice is final.
    SendAt(Millis),
    /// Decide again later.
    Wait {
        /// When to decide again.
        until: Millis,
        /// The subscription to sync until then, if its state decides.
        sync: Option<String>,
    },
    /// No item of a living subscription charges its time. Decide again later.
    Uncharged {
        /// When to decide again.
        until: Millis,
        /// The subscription to sync until then, if there is one.
        sync: Option<String>,
    },
    /// It is of a trial, or after an end of the subscription that was requested here.
    NotBillable,
    /// No invoice can charge it.
    TooLate,
    /// No invoice can charge it, and its customer was deleted at Stripe.
    CustomerDeleted,
}

impl BillingContext {
    /// Whether the billing of usage at a time is unknown, because the subscription is being changed. That is usage from
    /// the boundary on while earlier usage drains, and all usage while Stripe is called.
    fn is_changing(&self, at: Millis) -> bool {
        self.change
            .is_some_and(|change| change.boundary_at <= at || change.step == Step::Changing)
    }

    /// Whether usage belongs to a period that has ended and whose invoice is still a draft, but not after `until`.
    pub fn is_finalized_by(&self, usage: BilledUsage, until: Millis, now: Millis) -> bool {
        period_of(&self.periods, usage).is_some_and(|period| {
            let draft_end = period.invoice_state.draft_end(period.interval.end);
            period.interval.end <= now && draft_end.is_some_and(|end| end <= until)
        })
    }

    /// By when usage should be sent: the end of its draft invoice, as far as is known, or 33 days after its day if its
    /// period is not known. A change of the subscription waits for the usage before it, so that usage is due already.
    pub fn send_by(&self, usage: BilledUsage) -> Millis {
        let at = usage.billed_at();
        if let Some(change) = self.change.filter(|change| at < change.boundary_at) {
            return change.boundary_at;
        }
        match period_of(&self.periods, usage) {
            // Of a draft without an end, and of a final invoice, the period's end decides.
            Some(period) => {
                let end = period.interval.end;
                period.invoice_state.draft_end(end).unwrap_or(end)
            }
            // By days, so that a customer has few different ones.
            None => at
                .saturating_sub(at.rem_euclid(DAY_MS))
                .saturating_add(CLOSE_AT_ONCE_MS),
        }
    }

    /// Whether Stripe charges for usage at `now`.
    pub fn is_charged(&self, now: Millis) -> bool {
        period_at(&self.periods, now).is_some_and(InvoicePeriod::is_charged)
    }

    fn uncharged(&self, now: Millis) -> SendDecision {
        SendDecision::Uncharged {
            until: now.saturating_add(UNCHARGED_WAIT_MS),
            sync: self.synced.clone(),
        }
    }
}

/// Decides whether a report may be sent now.
pub fn decide(
    usage: BilledUsage,
    context: &BillingContext,
    late_usage: LateUsage,
    now: Millis,
) -> SendDecision {
    let at = usage.billed_at();
    if context.is_changing(at) {
        return SendDecision::Wait {
            until: now.saturating_add(CHANGE_WAIT_MS),
            sync: None,
        };
    }
    let Some(period) = period_of(&context.periods, usage) else {
        if planted(Defect::OutsidePeriodsSent) {
            return SendDecision::Send { not_before: None };
        }
        return outside_periods(usage, context, late_usage, now);
    };
    match period.timing(now) {
        _ if period.is_trial => SendDecision::NotBillable,
        Timing::InTime | Timing::AskFirst if period.is_paused => context.uncharged(now),
        Timing::InTime => SendDecision::Send {
            not_before: period.bills_from,
        },
        _ if planted(Defect::FinalInvoiceIgnored) => SendDecision::Send { not_before: None },
        Timing::AskFirst => SendDecision::Wait {
            until: now.saturating_add(INVOICE_WAIT_MS),
            sync: Some(period.subscription.clone()),
        },
        Timing::TooLate if period.customer_deleted_at.is_some() => SendDecision::CustomerDeleted,
        Timing::TooLate => after_final_invoice(usage, period, context, late_usage, now),
    }
}

/// Decides on usage outside all known periods. If no subscription charges its time, Stripe would accept the event without
/// charging it on any invoice. One that begins later charges only from then on, so no other one will charge it.
fn outside_periods(
    usage: BilledUsage,
    context: &BillingContext,
    late_usage: LateUsage,
    now: Millis,
) -> SendDecision {
    let at = usage.billed_at();
    let last = latest(&context.periods, |period| period.interval.end <= at);
    if last.is_some_and(|last| is_after_requested_end(at, last, &context.periods)) {
        return SendDecision::NotBillable;
    }
    if context
        .periods
        .iter()
        .any(|period| period.interval.start > at)
    {
        return decide_late_usage(usage, context, late_usage, now);
    }
    let Some(last) = last else {
        return context.uncharged(now);
    };
    if last.is_paused {
        return context.uncharged(now);
    }
    let is_over =
        last.ended_at.is_some() || last.synced_at >= last.interval.end.saturating_add(ROLLOVER_MS);
    if !is_over {
        // The next period was not synced yet.
        return SendDecision::Wait {
            until: now.saturating_add(NEXT_PERIOD_WAIT_MS),
            sync: Some(last.subscription.clone()),
        };
    }
    if last.customer_deleted_at.is_some() {
        SendDecision::CustomerDeleted
    } else {
        context.uncharged(now)
    }
}

/// Whether usage after a period is after an end of its subscription that was requested here. An admin who links the account
/// again asks to bill it from then on.
fn is_after_requested_end(at: Millis, last: &InvoicePeriod, periods: &[InvoicePeriod]) -> bool {
    let is_later = |period: &InvoicePeriod| {
        period.subscription == last.subscription && period.interval.start > last.interval.start
    };
    last.ended_at.is_some()
        && last.is_end_requested
        && last.relinked_from.is_none_or(|from| at < from)
        && !periods.iter().any(is_later)
}

/// Decides on usage whose period's invoice is final. A report that extends into the next period, because their boundary
/// became known late, is billed there.
fn after_final_invoice(
    usage: BilledUsage,
    period: &InvoicePeriod,
    context: &BillingContext,
    late_usage: LateUsage,
    now: Millis,
) -> SendDecision {
    if usage.bill_at.is_none() && usage.last_at >= period.interval.end {
        let later = period_at(&context.periods, usage.last_at);
        if let Some(later) =
            later.filter(|later| later.timing(now) == Timing::InTime && later.is_charged())
        {
            return SendDecision::SendAt(later.billed_from());
        }
    }
    decide_late_usage(usage, context, late_usage, now)
}

/// Decides on usage that its own invoice cannot charge.
fn decide_late_usage(
    usage: BilledUsage,
    context: &BillingContext,
    late_usage: LateUsage,
    now: Millis,
) -> SendDecision {
    let charged_from = period_at(&context.periods, now)
        .filter(|period| period.is_charged())
        .map(InvoicePeriod::billed_from);
    match late_usage.decide(usage, charged_from, now) {
        LateUsageDecision::BillAt(at) => SendDecision::SendAt(at),
        LateUsageDecision::WaitUntil(until) => SendDecision::Wait { until, sync: None },
        LateUsageDecision::TooLate => SendDecision::TooLate,
    }
}

#[cfg(test)]
mod tests;
