//! Reads invoices: which period of which subscription item each one charges, and whether it is still a draft.

use stripe_billing::{invoice::ListInvoice, invoice_line_item::ListInvoiceInvoiceLineItem};
use stripe_types::RangeQueryTs;

use super::{
    Failure, INVOICE, LINE, PAGE_SIZE, Stripe,
    catalog::{BoundedList, read_pages},
    from_secs,
    object_list::Unreadable,
    timed,
};
use crate::domain::{Millis, SECOND_MS, invoice_draft::InvoiceState, window::Interval};

/// Invoices, or lines of one invoice, that are read.
const MAX_READ: usize = 1_000;

/// An invoice of a subscription.
#[derive(Clone, Debug)]
pub(crate) struct Invoice {
    pub(crate) id: String,
    pub(crate) state: InvoiceState,
    pub(crate) lines: Vec<Line>,
}

/// An invoice line of a subscription item.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) item: String,
    pub(crate) period: Interval,
    /// Whether it prorates a licensed item.
    pub(crate) is_proration: bool,
}

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
        let mut unreadable = found.unreadable;
        let mut invoices = Vec::new();
        for invoice in found.items {
            invoices.push(self.invoice(invoice, &mut unreadable).await?);
        }
        Ok(BoundedList {
            items: invoices,
            is_complete: found.is_complete,
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
        let state = match &from.status {
            Some(stripe_shared::InvoiceStatus::Draft) | None => InvoiceState::Draft {
                until: from.automatically_finalizes_at.map(from_secs),
            },
            Some(_) => InvoiceState::Final,
        };
        let mut lines: Vec<Line> = from.lines.data.iter().filter_map(line).collect();
        if from.lines.has_more {
            let all = self.lines_of(&id).await?;
            lines = all.items.into_iter().flatten().collect();
            unreadable.extend(all.unreadable);
        }
        Ok(Invoice { id, state, lines })
    }

    async fn lines_of(&self, invoice: &str) -> Result<BoundedList<Option<Line>>, Failure> {
        let client = self.client()?;
        let page = |after: Option<String>| {
            let mut query = ListInvoiceInvoiceLineItem::new(invoice).limit(PAGE_SIZE);
            if let Some(after) = after {
                query = query.starting_after(after);
            }
            async move { timed("invoices", client.list(&query, LINE)).await }
        };
        read_pages(MAX_READ, page, |one| line(&one)).await
    }
}

fn line(from: &stripe_shared::InvoiceLineItem) -> Option<Line> {
    let parent = from.parent.as_ref()?;
    let details = parent.subscription_item_details.as_ref()?;
    Some(Line {
        item: details.subscription_item.clone(),
        period: Interval {
            start: from_secs(from.period.start),
            end: from_secs(from.period.end),
        },
        is_proration: details.proration,
    })
}
