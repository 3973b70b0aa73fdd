//! Immediate cancellation of a subscription: by `DELETE /v1/subscriptions/{id}`, or because its customer is deleted.

use serde_json::Value;

use super::calendar::Period;
use super::invoices::{self, InvoiceDraft, Line};
use super::subscription_update::CancellationDetails;
use super::subscriptions::{self, Subscription, price_of};
use super::usage::{FinalUsage, Usage, Visibility};
use crate::errors::StripeError;
use crate::params::Params;
use crate::state::State;

pub(crate) fn cancel(
    state: &mut State,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    let invoice_now = params.boolean("invoice_now")?.unwrap_or(false);
    let prorate = params.boolean("prorate")?.unwrap_or(false);
    let details = CancellationDetails::take(&mut params)?;
    params.finish()?;
    let mut subscription = subscriptions::find(state, id)?;
    if subscription.is_canceled() {
        return Err(StripeError::no_such("subscription", id));
    }
    details.apply(&mut subscription);
    cancel_subscription(state, subscription, invoice_now, prorate)
}

/// Cancels all subscriptions of a deleted customer; usage since the last invoice is never billed.
pub(crate) fn cancel_all_of_customer(state: &mut State, customer: &str) -> Result<(), StripeError> {
    let running: Vec<Subscription> = state
        .billing
        .subscriptions
        .newest_first()
        .filter(|one| one.customer == customer && !one.is_canceled())
        .cloned()
        .collect();
    for subscription in running.into_iter().rev() {
        cancel_subscription(state, subscription, false, false)?;
    }
    Ok(())
}

fn cancel_subscription(
    state: &mut State,
    mut subscription: Subscription,
    invoice_now: bool,
    prorate: bool,
) -> Result<Value, StripeError> {
    let now = state.clock.now_secs();
    let mut lines = std::mem::take(&mut subscription.pending);
    let mut period = Period {
        start: now,
        end: now,
    };
    let discard_reason = (!invoice_now).then_some("canceled_without_invoice");
    let visibility = Visibility::aggregated(state);
    for item in subscription.items.clone() {
        let price = price_of(state, &item.price)?;
        period.start = period.start.min(item.period.start);
        // Usage in the second of the cancellation is included, because no later invoice can bill it.
        if let Some(usage) = subscription.usage(&item, &price, now.saturating_add(1)) {
            let line = Line::usage(Usage {
                to: now,
                ..usage.clone()
            });
            let quantity = usage.make_final(state, visibility, discard_reason, now);
            let line = line.bill(&price, quantity);
            if line.quantity != 0 || line.amount != 0 {
                lines.push(line);
            }
        } else if prorate {
            let full = price
                .recurrence()
                .period_at(subscription.anchor, item.period.start);
            let rest = item.fee_from(&price, now, full).saturating_neg();
            let span = Period {
                start: now,
                end: item.period.end,
            };
            lines.push(Line::proration(&item, rest, span));
        }
    }
    subscription.ended_at = Some(now);
    subscription.canceled_at = Some(now);
    subscription.cancel_at_period_end = false;
    if invoice_now {
        let draft = InvoiceDraft {
            lines,
            period,
            reason: "subscription_update",
            at: now,
            grace: false,
        };
        invoices::create(state, &mut subscription, draft)?;
    } else {
        discard_pending_usage(state, &subscription, &lines, now);
    }
    subscriptions::save(state, subscription, "customer.subscription.deleted", now)
}

/// Discards usage of removed items: it was pending for a next invoice, which is never created now.
fn discard_pending_usage(state: &mut State, subscription: &Subscription, lines: &[Line], now: i64) {
    for line in lines.iter().filter(|line| line.invoice_item.is_some()) {
        let Some(meter) = &line.meter else { continue };
        let final_usage =
            state
                .billing
                .final_usage
                .iter_mut()
                .rev()
                .find(|final_usage: &&mut FinalUsage| {
                    final_usage.usage.subscription == subscription.id
                        && final_usage.usage.item == line.item
                        && final_usage.usage.meter == *meter
                        && final_usage.usage.from == line.period.start
                        && final_usage.discard_reason.is_none()
                });
        if let Some(final_usage) = final_usage {
            final_usage.discard_reason = Some("canceled_without_invoice");
            final_usage.at = now;
        }
    }
}
