//! Whether a report may be sent now: which billing period it belongs to, and whether that period's invoice still
//! takes it.
//!
//! What is known is read by the store, in one go for many reports; the decision is made here and nowhere else.

use super::{
    HOUR_MS, MINUTE_MS, Millis, SECOND_MS,
    invoice::{InvoiceState, LateUsage, Timing},
    subscription_change::Step,
    window::Interval,
};

/// How long a report waits while the account's subscription is being changed.
const CHANGE_WAIT_MS: Millis = SECOND_MS;
/// How long a report waits for a sync of its invoice.
const INVOICE_WAIT_MS: Millis = 5 * SECOND_MS;
/// How long a report waits for a sync of the next billing period.
const NEXT_PERIOD_WAIT_MS: Millis = MINUTE_MS;
/// How long after a period's end Stripe may still show it as the current one.
const ROLLOVER_MS: Millis = HOUR_MS;

/// When a report's usage happened, when it is billed, and whether it adds or subtracts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageTimes {
    /// The time of its first increment.
    pub first_at: Millis,
    /// The time of its last increment.
    pub last_at: Millis,
    /// When it is billed instead of at its first increment.
    pub bill_at: Option<Millis>,
    /// Its quantity.
    pub quantity: i64,
}

impl UsageTimes {
    /// The moment that decides in which period it is billed.
    fn billed_at(&self) -> Millis {
        self.bill_at.unwrap_or(self.first_at)
    }
}

/// What is known of the billing of one account, customer and meter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BillingContext {
    /// The billing periods, in any order.
    pub periods: Vec<InvoicePeriod>,
    /// The change of the account's subscription that is in progress.
    pub change: Option<ChangeInProgress>,
}

/// A billing period, and what is known of its invoice and subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvoicePeriod {
    /// Its time.
    pub interval: Interval,
    /// The first moment whose usage Stripe bills to it, where that is later than its start.
    pub bills_from: Option<Millis>,
    /// What is known of its invoice.
    pub invoice_state: InvoiceState,
    /// `sub_...`
    pub subscription: String,
    /// When the subscription ended.
    pub ended_at: Option<Millis>,
    /// When the subscription was last synced.
    pub synced_at: Millis,
    /// When a sync found that the customer was deleted at Stripe.
    pub customer_deleted_at: Option<Millis>,
}

impl InvoicePeriod {
    fn timing(&self, now: Millis) -> Timing {
        self.invoice_state.timing(self.interval.end, now)
    }

    /// The first moment whose usage Stripe bills to it.
    fn billed_from(&self) -> Millis {
        self.interval
            .start
            .max(self.bills_from.unwrap_or(Millis::MIN))
    }
}

/// A change of a subscription that is in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeInProgress {
    /// Usage from it on is billed as after the change.
    pub boundary_at: Millis,
    /// How far it is.
    pub step: Step,
}

/// What to do with a report that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendDecision {
    /// Send it.
    Send {
        /// The earliest event timestamp, where its period charges only from later than its start.
        not_before: Option<Millis>,
    },
    /// Send it as usage of this moment: its own invoice is final.
    SendAt(Millis),
    /// Decide again later.
    Wait {
        /// When to decide again.
        until: Millis,
        /// The subscription to sync until then: only Stripe knows the rest.
        sync: Option<String>,
    },
    /// No invoice takes it.
    TooLate,
    /// No invoice takes it, and its customer was deleted at Stripe.
    CustomerDeleted,
}

impl BillingContext {
    /// The latest period that contains a moment.
    fn period_at(&self, at: Millis) -> Option<&InvoicePeriod> {
        self.latest(|period| period.interval.contains(at))
    }

    fn latest(&self, is_one: impl Fn(&InvoicePeriod) -> bool) -> Option<&InvoicePeriod> {
        self.periods
            .iter()
            .filter(|period| is_one(period))
            .max_by_key(|period| period.interval.start)
    }

    /// Whether it is unknown how usage of a moment is billed, because the subscription is being changed: usage
    /// from the boundary on while earlier usage drains, and all usage once Stripe is called.
    fn is_changing(&self, at: Millis) -> bool {
        self.change
            .is_some_and(|change| change.boundary_at <= at || change.step == Step::Changing)
    }

    /// Whether Stripe charges for usage of now, as far as is known: where no period is known, it may.
    pub fn may_be_charged(&self, now: Millis) -> bool {
        self.periods.is_empty() || self.period_at(now).is_some()
    }
}

/// Decides whether a report may be sent now.
pub fn decide(
    usage: UsageTimes,
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
    let Some(period) = context.period_at(at) else {
        return outside_periods(usage, context, late_usage, now);
    };
    match period.timing(now) {
        Timing::InTime => SendDecision::Send {
            not_before: period.bills_from,
        },
        Timing::AskFirst => SendDecision::Wait {
            until: now.saturating_add(INVOICE_WAIT_MS),
            sync: Some(period.subscription.clone()),
        },
        Timing::TooLate if period.customer_deleted_at.is_some() => SendDecision::CustomerDeleted,
        Timing::TooLate => after_final_invoice(usage, period, context, late_usage, now),
    }
}

/// Usage in no known period. Where the subscription charges only from later on, or no longer, Stripe would accept
/// the event and charge it on no invoice.
fn outside_periods(
    usage: UsageTimes,
    context: &BillingContext,
    late_usage: LateUsage,
    now: Millis,
) -> SendDecision {
    let at = usage.billed_at();
    if context
        .periods
        .iter()
        .any(|period| period.interval.start > at)
    {
        return decide_late_usage(usage, context, late_usage, now);
    }
    let Some(last) = context.latest(|period| period.interval.end <= at) else {
        return SendDecision::Send { not_before: None };
    };
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
        decide_late_usage(usage, context, late_usage, now)
    }
}

/// Usage whose period's invoice is final. A report that reaches into the next period, because their boundary was
/// learned late, is billed there.
fn after_final_invoice(
    usage: UsageTimes,
    period: &InvoicePeriod,
    context: &BillingContext,
    late_usage: LateUsage,
    now: Millis,
) -> SendDecision {
    if usage.bill_at.is_none() && usage.last_at >= period.interval.end {
        let later = context.period_at(usage.last_at);
        if let Some(later) = later.filter(|later| later.timing(now) == Timing::InTime) {
            return SendDecision::SendAt(later.billed_from());
        }
    }
    decide_late_usage(usage, context, late_usage, now)
}

/// Usage that its own invoice does not take. A negative quantity never moves to the current period: that may hold
/// less, and Stripe would bill 0.
fn decide_late_usage(
    usage: UsageTimes,
    context: &BillingContext,
    late_usage: LateUsage,
    now: Millis,
) -> SendDecision {
    if late_usage == LateUsage::Hold || usage.quantity < 0 {
        return SendDecision::TooLate;
    }
    match context.period_at(now) {
        Some(current) if current.billed_from() > now => SendDecision::Wait {
            until: current.billed_from(),
            sync: None,
        },
        Some(_) => SendDecision::SendAt(now),
        None => SendDecision::TooLate,
    }
}

#[cfg(test)]
mod tests;
