//! Reads the invoices of a subscription with the lines that it caused, and what cannot be read of them.

use serde_json::Value;
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
    unread_invoice::{UnreadInvoice, UnreadLine},
    window::Interval,
};

/// Invoices, or lines of one invoice, that are read.
const MAX_READ: usize = 1_000;

/// The invoices of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invoices {
    /// Those that were read in full, newest first.
    pub(crate) items: Vec<Invoice>,
    /// The others, also those beyond the limit.
    pub(crate) unreadable: Vec<UnreadInvoice>,
}

impl Stripe {
    /// The invoices of a subscription created at or after a time.
    pub(crate) async fn invoices_of(
        &self,
        subscription: &str,
        since: Millis,
    ) -> Result<Invoices, Failure> {
        let client = self.client()?;
        let page = |after: Option<String>| {
            let mut query = ListInvoice::new()
                .subscription(subscription)
                .created(RangeQueryTs::gte(since.div_euclid(SECOND_MS)))
                .limit(PAGE_SIZE);
            if let Some(after) = after {
                query = query.starting_after(after);
            }
            async move {
                let list = client.list_prepared(&query, INVOICE, prepare_invoice);
                timed("invoices", list).await
            }
        };
        let found: BoundedList<stripe_shared::Invoice> =
            read_pages(MAX_READ, page, |one| one).await?;
        let mut unreadable: Vec<UnreadInvoice> = found.unreadable.iter().map(unread).collect();
        if !found.is_complete {
            // They are older than those that were read.
            unreadable.push(UnreadInvoice {
                why: format!("there are more than {MAX_READ} invoices of {subscription}"),
                created: found.items.iter().map(|one| from_secs(one.created)).min(),
                lines: None,
            });
        }
        let mut items = Vec::new();
        for invoice in found.items {
            items.extend(self.invoice(invoice, &mut unreadable).await?);
        }
        Ok(Invoices { items, unreadable })
    }

    /// An invoice with all of its lines; `None` if it has too many.
    async fn invoice(
        &self,
        from: stripe_shared::Invoice,
        unreadable: &mut Vec<UnreadInvoice>,
    ) -> Result<Option<Invoice>, Failure> {
        let id = from
            .id
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let created = from_secs(from.created);
        let mut lines: Vec<InvoiceLine> = from.lines.data.iter().filter_map(line).collect();
        if from.lines.has_more {
            let all = self.lines_of(&id).await?;
            if !all.is_complete {
                unreadable.push(UnreadInvoice {
                    why: format!("there are more than {MAX_READ} lines of invoice {id}"),
                    created: Some(created),
                    lines: None,
                });
                return Ok(None);
            }
            lines = all.items.into_iter().flatten().collect();
            unreadable.extend(all.unreadable.iter().map(|skipped| UnreadInvoice {
                why: format!("{skipped}, of invoice {id}"),
                created: Some(created),
                lines: Some(vec![unread_line(skipped.raw())]),
            }));
        }
        let reason = from.billing_reason.as_ref();
        Ok(Some(Invoice {
            id,
            status: InvoiceStatus::parse(
                from.status
                    .as_ref()
                    .map(stripe_shared::InvoiceStatus::as_str),
            ),
            draft_until: from.automatically_finalizes_at.map(from_secs),
            created,
            is_of_cycle: reason.is_some_and(|reason| reason.as_str() == "subscription_cycle"),
            lines,
        }))
    }

    async fn lines_of(&self, invoice: &str) -> Result<BoundedList<Option<InvoiceLine>>, Failure> {
        let client = self.client()?;
        let page = |after: Option<String>| {
            let mut query = ListInvoiceInvoiceLineItem::new(invoice).limit(PAGE_SIZE);
            if let Some(after) = after {
                query = query.starting_after(after);
            }
            async move {
                let list = client.list_prepared(&query, LINE, prepare_line);
                timed("invoices", list).await
            }
        };
        read_pages(MAX_READ, page, |one| line(&one)).await
    }
}

/// What can be read of an invoice that cannot be read in full.
fn unread(skipped: &Unreadable) -> UnreadInvoice {
    UnreadInvoice {
        why: skipped.to_string(),
        created: skipped.whole("created").map(from_secs),
        lines: unread_lines(skipped.raw()),
    }
}

/// The lines of an invoice, if it has no others.
fn unread_lines(invoice: &Value) -> Option<Vec<UnreadLine>> {
    let lines = invoice.get("lines")?;
    let has_all = lines.get("has_more").and_then(Value::as_bool) == Some(false);
    let data = lines.get("data").and_then(Value::as_array)?;
    has_all.then(|| data.iter().map(unread_line).collect())
}

fn unread_line(line: &Value) -> UnreadLine {
    let item = line.pointer("/parent/subscription_item_details/subscription_item");
    let edge = |name| line.pointer(name).and_then(Value::as_i64).map(from_secs);
    UnreadLine {
        item: item.and_then(Value::as_str).map(str::to_owned),
        time: edge("/period/start")
            .zip(edge("/period/end"))
            .map(|(start, end)| Interval { start, end }),
    }
}

/// Prepares the lines of an invoice.
fn prepare_invoice(invoice: &mut Value) {
    let lines = invoice.pointer_mut("/lines/data");
    let lines = lines.and_then(Value::as_array_mut);
    lines.into_iter().flatten().for_each(prepare_line);
}

/// Makes a quantity of a wrong type one that cannot be read: a difference of this line only.
fn prepare_line(line: &mut Value) {
    let is_wrong = |value: Option<&Value>, is_right: fn(&Value) -> bool| {
        value.is_some_and(|value| !value.is_null() && !is_right(value))
    };
    let has_wrong_decimal = is_wrong(line.get("quantity_decimal"), Value::is_string);
    let has_wrong_quantity = is_wrong(line.get("quantity"), Value::is_u64);
    let Some(line) = line.as_object_mut() else {
        return;
    };
    if has_wrong_quantity {
        line.insert("quantity".to_owned(), Value::Null);
    }
    if has_wrong_decimal || has_wrong_quantity {
        let unreadable = Value::from("unreadable");
        line.insert("quantity_decimal".to_owned(), unreadable);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_unreadable_invoice_may_charge_is_read_from_it() {
        let line = |details: Value| json!({"parent": details, "period": {"start": 1, "end": 2}});
        let own = line(json!({"subscription_item_details": {"subscription_item": "si"}}));
        let pending = line(json!({"invoice_item_details": {}}));
        let of = |lines: Value| unread_lines(&json!({"lines": lines}));
        let read = |item: Option<&str>| UnreadLine {
            item: item.map(str::to_owned),
            time: Some(Interval {
                start: 1_000,
                end: 2_000,
            }),
        };
        assert_eq!(
            of(json!({"has_more": false, "data": [own, pending, 7]})),
            Some(vec![
                read(Some("si")),
                read(None),
                UnreadLine {
                    item: None,
                    time: None
                }
            ])
        );
        for partial in [
            json!({"has_more": true, "data": [own]}),
            json!({"data": [own]}),
            json!({"has_more": false}),
            json!(null),
        ] {
            assert_eq!(of(partial), None);
        }
    }

    #[test]
    fn only_a_quantity_of_a_wrong_type_becomes_unreadable() {
        let unreadable = json!({"quantity": null, "quantity_decimal": "unreadable"});
        for (quantity, decimal, expected) in [
            (json!("12"), json!("12"), Some(&unreadable)),
            (json!(1.5), json!(null), Some(&unreadable)),
            (json!(-1), json!(null), Some(&unreadable)),
            (json!([]), json!(null), Some(&unreadable)),
            (json!(12), json!("12"), None),
            (json!(null), json!(null), None),
        ] {
            let line = json!({"quantity": quantity, "quantity_decimal": decimal});
            let mut invoice = json!({"lines": {"data": [line.clone(), {}, 7]}});
            prepare_invoice(&mut invoice);
            let lines = &invoice["lines"]["data"];
            assert_eq!(lines[0], *expected.unwrap_or(&line));
            assert_eq!((&lines[1], &lines[2]), (&json!({}), &json!(7)));
        }
        let mut line = json!({"quantity": 12, "quantity_decimal": 12.5});
        prepare_line(&mut line);
        assert_eq!(line["quantity_decimal"], "unreadable");
        for mut other in [json!({}), json!({"lines": 7}), json!(null)] {
            prepare_invoice(&mut other);
        }
    }
}
