//! Immediate cancellation of a subscription: by `DELETE /v1/subscriptions/{id}`, or because its customer is deleted.

use serde_json::Value;

use super::Subscription;
use super::update::CancellationDetails;
use crate::billing::calendar::Period;
use crate::billing::invoices::line::Line;
use crate::billing::invoices::{InvoiceDraft, issue};
use crate::billing::prices::price_of;
use crate::billing::state::Billing;
use crate::billing::usage::{FinalUsage, Usage, Visibility};
use crate::customers::{self, Customer};
use crate::errors::StripeError;
use crate::list::Collection;
use crate::metering::Metering;
use crate::params::Params;

pub(crate) fn cancel(
    billing: &mut Billing,
    metering: Metering<'_>,
    now: i64,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    let invoice_now = params.boolean("invoice_now")?.unwrap_or(false);
    let prorate = params.boolean("prorate")?.unwrap_or(false);
    let details = CancellationDetails::take(&mut params)?;
    params.finish()?;
    let mut subscription = billing.subscription(id)?;
    if subscription.is_canceled() {
        return Err(StripeError::no_such("subscription", id));
    }
    details.apply(&mut subscription);
    let invoice = Invoicing {
        now: invoice_now,
        prorate,
    };
    cancel_subscription(billing, metering, now, subscription, invoice)
}

/// Deletes a customer, which cancels its subscriptions at once.
pub(crate) fn delete_customer(
    customers: &mut Collection<Customer>,
    billing: &mut Billing,
    metering: Metering<'_>,
    now: i64,
    id: &str,
) -> Result<Value, StripeError> {
    let last = customers::find_existing(customers, id)?.json(&billing.balances);
    cancel_all_of_customer(billing, metering, now, id)?;
    billing.record_event("customer.deleted", now, &last, None);
    let customer = customers::find_existing(customers, id)?;
    customer.deleted = true;
    Ok(customer.json(&billing.balances))
}

/// Cancels all subscriptions of a deleted customer; usage since the last invoice is never billed.
fn cancel_all_of_customer(
    billing: &mut Billing,
    metering: Metering<'_>,
    now: i64,
    customer: &str,
) -> Result<(), StripeError> {
    let running: Vec<Subscription> = billing
        .subscriptions
        .newest_first()
        .filter(|one| one.customer == customer && !one.is_canceled())
        .cloned()
        .collect();
    for subscription in running.into_iter().rev() {
        cancel_subscription(billing, metering, now, subscription, Invoicing::default())?;
    }
    Ok(())
}

/// How a cancellation is invoiced.
#[derive(Debug, Clone, Copy, Default)]
struct Invoicing {
    /// Whether an invoice is created now. Without it, usage since the last invoice is never billed.
    now: bool,
    /// Whether the unused part of fees is credited.
    prorate: bool,
}

fn cancel_subscription(
    billing: &mut Billing,
    metering: Metering<'_>,
    now: i64,
    mut subscription: Subscription,
    invoice: Invoicing,
) -> Result<Value, StripeError> {
    let mut lines = std::mem::take(&mut subscription.pending);
    let mut period = Period {
        start: now,
        end: now,
    };
    let free_reason = subscription.free_reason();
    let discard_reason =
        free_reason.or_else(|| (!invoice.now).then_some("canceled_without_invoice"));
    let visibility = Visibility::aggregated(metering);
    for item in subscription.items.clone() {
        let price = price_of(&billing.prices, &item.price)?;
        period.start = period.start.min(item.period.start);
        // Usage in the second of the cancellation is included, since no later invoice can bill it.
        if let Some(usage) = subscription.usage(&item, &price, now.saturating_add(1)) {
            let line = Line::usage(Usage {
                to: now,
                ..usage.clone()
            });
            let quantity = billing.make_final(usage, metering, visibility, discard_reason, now);
            let line = line.bill(&price, quantity);
            if free_reason.is_none() && (line.quantity != 0 || line.amount != 0) {
                lines.push(line);
            }
        } else if invoice.prorate && free_reason.is_none() {
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
    if invoice.now {
        let draft = InvoiceDraft {
            lines,
            period,
            reason: "subscription_update",
            at: now,
            grace: false,
        };
        issue::create(billing, metering, &mut subscription, draft)?;
    } else {
        discard_pending_usage(billing, &subscription, &lines, now);
    }
    billing.save_subscription(subscription, "customer.subscription.deleted", now)
}

/// Discards usage of removed items: it was pending for a next invoice, which is never created now.
fn discard_pending_usage(
    billing: &mut Billing,
    subscription: &Subscription,
    lines: &[Line],
    now: i64,
) {
    for line in lines.iter().filter(|line| line.invoice_item.is_some()) {
        let Some(meter) = &line.meter else { continue };
        let final_usage =
            billing
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
