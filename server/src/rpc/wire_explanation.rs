//! Explanations of invoices on the wire.

use usage_proto::v1;

use super::{wire, wire_reconciliation};
use crate::{
    domain::{
        invoice_line::StoredLine, kept_increment::KeptIncrement, report::is_billed_elsewhere,
        report_fold::FoldedReport,
    },
    explanation::{ExplainedReport, FoundIncrement, Line, Source},
};

/// An increment and the way to its invoice.
pub(super) fn found(found: FoundIncrement) -> v1::FindIncrementResponse {
    let divided = found.divided_with.iter().map(ToString::to_string);
    v1::FindIncrementResponse {
        increment: Some(increment(found.increment)),
        report: found.report.map(wire::usage_report),
        divided_with: divided.collect(),
        lines: found.lines.into_iter().map(line).collect(),
    }
}

/// A line with its reports.
pub(super) fn line(line: Line) -> v1::ExplainedLine {
    let period = line.period;
    let compared = line.comparison.as_ref().map(|one| one.compared);
    let invoiced = compared.and_then(|compared| compared.invoiced);
    v1::ExplainedLine {
        account_id: period.account_id.to_string(),
        period: Some(wire::period(period.interval())),
        subscription: period.subscription.unwrap_or_default(),
        item: period.item,
        price: period.price.unwrap_or_default(),
        meter: period.meter.unwrap_or_default(),
        stripe_customer: line.customer.unwrap_or_default(),
        reported: line.reported,
        invoiced,
        reported_of_other_accounts: line.reported_of_others,
        difference: invoiced
            .zip(line.reported_of_others)
            .map(|(invoiced, of_others)| {
                invoiced
                    .saturating_sub(line.reported)
                    .saturating_sub(of_others)
            }),
        stripe_invoice: period.invoice.unwrap_or_default(),
        invoice_lines: line.invoice_lines.into_iter().map(invoice_line).collect(),
        comparison: line.comparison.map(wire_reconciliation::comparison),
        reports: line.reports.into_iter().map(report).collect(),
    }
}

fn invoice_line(line: StoredLine) -> v1::InvoiceLine {
    v1::InvoiceLine {
        invoice: line.invoice,
        line: line.line,
        status: line.status.name().to_owned(),
        price: line.price.unwrap_or_default(),
        period: Some(wire::period(line.period)),
        quantity: line.quantity,
        amount: line.amount,
        currency: line.currency,
    }
}

fn report(explained: ExplainedReport) -> v1::ExplainedReport {
    let (report, folded, archive) = match explained.source {
        Source::Report(report) => (wire::usage_report(report), 0, None),
        Source::Folded(folded) => {
            let number = folded.row.reports;
            let archive = folded.archive.map(wire::archive);
            (folded_report(folded.row), number, archive)
        }
    };
    v1::ExplainedReport {
        report: Some(report),
        folded,
        archive,
        increments: explained.increments.into_iter().map(increment).collect(),
        with_key: explained.with_key,
        without_key: explained.without_key,
    }
}

/// A row of folded reports. What only a report has is empty.
fn folded_report(row: FoldedReport) -> v1::UsageReport {
    v1::UsageReport {
        id: row.id.to_string(),
        account_id: row.account_id.to_string(),
        meter: row.meter,
        window: Some(wire::period(row.window)),
        period_end: Some(wire::timestamp(row.window.end)),
        quantity: row.quantity,
        state: wire::state_number(row.state),
        reported: row.state.is_reported(),
        billed_elsewhere: is_billed_elsewhere(
            row.state,
            row.customer.as_deref(),
            row.event_timestamp,
        ),
        stripe_customer: row.customer.unwrap_or_default(),
        event_timestamp: row.event_timestamp.map(wire::timestamp),
        bill_at: row.bill_at.map(wire::timestamp),
        kind: v1::UsageReportKind::Usage.into(),
        ..v1::UsageReport::default()
    }
}

fn increment(increment: KeptIncrement) -> v1::CountedIncrement {
    v1::CountedIncrement {
        key: increment.key.to_string(),
        meter: increment.meter,
        quantity: increment.quantity,
        timestamp: increment.stated_at.map(wire::timestamp),
        counted_at: Some(wire::timestamp(increment.counted_at)),
    }
}
