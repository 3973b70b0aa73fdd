//! Due work: period ends, finalizations and cancellations are done in order, each at its due time, before anything else
//! is processed.

use super::billing_state::Due;
use super::calendar::Period;
use super::invoices::{self, InvoiceDraft, Line, Status};
use super::subscriptions::{self, Subscription, price_of};
use crate::errors::StripeError;
use crate::state::State;

/// Does all work that is due by the clock.
pub(crate) fn run_due_work(state: &mut State) {
    let now = state.clock.now_secs();
    while let Some((at, due)) = state.billing.take_due(now) {
        let result = match &due {
            Due::Finalization(id) => finalize(state, id, at),
            Due::Subscription(id) => end_periods(state, id, at),
        };
        if let Err(error) = result {
            tracing::error!(?due, message = error.message, "due billing work failed");
        }
    }
}

/// Finalizes a draft, unless it was finalized manually or its grace period became longer.
fn finalize(state: &mut State, id: &str, at: i64) -> Result<(), StripeError> {
    let invoice = invoices::find(state, id)?;
    if invoice.status == Status::Draft && invoice.finalizes_at == Some(at) {
        invoices::finalize(state, id, at)?;
    }
    Ok(())
}

/// Ends the periods that end now, and the subscription if it is to be canceled now.
fn end_periods(state: &mut State, id: &str, at: i64) -> Result<(), StripeError> {
    let mut subscription = subscriptions::find(state, id)?;
    if subscription.next_due() != Some(at) {
        return Ok(());
    }
    let cancels = subscription.cancel_at == Some(at);
    let draft = next_invoice(state, &mut subscription, at, cancels)?;
    if cancels {
        subscription.ended_at = Some(at);
        subscription.canceled_at = subscription.canceled_at.or(Some(at));
    }
    invoices::create(state, &mut subscription, draft)?;
    let kind = if cancels {
        "customer.subscription.deleted"
    } else {
        "customer.subscription.updated"
    };
    subscriptions::save(state, subscription, kind, at)?;
    Ok(())
}

/// The invoice of the periods that end at a moment: their usage, what is pending, and the fees of the periods that begin.
/// The items move on to those.
pub(crate) fn next_invoice(
    state: &State,
    subscription: &mut Subscription,
    at: i64,
    cancels: bool,
) -> Result<InvoiceDraft, StripeError> {
    let mut lines = std::mem::take(&mut subscription.pending);
    let mut period = Period { start: at, end: at };
    let mut fees = Vec::new();
    let mut items = std::mem::take(&mut subscription.items);
    for item in &mut items {
        let price = price_of(state, &item.price)?;
        let is_over = item.period.end <= at;
        if !is_over && !cancels {
            continue;
        }
        period.start = period.start.min(item.period.start);
        if let Some(usage) = subscription.usage(item, &price, at) {
            lines.push(Line::usage(usage));
        } else if !is_over {
            // A cancellation within a period credits the rest of its fee.
            let full = price
                .recurrence()
                .period_at(subscription.anchor, item.period.start);
            let rest = item.fee_from(&price, at, full).saturating_neg();
            let span = Period {
                start: at,
                end: item.period.end,
            };
            lines.push(Line::proration(item, rest, span));
        }
        if !cancels {
            item.period = price.recurrence().period_at(subscription.anchor, at);
            item.used_from = at;
            if price.meter().is_none() {
                fees.push(Line::fee(item, item.fee(&price), item.period));
            }
        }
    }
    subscription.items = items;
    lines.extend(fees);
    Ok(InvoiceDraft {
        lines,
        period,
        reason: "subscription_cycle",
        at,
        grace: true,
    })
}
