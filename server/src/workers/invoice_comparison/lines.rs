//! Which invoice lines bill a period, and which invoices that cannot be read may.

use crate::{
    domain::{
        billing_period::BillingPeriod,
        invoice_line::{Invoice, InvoiceLine},
        price_split::periods_around,
        unread_invoice::UnreadInvoice,
    },
    store::invoice_comparison::ComparedSubscription,
    stripe::Invoices,
};

/// An invoice that cannot be read and may charge usage of a period, or of one that is compared together with it.
pub(super) fn unread_of<'a>(
    period: &BillingPeriod,
    known: &ComparedSubscription,
    invoices: &'a Invoices,
) -> Option<&'a UnreadInvoice> {
    let together = || {
        periods_around(period, &known.periods)
            .into_iter()
            .chain([period])
    };
    let mut unread = invoices.unreadable.iter();
    unread.find(|unread| together().any(|one| unread.may_charge(one, &invoices.items)))
}

/// The lines that a rule assigns to a period, with their invoices.
pub(super) fn lines_of<'a, 'p>(
    period: &BillingPeriod,
    invoices: &'a [Invoice],
    rule: impl Fn(&InvoiceLine) -> Option<&'p BillingPeriod>,
) -> Vec<(&'a Invoice, &'a InvoiceLine)> {
    let all = invoices
        .iter()
        .flat_map(|invoice| invoice.lines.iter().map(move |line| (invoice, line)));
    all.filter(|(_, line)| {
        rule(line).is_some_and(|billed| {
            billed.item == period.item && billed.period_start == period.period_start
        })
    })
    .collect()
}
