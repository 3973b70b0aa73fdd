//! Reads the invoices of a subscription with the lines that it caused.

use stripe_billing::{invoice::ListInvoice, invoice_line_item::ListInvoiceInvoiceLineItem};
use stripe_types::RangeQueryTs;

use super::{
    Failure, INVOICE, LINE, PAGE_SIZE, Stripe,
    catalog::{BoundedList, read_pages},
    from_secs,
    object_list::Unreadable,
    timed,
};
use crate::domain::{
    Millis, SECOND_MS,
    invoice_line::{Invoice, InvoiceLine, InvoiceStatus, is_flat_fee, parse_quantity},
    window::Interval,
};

/// Invoices, or lines of one invoice, that are read.
const MAX_READ: usize = 1_000;

impl Stripe {
    /// The invoices of a subscription created at or after a time, newest first.
    pub(crate) async fn invoices_of(
        &self,
        subscription: &str,
        since: Millis,
    ) -> Result<BoundedList<Invoice>, Failure> {
        let client = self.client()?;
        let page = |after: Option<String>| {
            let mut query = ListInvoice::new()
                .subscription(subscription)
                .created(RangeQueryTs::gte(since.div_euclid(SECOND_MS)))
                .limit(PAGE_SIZE);
            if let Some(after) = after {
                query = query.starting_after(after);
            }
            async move { timed("invoices", client.list(&query, INVOICE)).await }
        };
        let found: BoundedList<stripe_shared::Invoice> =
            read_pages(MAX_READ, page, |one| one).await?;
        if !found.is_complete {
            return Err(too_many(&format!("invoices of {subscription}")));
        }
        let mut unreadable = found.unreadable;
        let mut invoices = Vec::new();
        for invoice in found.items {
            invoices.push(self.invoice(invoice, &mut unreadable).await?);
        }
        Ok(BoundedList {
            items: invoices,
            is_complete: true,
            unreadable,
        })
    }

    async fn invoice(
        &self,
        from: stripe_shared::Invoice,
        unreadable: &mut Vec<Unreadable>,
    ) -> Result<Invoice, Failure> {
        let id = from
            .id
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let mut lines: Vec<InvoiceLine> = from.lines.data.iter().filter_map(line).collect();
        if from.lines.has_more {
            let all = self.lines_of(&id).await?;
            lines = all.items.into_iter().flatten().collect();
            unreadable.extend(all.unreadable);
        }
        let reason = from.billing_reason.as_ref();
        Ok(Invoice {
            id,
            status: InvoiceStatus::parse(
                from.status
                    .as_ref()
                    .map(stripe_shared::InvoiceStatus::as_str),
            ),
            draft_until: from.automatically_finalizes_at.map(from_secs),
            created: from_secs(from.created),
            is_of_cycle: reason.is_some_and(|reason| reason.as_str() == "subscription_cycle"),
            lines,
        })
    }

    async fn lines_of(&self, invoice: &str) -> Result<BoundedList<Option<InvoiceLine>>, Failure> {
        let client = self.client()?;
        let page = |after: Option<String>| {
            let mut query = ListInvoiceInvoiceLineItem::new(invoice).limit(PAGE_SIZE);
            if let Some(after) = after {
                query = query.starting_after(after);
            }
            async move { timed("invoices", client.list(&query, LINE)).await }
        };
        let lines = read_pages(MAX_READ, page, |one| line(&one)).await?;
        if !lines.is_complete {
            return Err(too_many(&format!("lines of invoice {invoice}")));
        }
        Ok(lines)
    }
}

/// What was not read could change every result.
fn too_many(what: &str) -> Failure {
    Failure::Refused(format!("there are more than {MAX_READ} {what}"))
}

/// A line that a subscription caused: one of a subscription item, or an invoice item of a subscription.
fn line(from: &stripe_shared::InvoiceLineItem) -> Option<InvoiceLine> {
    let parent = from.parent.as_ref()?;
    let (item, is_proration) = match (
        &parent.subscription_item_details,
        &parent.invoice_item_details,
    ) {
        (Some(details), _) => (Some(details.subscription_item.clone()), details.proration),
        (None, Some(details)) if details.subscription.is_some() => (None, details.proration),
        _ => return None,
    };
    let price = from
        .pricing
        .as_ref()
        .and_then(|pricing| pricing.price_details.as_ref())
        .map(|details| details.price.id().to_string());
    Some(InvoiceLine {
        id: from.id.to_string(),
        item,
        price,
        period: Interval {
            start: from_secs(from.period.start),
            end: from_secs(from.period.end),
        },
        quantity: parse_quantity(from.quantity_decimal.as_deref(), from.quantity),
        amount: from.amount,
        currency: from.currency.to_string(),
        is_proration,
        is_flat_fee: is_flat_fee(from.description.as_deref()),
    })
}
