//! `/v1/invoices`: retrieve, list, lines, preview.

use serde_json::Value;

use super::{Invoice, Status};
use crate::billing::state::Billing;
use crate::errors::StripeError;
use crate::ids;
use crate::list::{Created, Paging};
use crate::metering::Metering;
use crate::params::Params;

pub(crate) fn retrieve(
    billing: &Billing,
    metering: Metering<'_>,
    id: &str,
    params: Params,
) -> Result<Value, StripeError> {
    params.finish()?;
    Ok(billing.invoice_json(billing.invoice(id)?, metering))
}

pub(crate) fn list(
    billing: &Billing,
    metering: Metering<'_>,
    mut params: Params,
) -> Result<Value, StripeError> {
    let paging = Paging::take(&mut params)?;
    let customer = params.text("customer")?;
    let subscription = params.text("subscription")?;
    params.one_of_supported(
        "collection_method",
        &["charge_automatically"],
        &["send_invoice"],
    )?;
    let status = params.one_of(
        "status",
        &["draft", "open", "paid", "uncollectible", "void"],
    )?;
    let created = Created::take(&mut params)?;
    params.finish()?;
    let all: Vec<Value> = billing
        .invoices
        .newest_first()
        .filter(|one| {
            customer
                .as_ref()
                .is_none_or(|wanted| one.customer == *wanted)
        })
        .filter(|one| {
            subscription
                .as_ref()
                .is_none_or(|wanted| one.subscription == *wanted)
        })
        .filter(|one| status.is_none_or(|wanted| one.status.name() == wanted))
        .filter(|one| created.contains(one.created))
        .map(|one| billing.invoice_json(one, metering))
        .collect();
    paging.page("invoice", "/v1/invoices", &all)
}

pub(crate) fn lines(
    billing: &Billing,
    metering: Metering<'_>,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    let paging = Paging::take(&mut params)?;
    params.finish()?;
    let mut all = billing
        .invoice(id)?
        .measured(metering, &billing.prices, &billing.balances)
        .lines_json(&billing.products, &billing.prices);
    billing.hide_quantities(&mut all);
    paging.page("line_item", &format!("/v1/invoices/{id}/lines"), &all)
}

/// The next invoice of a subscription with its usage so far. Changes to the subscription cannot be previewed.
pub(crate) fn create_preview(
    billing: &Billing,
    metering: Metering<'_>,
    mut params: Params,
) -> Result<Value, StripeError> {
    let customer = params.text("customer")?;
    let wanted = params.text("subscription")?;
    params.one_of_supported("preview_mode", &["next"], &["recurring"])?;
    params.finish()?;
    let none = || {
        StripeError::refused("No upcoming invoices for customer")
            .status(404)
            .code("invoice_upcoming_none")
    };
    let id = match (wanted, &customer) {
        (Some(id), _) => id,
        (None, Some(customer)) => billing
            .subscriptions
            .newest_first()
            .filter(|one| one.customer == *customer)
            .filter_map(|one| Some((one.next_invoice_at()?, one.id.clone())))
            .min()
            .map(|(_, id)| id)
            .ok_or_else(none)?,
        (None, None) => return Err(StripeError::missing_param("subscription")),
    };
    let mut subscription = billing.subscription(&id)?;
    let at = subscription.next_invoice_at().ok_or_else(none)?;
    let ends = subscription.cancel_at == Some(at);
    let draft = subscription.next_invoice(&billing.prices, at, ends)?;
    let invoice = Invoice {
        id: ids::billing("upcoming_in_"),
        customer: subscription.customer,
        subscription: subscription.id,
        currency: subscription.currency,
        reason: "upcoming",
        status: Status::Draft,
        created: at,
        finalizes_at: None,
        finalized_at: None,
        ended_at: None,
        starting_balance: 0,
        balance_change: 0,
        number: None,
        period: draft.period,
        lines: draft.lines,
    };
    Ok(billing.invoice_json(&invoice, metering))
}
