//! What becomes of an invoice by hand: finalize, pay, void, mark as uncollectible, and `auto_advance` of a draft.
//!
//! The messages of refused changes are not documented by Stripe; these are ours, with its code.

use serde_json::Value;

use super::{Status, issue};
use crate::billing::state::{Billing, Due};
use crate::errors::StripeError;
use crate::metering::Metering;
use crate::params::Params;

/// Finalizes a draft before its grace period ends.
pub(crate) fn finalize(
    billing: &mut Billing,
    metering: Metering<'_>,
    now: i64,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    // Automatic collection would be a payment, which is not modelled.
    params.boolean("auto_advance")?;
    params.finish()?;
    if billing.invoice(id)?.status != Status::Draft {
        return Err(StripeError::refused(
            "This invoice is already finalized, you can't re-finalize a non-draft invoice.",
        )
        .code("invoice_not_editable"));
    }
    issue::finalize(billing, metering, id, now)?;
    Ok(billing.invoice_json(billing.invoice(id)?, metering))
}

/// Changes `auto_advance` of a draft. Switched on, the draft is finalized after the usual time as a draft; when exactly
/// Stripe does so is not documented.
pub(crate) fn update(
    billing: &mut Billing,
    metering: Metering<'_>,
    now: i64,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    let auto_advance = params.boolean("auto_advance")?;
    params.finish()?;
    let finalizes_at = now.saturating_add(billing.grace_secs);
    let invoice = billing
        .invoices
        .get_mut(id)
        .ok_or_else(|| StripeError::no_such("invoice", id))?;
    if let Some(auto_advance) = auto_advance {
        if invoice.status != Status::Draft {
            return Err(StripeError::unsupported(
                "auto_advance of an invoice that is no draft",
            ));
        }
        if !auto_advance {
            invoice.finalizes_at = None;
        } else if invoice.finalizes_at.is_none() {
            invoice.finalizes_at = Some(finalizes_at);
            let due = Due::Finalization(id.to_owned());
            billing.schedule.insert((finalizes_at, due));
        }
    }
    let body = billing.invoice_json(billing.invoice(id)?, metering);
    if auto_advance.is_some() {
        billing.record_event("invoice.updated", now, &body, None);
    }
    Ok(body)
}

/// Marks an invoice as paid outside of Stripe; a draft is finalized first.
pub(crate) fn pay(
    billing: &mut Billing,
    metering: Metering<'_>,
    now: i64,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    let out_of_band = params.boolean("paid_out_of_band")?.unwrap_or(false);
    params.finish()?;
    if !out_of_band {
        return Err(StripeError::unsupported(
            "paying an invoice without paid_out_of_band=true",
        ));
    }
    if billing.invoice(id)?.status == Status::Draft {
        issue::finalize(billing, metering, id, now)?;
        if billing.invoice(id)?.status == Status::Paid {
            return Ok(billing.invoice_json(billing.invoice(id)?, metering));
        }
    }
    check_status(billing, id, &[Status::Open, Status::Uncollectible])?;
    end(billing, metering, id, Status::Paid, now)
}

/// Voids an open invoice: it bills no one. What it changed of the customer's balance is taken back.
pub(crate) fn void(
    billing: &mut Billing,
    metering: Metering<'_>,
    now: i64,
    id: &str,
    params: Params,
) -> Result<Value, StripeError> {
    params.finish()?;
    check_status(billing, id, &[Status::Open, Status::Uncollectible])?;
    let invoice = billing.invoice(id)?;
    let (customer, change) = (invoice.customer.clone(), invoice.balance_change);
    billing.balances.add(&customer, change.saturating_neg());
    end(billing, metering, id, Status::Void, now)
}

/// Marks an open invoice as uncollectible.
pub(crate) fn mark_uncollectible(
    billing: &mut Billing,
    metering: Metering<'_>,
    now: i64,
    id: &str,
    params: Params,
) -> Result<Value, StripeError> {
    params.finish()?;
    check_status(billing, id, &[Status::Open])?;
    end(billing, metering, id, Status::Uncollectible, now)
}

fn check_status(billing: &Billing, id: &str, allowed: &[Status]) -> Result<(), StripeError> {
    let status = billing.invoice(id)?.status;
    if allowed.contains(&status) {
        return Ok(());
    }
    let allowed: Vec<&str> = allowed.iter().map(|one| one.name()).collect();
    Err(StripeError::refused(format!(
        "The status of this invoice is {}; this is possible while it is {}.",
        status.name(),
        allowed.join(" or ")
    ))
    .code("invoice_not_editable"))
}

/// Gives a finalized invoice its last status.
pub(super) fn end(
    billing: &mut Billing,
    metering: Metering<'_>,
    id: &str,
    status: Status,
    at: i64,
) -> Result<Value, StripeError> {
    let mut invoice = billing.invoice(id)?.clone();
    invoice.status = status;
    invoice.ended_at = Some(at);
    if status == Status::Void {
        billing.discard_usage_of(&invoice, at);
    }
    let body = billing.invoice_json(&invoice, metering);
    if let Some(stored) = billing.invoices.get_mut(id) {
        *stored = invoice;
    }
    let kind = match status {
        Status::Void => "invoice.voided",
        Status::Uncollectible => "invoice.marked_uncollectible",
        _ => "invoice.paid",
    };
    billing.record_event(kind, at, &body, None);
    Ok(body)
}
