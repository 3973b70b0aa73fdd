//! `/find`: the way of one increment, from its idempotency key to its report and invoice.

use maud::{Markup, html};
use serde_json::json;
use usage_proto::v1::{ExplainedLine, FindIncrementRequest, FindIncrementResponse, UsageReport};

use super::{
    calls::Failure,
    html::{account_link, field, foreign, grouped, json_url, or_reason, state, time},
    invoice_parts::{url_of, url_of_invoice},
    layout::Page,
    query::Query,
    reports::report_url,
    visitor::Visitor,
};
use crate::domain::http_paths::HttpPath;

pub(super) async fn page(visitor: &Visitor) -> Result<Page, Failure> {
    let query = &visitor.query;
    let request = FindIncrementRequest {
        account_id: query.text("account"),
        idempotency_key: query.text("key"),
        meter: query.text("meter"),
    };
    let is_asked = !request.account_id.is_empty() || !request.idempotency_key.is_empty();
    let found = if is_asked {
        Some(visitor.calls.find_increment(request.clone()).await)
    } else {
        None
    };
    let content = html! {
        h1 { "Find a call" }
        (filters(query))
        @match &found {
            None => p { "Give an account and the idempotency key of an increment, or the key as an explained invoice shows it." },
            Some(Err(failure)) if failure.is_not_found() => p .note role="status" {
                "No increment with this key is stored: the key was not counted for the account, or it is no longer kept."
            },
            Some(found) => (or_reason(found, |found| shown(found, &request))),
        }
    };
    Ok(Page::new("Find a call", content))
}

fn filters(query: &Query) -> Markup {
    html! {
        form .filters method="get" action=(HttpPath::ConsoleFind.name()) role="search" {
            (field(query, "account", "Account", ""))
            (field(query, "key", "Idempotency key", "order-7"))
            (field(query, "meter", "Meter", "any"))
            button type="submit" { "Find" }
        }
    }
}

fn shown(found: &FindIncrementResponse, request: &FindIncrementRequest) -> Markup {
    let json = json!({
        "accountId": request.account_id,
        "idempotencyKey": request.idempotency_key,
        "meter": request.meter,
    });
    let increment = found.increment.clone().unwrap_or_default();
    html! {
        h2 { "The increment" }
        dl {
            dt { "Account" } dd { (account_link(&request.account_id)) }
            dt { "Key as it is stored" } dd { bdi .id { (increment.key) } }
            dt { "Meter" } dd { (foreign(&increment.meter)) }
            dt { "Quantity" } dd { (grouped(increment.quantity)) }
            dt { "Used at" } dd { (time(increment.timestamp.or(increment.counted_at))) " UTC" @if increment.timestamp.is_none() { " (the caller gave no time)" } }
            dt { "Counted at" } dd { (time(increment.counted_at)) " UTC" }
        }
        h2 { "Its report" }
        @match &found.report {
            Some(report) => (report_facts(report)),
            None => p { "The report is no longer stored by itself: it was folded into a sum." },
        }
        @if !found.divided_with.is_empty() {
            p .note { "A part of it may be in other reports: " @for id in &found.divided_with { bdi .id { (id) } " " } }
        }
        h2 { "Its invoice" }
        @if found.lines.is_empty() {
            p { "No billing period is known that charges it." }
        } @else {
            (lines(&found.lines, found.report.as_ref()))
        }
        p .more { a href=(json_url("UsageService/FindIncrement", &json)) { "The same as JSON" } }
    }
}

fn report_facts(report: &UsageReport) -> Markup {
    let window = report.window.unwrap_or_default();
    html! {
        dl {
            dt { "Report" } dd { a href=(report_url(report)) { span .id { (report.id) } } }
            dt { "Window" } dd { (time(window.start)) " to " (time(window.end)) " UTC" }
            dt { "Quantity" } dd { (grouped(report.quantity)) ", with the other increments of the window" }
            dt { "State" } dd { (state(report.state)) }
            dt { "Meter event" } dd { bdi .id { (report.identifier) } ", of " (time(report.event_timestamp)) " UTC" }
            dt { "Stripe customer" } dd { (foreign(&report.stripe_customer)) }
        }
    }
}

fn lines(lines: &[ExplainedLine], report: Option<&UsageReport>) -> Markup {
    let report = report.map_or("", |report| report.id.as_str());
    html! {
        div .scroll tabindex="0" role="region" aria-label="Lines that charge it" {
            table {
                caption { "The billing periods that charge it" }
                thead {
                    tr {
                        th scope="col" { "Item" }
                        th scope="col" { "From (UTC)" }
                        th scope="col" { "To (UTC)" }
                        th scope="col" { "Invoice" }
                        th scope="col" .number { "Invoiced" }
                        th scope="col" { "Line by line" }
                    }
                }
                tbody {
                    @for line in lines {
                        @let period = line.period.unwrap_or_default();
                        tr {
                            th scope="row" { (foreign(&line.item)) }
                            td { (time(period.start)) }
                            td { (time(period.end)) }
                            td {
                                @for one in &line.invoice_lines { bdi .id { (one.invoice) } " (" bdi { (one.status) } ", line " bdi .id { (one.line) } ") " }
                                @if line.invoice_lines.is_empty() { (foreign(&line.stripe_invoice)) }
                            }
                            td .number { @match line.invoiced { Some(invoiced) => (grouped(invoiced)), None => "–" } }
                            td {
                                a href=(url_of(&line.account_id, line.period, report)) { "This report" }
                                @if !line.stripe_invoice.is_empty() {
                                    ", " a href=(url_of_invoice(&line.account_id, &line.stripe_invoice)) { "the invoice" }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
