//! Reads invoices: which period of which subscription item each one charges, and whether it is still a draft.

use stripe_billing::{invoice::ListInvoice, invoice_line_item::ListInvoiceInvoiceLineItem};
use stripe_types::RangeQueryTs;

use super::{Failure, PAGE_SIZE, Stripe, failure, from_secs, timed};
use crate::domain::{Millis, SECOND_MS, invoice_draft::InvoiceState, window::Interval};

/// Pages of invoices, or of one invoice's lines, that are read.
const MAX_PAGES: usize = 10;

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
    ) -> Result<Vec<Invoice>, Failure> {
        let mut invoices = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let mut query = ListInvoice::new()
                .subscription(subscription)
                .created(RangeQueryTs::gte(since.div_euclid(SECOND_MS)))
                .limit(PAGE_SIZE);
            if let Some(after) = after.take() {
                query = query.starting_after(after);
            }
            let page = timed("invoices", query.send(self.client()?))
                .await
                .map_err(|error| failure(&error))?;
            let next = page
                .data
                .last()
                .filter(|_| page.has_more)
                .and_then(|last| last.id.as_ref())
                .map(ToString::to_string);
            for invoice in page.data {
                invoices.push(self.invoice(invoice).await?);
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(invoices),
            }
        }
        Ok(invoices)
    }

    async fn invoice(&self, from: stripe_shared::Invoice) -> Result<Invoice, Failure> {
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
            lines = self.lines_of(&id).await?;
        }
        Ok(Invoice { id, state, lines })
    }

    async fn lines_of(&self, invoice: &str) -> Result<Vec<Line>, Failure> {
        let mut lines = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let mut query = ListInvoiceInvoiceLineItem::new(invoice).limit(PAGE_SIZE);
            if let Some(after) = after.take() {
                query = query.starting_after(after);
            }
            let page = timed("invoices", query.send(self.client()?))
                .await
                .map_err(|error| failure(&error))?;
            lines.extend(page.data.iter().filter_map(line));
            match page.data.last() {
                Some(last) if page.has_more => after = Some(last.id.to_string()),
                _ => break,
            }
        }
        Ok(lines)
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
