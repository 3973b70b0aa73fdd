//! Logs and counts what a comparison with invoices found.

use crate::{
    domain::{
        invoice_comparison::{Compared, InvoiceFinding, Judgement},
        period::rfc3339,
    },
    metrics,
    store::invoice_comparison::ComparisonResult,
};

/// Logs and counts a new difference.
pub(super) fn tell(result: &ComparisonResult<'_>, judgement: Judgement) {
    let Some(Compared {
        finding,
        reported,
        invoiced,
    }) = judgement.compared
    else {
        return;
    };
    if finding == InvoiceFinding::Equal {
        return;
    }
    metrics::invoice_difference(finding);
    let mut invoices: Vec<&str> = result
        .lines
        .iter()
        .map(|(invoice, _)| invoice.id.as_str())
        .collect();
    invoices.dedup();
    let period = result.period;
    tracing::error!(
        account = %period.account_id,
        customer = result.customer,
        meter = period.meter,
        item = period.item,
        price = period.price,
        start = %rfc3339(period.period_start),
        end = %rfc3339(period.period_end),
        finding = finding.name(),
        reported,
        invoiced,
        invoices = invoices.join(" "),
        "invoices do not charge what was reported; nothing is corrected automatically"
    );
}
