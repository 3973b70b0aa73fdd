//! `POST /v1/invoices/create_preview`: the next invoice of a subscription as it would be with the usage so far. Changes
//! to the subscription cannot be previewed.

use serde_json::Value;

use super::advance_clock::next_invoice;
use super::invoice_json::invoice_json;
use super::invoices::{Invoice, Status};
use super::subscriptions;
use crate::errors::StripeError;
use crate::ids;
use crate::params::Params;
use crate::state::State;

pub(crate) fn create(state: &mut State, mut params: Params) -> Result<Value, StripeError> {
    let customer = params.text("customer")?;
    let wanted = params.text("subscription")?;
    params.one_of("preview_mode", &["next"])?;
    params.finish()?;
    let none = || {
        StripeError::refused("No upcoming invoices for customer")
            .status(404)
            .code("invoice_upcoming_none")
    };
    let id = match (wanted, &customer) {
        (Some(id), _) => id,
        (None, Some(customer)) => state
            .billing
            .subscriptions
            .newest_first()
            .filter(|one| one.customer == *customer)
            .filter_map(|one| Some((one.next_due()?, one.id.clone())))
            .min()
            .map(|(_, id)| id)
            .ok_or_else(none)?,
        (None, None) => return Err(StripeError::missing_param("subscription")),
    };
    let mut subscription = subscriptions::find(state, &id)?;
    let at = subscription.next_due().ok_or_else(none)?;
    let ends = subscription.cancel_at == Some(at);
    let draft = next_invoice(state, &mut subscription, at, ends)?;
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
        number: None,
        period: draft.period,
        lines: draft.lines,
    };
    Ok(invoice_json(state, &invoice))
}
