//! Invoices: drafted with lines that still grow, then finalized and never changed again.

use super::billing_state::Due;
use super::calendar::Period;
use super::invoice_json::invoice_json;
use super::prices::Price;
use super::subscriptions::{Item, Subscription};
use super::usage::{Usage, Visibility};
use crate::errors::StripeError;
use crate::ids;
use crate::state::State;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Draft,
    Open,
    Paid,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Draft => "draft",
            Status::Open => "open",
            Status::Paid => "paid",
        }
    }
}

/// One line. Where it has usage, quantity and amount are measured anew until the invoice is final.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) item: String,
    pub(crate) price: String,
    pub(crate) meter: Option<String>,
    pub(crate) quantity: i64,
    pub(crate) amount: i64,
    pub(crate) period: Period,
    pub(crate) proration: bool,
    /// The invoice item that it came from: a proration, or the usage of an item that was removed.
    pub(crate) invoice_item: Option<String>,
    pub(crate) usage: Option<Usage>,
}

#[derive(Debug, Clone)]
pub(crate) struct Invoice {
    pub(crate) id: String,
    pub(crate) customer: String,
    pub(crate) subscription: String,
    pub(crate) currency: String,
    pub(crate) reason: &'static str,
    pub(crate) status: Status,
    pub(crate) created: i64,
    /// When the draft is finalized automatically.
    pub(crate) finalizes_at: Option<i64>,
    pub(crate) finalized_at: Option<i64>,
    pub(crate) number: Option<String>,
    pub(crate) period: Period,
    pub(crate) lines: Vec<Line>,
}

impl Line {
    /// A fee, or a part of one.
    pub(crate) fn fee(item: &Item, amount: i64, period: Period) -> Line {
        Line {
            id: ids::billing("il_"),
            item: item.id.clone(),
            price: item.price.clone(),
            meter: None,
            quantity: item.quantity.unwrap_or(0),
            amount,
            period,
            proration: false,
            invoice_item: None,
            usage: None,
        }
    }

    /// A part of a fee, charged or credited.
    pub(crate) fn proration(item: &Item, amount: i64, period: Period) -> Line {
        Line {
            proration: true,
            invoice_item: Some(ids::billing("ii_")),
            ..Line::fee(item, amount, period)
        }
    }

    /// Usage that still grows.
    pub(crate) fn usage(usage: Usage) -> Line {
        Line {
            id: ids::billing("il_"),
            item: usage.item.clone(),
            price: usage.price.clone(),
            meter: Some(usage.meter.clone()),
            quantity: 0,
            amount: 0,
            period: Period {
                start: usage.from,
                end: usage.to,
            },
            proration: false,
            invoice_item: None,
            usage: Some(usage),
        }
    }

    /// Usage that is final. A total below zero is billed as none.
    pub(crate) fn bill(mut self, price: &Price, quantity: i64) -> Line {
        self.quantity = quantity.max(0);
        self.amount = price.scheme.amount(self.quantity);
        self.usage = None;
        self
    }
}

impl Invoice {
    pub(crate) fn total(&self) -> i64 {
        self.lines
            .iter()
            .fold(0, |total, line| total.saturating_add(line.amount))
    }

    /// The amount due; zero if the total is negative.
    pub(crate) fn due(&self) -> i64 {
        self.total().max(0)
    }

    /// The invoice with its usage so far.
    pub(crate) fn measured(&self, state: &State) -> Invoice {
        let mut measured = self.clone();
        let visibility = Visibility::received(state);
        for line in &mut measured.lines {
            let Some(usage) = &line.usage else { continue };
            let quantity = usage.measure(state, visibility).max(0);
            line.quantity = quantity;
            if let Some(price) = state.billing.prices.get(&line.price) {
                line.amount = price.scheme.amount(quantity);
            }
        }
        measured
    }
}

/// The content of an invoice to create.
#[derive(Debug)]
pub(crate) struct InvoiceDraft {
    pub(crate) lines: Vec<Line>,
    pub(crate) period: Period,
    pub(crate) reason: &'static str,
    pub(crate) at: i64,
    /// Whether it stays a draft for the grace period, or is finalized at once.
    pub(crate) grace: bool,
}

/// Creates an invoice unless it has no lines, and sets the subscription's latest invoice.
pub(crate) fn create(
    state: &mut State,
    subscription: &mut Subscription,
    draft: InvoiceDraft,
) -> Result<(), StripeError> {
    if draft.lines.is_empty() {
        return Ok(());
    }
    let id = ids::billing("in_");
    let finalizes_at = draft.at.saturating_add(state.billing.grace_secs);
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
    let body = invoice_json(state, &invoice);
    subscription.latest_invoice = Some(id.clone());
    state.billing.invoices.insert(&id, invoice);
    state.record_event("invoice.created", draft.at, &body, None);
    if draft.grace {
        let entry = Due::Finalization(id);
        state.billing.schedule.insert((finalizes_at, entry));
        Ok(())
    } else {
        finalize(state, &id, draft.at)
    }
}

/// Finalizes a draft: its usage is measured for the last time.
pub(crate) fn finalize(state: &mut State, id: &str, at: i64) -> Result<(), StripeError> {
    let mut invoice = find(state, id)?.clone();
    let visibility = Visibility::received(state);
    for line in &mut invoice.lines {
        let Some(usage) = line.usage.clone() else {
            continue;
        };
        let price = super::subscriptions::price_of(state, &line.price)?;
        let quantity = usage.make_final(state, visibility, None, at);
        *line = line.clone().bill(&price, quantity);
    }
    state.billing.invoice_count = state.billing.invoice_count.saturating_add(1);
    invoice.number = Some(format!("SANDBOX-{:04}", state.billing.invoice_count));
    invoice.finalized_at = Some(at);
    invoice.finalizes_at = None;
    invoice.status = if invoice.due() == 0 {
        Status::Paid
    } else {
        Status::Open
    };
    let paid = invoice.status == Status::Paid;
    let body = invoice_json(state, &invoice);
    if let Some(stored) = state.billing.invoices.get_mut(id) {
        *stored = invoice;
    }
    state.record_event("invoice.finalized", at, &body, None);
    if paid {
        state.record_event("invoice.paid", at, &body, None);
    }
    Ok(())
}

pub(crate) fn find<'a>(state: &'a State, id: &str) -> Result<&'a Invoice, StripeError> {
    state
        .billing
        .invoices
        .get(id)
        .ok_or_else(|| StripeError::no_such("invoice", id))
}
