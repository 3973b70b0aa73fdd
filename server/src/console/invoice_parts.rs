//! A line of an invoice on a page: its figures, what invoices charge, its reports, and the increments behind them.

use maud::{Markup, html};
use prost_types::Timestamp;
use usage_proto::v1::{
    CountedIncrement, ExplainedLine, ExplainedReport, InvoiceFinding, InvoiceLine, Period,
    UsageReport,
};

use super::{
    html::{account_link, foreign, grouped, rfc3339, state, time, url, words},
    reports::report_url,
};
use crate::domain::http_paths::HttpPath;

/// The address of the lines of an account whose billing periods overlap a time.
pub(super) fn url_of(account: &str, period: Option<Period>, report: &str) -> String {
    let period = period.unwrap_or_default();
    let edge = |at: Option<_>| at.map(rfc3339).unwrap_or_default();
    let (start, end) = (edge(period.start), edge(period.end));
    let pairs = [
        ("account", account),
        ("start", &start),
        ("end", &end),
        ("report", report),
    ];
    url(HttpPath::ConsoleInvoice, &pairs)
}

/// A time in which lies when a report is billed: its end is not part of it.
pub(super) fn around(report: &UsageReport) -> Option<Period> {
    let start = report.window.and_then(|window| window.start);
    let start = report.bill_at.or(report.event_timestamp).or(start)?;
    let end = Timestamp {
        seconds: start.seconds.saturating_add(1),
        ..start
    };
    Some(Period {
        start: Some(start),
        end: Some(end),
    })
}

/// The address of the lines of an invoice.
pub(super) fn url_of_invoice(account: &str, invoice: &str) -> String {
    let pairs = [("account", account), ("invoice", invoice)];
    url(HttpPath::ConsoleInvoice, &pairs)
}

pub(super) fn line(line: &ExplainedLine) -> Markup {
    let period = line.period.unwrap_or_default();
    let start = period.start.map(rfc3339).unwrap_or_default();
    let name = format!("{}, from {start}", line.meter);
    html! {
        h2 { (foreign(&line.meter)) ", " (time(period.start)) " to " (time(period.end)) " UTC" }
        (facts(line))
        @if line.invoice_lines.is_empty() {
            p { "No invoice was compared yet: that is done an hour after the end of the period, or once the invoice is final." }
        } @else {
            (charged(&line.invoice_lines, &name))
        }
        @if line.reports.is_empty() {
            p { "No report of it is on this page." }
        } @else {
            (reports(line, &name))
            @for report in line.reports.iter().filter(|report| !report.increments.is_empty()) {
                (increments(report))
            }
        }
    }
}

fn facts(line: &ExplainedLine) -> Markup {
    let class = match line.difference {
        Some(0) => "ok",
        Some(_) => "bad",
        None => "plain",
    };
    html! {
        dl {
            dt { "Account" } dd { (account_link(&line.account_id)) }
            dt { "Stripe customer" } dd { (foreign(&line.stripe_customer)) }
            dt { "Subscription" } dd { (foreign(&line.subscription)) ", item " (foreign(&line.item)) ", price " (foreign(&line.price)) }
            dt { "Invoice" }
            dd {
                @if line.stripe_invoice.is_empty() { (foreign("")) } @else {
                    a href=(url_of_invoice(&line.account_id, &line.stripe_invoice)) { bdi .id { (line.stripe_invoice) } }
                }
            }
            dt { "Accepted by Stripe" } dd { (grouped(line.reported)) }
            @if let Some(others) = line.reported_of_other_accounts.filter(|others| *others != 0) {
                dt { "Of other accounts of the customer" } dd { (grouped(others)) }
            }
            dt { "Invoiced" } dd { (optional(line.invoiced)) }
            dt { "Difference" } dd { span class=(class) { (optional(line.difference)) } }
            @if let Some(found) = &line.comparison {
                dt { "Comparison" }
                dd {
                    span class=(if found.finding() == InvoiceFinding::Equal { "ok" } else { "bad" }) {
                        (words(found.finding().as_str_name(), "INVOICE_FINDING_"))
                    }
                    " since " (time(found.changed_at)) " UTC"
                    @if let Some(known) = &found.acknowledged {
                        ", acknowledged " (time(known.acknowledged_at)) " UTC by " (foreign(&known.requested_by)) ": " (foreign(&known.reason))
                    }
                }
            }
        }
    }
}

fn optional(figure: Option<i64>) -> Markup {
    html! {
        @match figure { Some(figure) => (grouped(figure)), None => span .faint { "not known yet" } }
    }
}

fn charged(lines: &[InvoiceLine], name: &str) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label={ "Invoice lines of " (name) } {
            table {
                caption { "What invoices charge" }
                thead {
                    tr {
                        th scope="col" { "Invoice" }
                        th scope="col" { "Line" }
                        th scope="col" { "Status" }
                        th scope="col" { "Price" }
                        th scope="col" { "From (UTC)" }
                        th scope="col" { "To (UTC)" }
                        th scope="col" .number { "Quantity" }
                        th scope="col" .number { "Amount" }
                    }
                }
                tbody {
                    @for one in lines {
                        @let period = one.period.unwrap_or_default();
                        tr {
                            th scope="row" { bdi .id { (one.invoice) } }
                            td { bdi .id { (one.line) } }
                            td { (foreign(&one.status)) }
                            td { (foreign(&one.price)) }
                            td { (time(period.start)) }
                            td { (time(period.end)) }
                            td .number { @match one.quantity { Some(quantity) => (grouped(quantity)), None => "no whole number" } }
                            td .number { (grouped(one.amount)) " " bdi { (one.currency) } }
                        }
                    }
                }
            }
            p .faint { "Amounts are in the smallest unit of the currency." }
        }
    }
}

fn reports(line: &ExplainedLine, name: &str) -> Markup {
    let quantities = line.reports.iter().map(quantity_of);
    let sum = quantities.fold(0, i64::saturating_add);
    html! {
        div .scroll tabindex="0" role="region" aria-label={ "Reports of " (name) } {
            table {
                caption { "Its reports, each one meter event at Stripe" }
                thead {
                    tr {
                        th scope="col" { "Window (UTC)" }
                        th scope="col" { "State" }
                        th scope="col" .number { "Quantity" }
                        th scope="col" { "Meter event" }
                        th scope="col" { "Time of the event (UTC)" }
                        th scope="col" { "Accepted (UTC)" }
                        th scope="col" .number { "With a key" }
                        th scope="col" .number { "Without a key" }
                    }
                }
                tbody { @for one in &line.reports { (report(one)) } }
                tfoot {
                    tr {
                        th scope="row" colspan="2" { "Sum of these reports" }
                        td .number { (grouped(sum)) }
                        td colspan="5" {}
                    }
                }
            }
        }
    }
}

fn quantity_of(one: &ExplainedReport) -> i64 {
    one.report.as_ref().map_or(0, |report| report.quantity)
}

fn report(one: &ExplainedReport) -> Markup {
    let report = one.report.clone().unwrap_or_default();
    let window = report.window.unwrap_or_default();
    html! {
        tr {
            th scope="row" {
                @if one.folded > 0 { (time(window.start)) } @else {
                    a href=(report_url(&report)) { (time(window.start)) }
                }
            }
            td {
                (state(report.state))
                @if one.folded > 0 { " (" (grouped(one.folded)) " folded reports" @if let Some(archive) = &one.archive { ", in " bdi { (archive.file) } } ")" }
                @if !report.note.is_empty() { " (correction: " bdi { (report.note) } ")" }
            }
            td .number { (grouped(report.quantity)) }
            td { bdi .id { (report.identifier) } }
            td { (time(report.event_timestamp)) }
            td { (time(report.reported_at)) }
            td .number { (grouped(one.with_key)) }
            td .number { @match one.without_key { Some(rest) => (grouped(rest)), None => span .faint { "on a later page" } } }
        }
    }
}

fn increments(one: &ExplainedReport) -> Markup {
    let report = one.report.clone().unwrap_or_default();
    let start = report.window.and_then(|window| window.start);
    let name = format!(
        "Increments of the report of {}",
        start.map(rfc3339).unwrap_or_default()
    );
    html! {
        h3 { (name) }
        div .scroll tabindex="0" role="region" aria-label={ (name) ", " (report.id) } {
            table {
                caption { "Those whose keys are kept, by key" }
                thead {
                    tr {
                        th scope="col" { "Key" }
                        th scope="col" .number { "Quantity" }
                        th scope="col" { "Used at (UTC)" }
                        th scope="col" { "Counted at (UTC)" }
                    }
                }
                tbody {
                    @for increment in &one.increments { (counted(increment, &report.account_id)) }
                }
            }
        }
    }
}

fn counted(increment: &CountedIncrement, account: &str) -> Markup {
    let pairs = [("account", account), ("key", increment.key.as_str())];
    html! {
        tr {
            th scope="row" { a href=(url(HttpPath::ConsoleFind, &pairs)) { bdi .id { (increment.key) } } }
            td .number { (grouped(increment.quantity)) }
            td { (time(increment.timestamp.or(increment.counted_at))) }
            td { (time(increment.counted_at)) }
        }
    }
}
