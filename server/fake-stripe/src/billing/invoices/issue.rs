//! Creating and finalizing invoices.

use super::{Invoice, InvoiceDraft, Status};
use crate::billing::prices::price_of;
use crate::billing::state::{Billing, Due};
use crate::billing::subscriptions::Subscription;
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
    let invoice = Invoice {
        id: id.clone(),
        customer: subscription.customer.clone(),
        subscription: subscription.id.clone(),
        currency: subscription.currency.clone(),
        reason: draft.reason,
        status: Status::Draft,
        created: draft.at,
        finalizes_at: draft.grace.then_some(finalizes_at),
        finalized_at: None,
        number: None,
        period: draft.period,
        lines: draft.lines,
    };
    let body = billing.invoice_json(&invoice, metering);
    subscription.latest_invoice = Some(id.clone());
    billing.invoices.insert(&id, invoice);
    billing.record_event("invoice.created", draft.at, &body, None);
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
    let mut invoice = billing.invoice(id)?.clone();
    let visibility = Visibility::received(metering);
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
    invoice.status = if invoice.due() == 0 {
        Status::Paid
    } else {
        Status::Open
    };
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
