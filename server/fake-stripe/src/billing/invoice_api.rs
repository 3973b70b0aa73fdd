//! `/v1/invoices`: retrieve, list, lines, finalize.

use serde_json::Value;

use super::invoice_json::{invoice_json, line_json};
use super::invoices::{self, Invoice, Status};
use crate::errors::StripeError;
use crate::list::{Created, Paging};
use crate::params::Params;
use crate::state::State;

pub(crate) fn retrieve(state: &mut State, id: &str, params: Params) -> Result<Value, StripeError> {
    params.finish()?;
    Ok(invoice_json(state, invoices::find(state, id)?))
}

pub(crate) fn list(state: &mut State, mut params: Params) -> Result<Value, StripeError> {
    let paging = Paging::take(&mut params)?;
    let customer = params.text("customer")?;
    let subscription = params.text("subscription")?;
    let status = params.one_of(
        "status",
        &["draft", "open", "paid", "uncollectible", "void"],
    )?;
    let created = Created::take(&mut params)?;
    params.finish()?;
    let all: Vec<&Invoice> = state
        .billing
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
        .collect();
    let all: Vec<Value> = all.iter().map(|one| invoice_json(state, one)).collect();
    paging.page("invoice", "/v1/invoices", &all)
}

pub(crate) fn lines(state: &mut State, id: &str, mut params: Params) -> Result<Value, StripeError> {
    let paging = Paging::take(&mut params)?;
    params.finish()?;
    let invoice = invoices::find(state, id)?.measured(state);
    let all: Vec<Value> = invoice
        .lines
        .iter()
        .map(|line| line_json(state, &invoice, line))
        .collect();
    paging.page("line_item", &format!("/v1/invoices/{id}/lines"), &all)
}

/// Finalizes a draft before its grace period ends.
pub(crate) fn finalize(
    state: &mut State,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    params.boolean("auto_advance")?;
    params.finish()?;
    if invoices::find(state, id)?.status != Status::Draft {
        return Err(StripeError::refused(
            "This invoice is already finalized, you can't re-finalize a non-draft invoice.",
        )
        .code("invoice_not_editable"));
    }
    let now = state.clock.now_secs();
    invoices::finalize(state, id, now)?;
    Ok(invoice_json(state, invoices::find(state, id)?))
}
