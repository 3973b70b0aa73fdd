//! Creating and finalizing invoices. A paused collection decides what becomes of them.

use super::{Invoice, InvoiceDraft, Status, outcomes};
use crate::billing::prices::price_of;
use crate::billing::state::{Billing, Due};
use crate::billing::subscriptions::Subscription;
use crate::billing::subscriptions::pause_collection::Behavior;
use crate::billing::usage::Visibility;
use crate::errors::StripeError;
use crate::ids;
use crate::metering::Metering;

/// Creates an invoice unless it has no lines, and sets the subscription's latest invoice.
pub(crate) fn create(
    billing: &mut Billing,
    metering: Metering<'_>,
    subscription: &mut Subscription,
    draft: InvoiceDraft,
) -> Result<(), StripeError> {
    if draft.lines.is_empty() {
        return Ok(());
    }
    let id = ids::billing("in_");
    let finalizes_at = draft.at.saturating_add(billing.grace_secs);
    let paused = subscription.pause_collection.map(|pause| pause.behavior);
    let invoice = Invoice {
        id: id.clone(),
        customer: subscription.customer.clone(),
        subscription: subscription.id.clone(),
        currency: subscription.currency.clone(),
        reason: draft.reason,
        status: Status::Draft,
        created: draft.at,
        finalizes_at: (draft.grace && paused.is_none()).then_some(finalizes_at),
        finalized_at: None,
        ended_at: None,
        starting_balance: 0,
        balance_change: 0,
        number: None,
        period: draft.period,
        lines: draft.lines,
    };
    let body = billing.invoice_json(&invoice, metering);
    subscription.latest_invoice = Some(id.clone());
    billing.invoices.insert(&id, invoice);
    billing.record_event("invoice.created", draft.at, &body, None);
    let ended = match paused {
        Some(Behavior::KeepAsDraft) => return Ok(()),
        Some(Behavior::MarkUncollectible) => Some(Status::Uncollectible),
        Some(Behavior::Void) => Some(Status::Void),
        None => None,
    };
    if let Some(status) = ended {
        // Stripe does not use the balance for a voided one; for an uncollectible one that is not documented.
        finalize_as(billing, metering, &id, draft.at, Some(status))?;
        outcomes::end(billing, metering, &id, status, draft.at)?;
        return Ok(());
    }
    if draft.grace {
        billing
            .schedule
            .insert((finalizes_at, Due::Finalization(id)));
        Ok(())
    } else {
        finalize(billing, metering, &id, draft.at)
    }
}

/// Finalizes a draft: its usage is measured for the last time.
pub(crate) fn finalize(
    billing: &mut Billing,
    metering: Metering<'_>,
    id: &str,
    at: i64,
) -> Result<(), StripeError> {
    finalize_as(billing, metering, id, at, None)
}

/// Finalizes a draft that has another status right afterwards, so that it is not set off against the balance or paid.
fn finalize_as(
    billing: &mut Billing,
    metering: Metering<'_>,
    id: &str,
    at: i64,
    ends_as: Option<Status>,
) -> Result<(), StripeError> {
    let mut invoice = billing.invoice(id)?.clone();
    let visibility = if billing.invoices_lag {
        Visibility::aggregated(metering)
    } else {
        Visibility::received(metering)
    };
    for line in &mut invoice.lines {
        let Some(usage) = line.usage.clone() else {
            continue;
        };
        let price = price_of(&billing.prices, &line.price)?;
        let quantity = billing.make_final(usage, metering, visibility, None, at);
        *line = line.clone().bill(&price, quantity);
    }
    billing.invoice_count = billing.invoice_count.saturating_add(1);
    invoice.number = Some(format!("SANDBOX-{:04}", billing.invoice_count));
    invoice.finalized_at = Some(at);
    invoice.finalizes_at = None;
    invoice.status = Status::Open;
    if ends_as.is_none() {
        invoice.starting_balance = billing.balances.amount(&invoice.customer);
        let after = invoice.after_balance().balance;
        invoice.balance_change = after.saturating_sub(invoice.starting_balance);
        let change = invoice.balance_change;
        billing.balances.add(&invoice.customer, change);
    }
    if ends_as.is_none() && invoice.due() == 0 {
        invoice.status = Status::Paid;
        invoice.ended_at = Some(at);
    }
    let paid = invoice.status == Status::Paid;
    let body = billing.invoice_json(&invoice, metering);
    if let Some(stored) = billing.invoices.get_mut(id) {
        *stored = invoice;
    }
    billing.record_event("invoice.finalized", at, &body, None);
    if paid {
        billing.record_event("invoice.paid", at, &body, None);
    }
    Ok(())
}
