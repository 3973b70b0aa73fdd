//! A line of an invoice on a page: its figures, what invoices charge, its reports, and the increments behind them.

use std::collections::BTreeSet;

use maud::{Markup, html};
use prost_types::Timestamp;
use url::form_urlencoded;
use usage_proto::{
    amounts::decimal_amount,
    v1::{
        CountedIncrement, ExplainedLine, ExplainedReport, InvoiceFinding, InvoiceLine, Period,
        UsageReport,
    },
};

use super::{
    html::{account_link, foreign, grouped, rfc3339, state, time, url, words},
    reports::report_url,
};
use crate::domain::http_paths::HttpPath;

/// Links to Stripe on one page. Each line names its invoices too.
const MAX_LINKS: usize = 12;

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

/// What the lines are not, and where the rest of their invoices is.
pub(super) fn metered_only(lines: &[ExplainedLine]) -> Markup {
    let known = lines.iter().flat_map(|line| {
        let charging = line.invoice_lines.iter().map(|one| one.invoice.as_str());
        charging.chain([line.stripe_invoice.as_str()])
    });
    let known: BTreeSet<&str> = known.filter(|invoice| !invoice.is_empty()).collect();
    html! {
        p {
            "Metered lines only. Other lines of the invoice, taxes and credits are at Stripe"
            @for (place, invoice) in known.into_iter().take(MAX_LINKS).enumerate() {
                @if place == 0 { ": " } @else { ", " }
                a href=(url_at_stripe(invoice)) rel="noreferrer" { bdi .id { (invoice) } }
            }
            "."
        }
    }
}

/// The page of an invoice in Stripe's dashboard.
fn url_at_stripe(invoice: &str) -> String {
    let invoice: String = form_urlencoded::byte_serialize(invoice.as_bytes()).collect();
    format!("https://dashboard.stripe.com/invoices/{invoice}")
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
                            td .number { (amount(one)) " " bdi { (one.currency.to_ascii_uppercase()) } }
                        }
                    }
                }
            }
            p .faint { "Amounts are before discounts and added taxes." }
        }
    }
}

/// An amount with the decimals of its currency, and its thousands apart.
fn amount(line: &InvoiceLine) -> String {
    let text = decimal_amount(line.amount, &line.currency);
    let (whole, part) = match text.split_once('.') {
        Some((whole, part)) => (whole, Some(part)),
        None => (&*text, None),
    };
    // The sign of less than one unit is in the text only.
    let digits = whole.trim_start_matches('-');
    let sign = if digits == whole { "" } else { "-" };
    let whole = digits
        .parse::<i64>()
        .map_or_else(|_| digits.to_owned(), grouped);
    let part = part.map(|part| format!(".{part}")).unwrap_or_default();
    format!("{sign}{whole}{part}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_shown_in_its_currency() {
        for (units, currency, text) in [
            (1_234, "usd", "12.34"),
            (123_456_789, "usd", "1,234,567.89"),
            (-123_456, "eur", "-1,234.56"),
            (-5, "usd", "-0.05"),
            (0, "usd", "0.00"),
            (1_234, "jpy", "1,234"),
            (1_234_560, "kwd", "1,234.560"),
            (i64::MIN, "jpy", "-9223372036854775808"),
        ] {
            let line = InvoiceLine {
                amount: units,
                currency: currency.to_owned(),
                ..InvoiceLine::default()
            };
            assert_eq!(amount(&line), text, "{currency}");
        }
    }

    #[test]
    fn the_rest_of_an_invoice_is_at_stripe() {
        let line = |invoice: &str| ExplainedLine {
            stripe_invoice: invoice.to_owned(),
            ..ExplainedLine::default()
        };
        let shown =
            metered_only(&[line("in_2"), line(""), line("in_2"), line("in_1?a")]).into_string();
        assert_eq!(shown.matches("<a href=").count(), 2, "{shown}");
        let first = shown
            .find("\"https://dashboard.stripe.com/invoices/in_1%3Fa\"")
            .unwrap();
        assert!(
            first
                < shown
                    .find("\"https://dashboard.stripe.com/invoices/in_2\"")
                    .unwrap()
        );
        let unknown = metered_only(&[line("")]).into_string();
        assert!(unknown.ends_with("credits are at Stripe.</p>"), "{unknown}");
    }
}
