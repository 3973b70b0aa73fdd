//! `/invoice`: the lines of an invoice or of an account's billing periods, each with its reports, their meter events and the
//! increments behind them.

use chrono_tz::Tz;
use maud::{Markup, html};
use serde_json::{Value, json};
use usage_proto::v1::{ExplainInvoiceRequest, ExplainInvoiceResponse, Period};

use super::{
    calls::Failure,
    html::{choice, field, json_url, more_named, rfc3339, time},
    invoice_parts::{line, metered_only},
    layout::Page,
    query::Query,
    visitor::Visitor,
};
use crate::domain::http_paths::HttpPath;

/// The increments of one page.
const INCREMENTS: i32 = 200;

pub(super) async fn page(visitor: &Visitor) -> Result<Page, Failure> {
    let query = &visitor.query;
    let Some(request) = request(query)? else {
        let content = html! {
            h1 { "Invoice, line by line" }
            (filters(query))
            p { "Give an account, for its billing periods, or an invoice of Stripe." }
        };
        return Ok(Page::new("Invoice", content));
    };
    let found = match visitor.calls.explain_invoice(request.clone()).await {
        // Nothing is wrong with the address.
        Err(failure) if failure.is_not_found() => Err(failure),
        found => Ok(found?),
    };
    let of = [&request.stripe_invoice, &request.account_id];
    let of = of.into_iter().find(|text| !text.is_empty());
    let of = of.map_or("", String::as_str);
    let content = html! {
        h1 { "Invoice, line by line: " bdi .id { (of) } }
        (filters(query))
        @match &found {
            Ok(found) => { (shown(found, visitor)) (links(found, &request, query)) },
            Err(failure) => p .note role="status" { "No line is known here: " bdi { (failure.message) } },
        }
    };
    Ok(Page::new(format!("Invoice of {of}"), content))
}

/// What the address asks for; none if it names nothing.
pub(super) fn request(query: &Query) -> Result<Option<ExplainInvoiceRequest>, Failure> {
    if query.get("account").is_empty() && query.get("invoice").is_empty() {
        return Ok(None);
    }
    let (start, end) = (query.time("start", Tz::UTC)?, query.time("end", Tz::UTC)?);
    let period = match (start, end) {
        (None, None) => None,
        (Some(_), Some(_)) => Some(Period { start, end }),
        _ => return Err(Failure::invalid("give both a start and an end, or neither")),
    };
    Ok(Some(ExplainInvoiceRequest {
        account_id: query.text("account"),
        period,
        stripe_invoice: query.text("invoice"),
        page_size: INCREMENTS,
        page_token: query.text("page"),
        report_id: query.text("report"),
        without_increments: query.get("increments") == "no",
    }))
}

fn filters(query: &Query) -> Markup {
    let increments = [
        ("", "with increments".to_owned()),
        ("no", "only reports".to_owned()),
    ];
    html! {
        form .filters method="get" action=(HttpPath::ConsoleInvoice.name()) role="search" {
            (field(query, "account", "Account", ""))
            (field(query, "invoice", "Stripe invoice", "in_…"))
            (field(query, "start", "Periods that end after", "2026-03-01"))
            (field(query, "end", "Periods that begin before", "2026-04-01"))
            (field(query, "report", "Only the report", "its id"))
            (choice(query, "increments", "Parts", &increments))
            button type="submit" { "Show" }
        }
    }
}

fn shown(found: &ExplainInvoiceResponse, visitor: &Visitor) -> Markup {
    let has_more = !found.next_page_token.is_empty();
    html! {
        p { "Read at " (time(Some(visitor.timestamp()))) " UTC from what is stored here; Stripe was not asked." }
        @if !visitor.query.get("page").is_empty() || has_more {
            p .note { "This is one page of several: sums of lines are of all pages, reports and increments those of this page." }
        }
        @if found.lines.is_empty() {
            @if has_more {
                p { "No part was found on this page. The search goes on on the next one." }
            } @else {
                p { "There is no line: no billing period of the account is known for this time." }
            }
        }
        (metered_only(&found.lines))
        @for one in &found.lines { (line(one)) }
    }
}

fn links(found: &ExplainInvoiceResponse, request: &ExplainInvoiceRequest, query: &Query) -> Markup {
    let json = json_url("UsageService/ExplainInvoice", &json_of(request));
    let path = HttpPath::ConsoleInvoice;
    let csv = query.with(&[("as", "csv"), ("page", "")]);
    let csv = format!("{}?{csv}", path.name());
    let links = [
        (json.as_str(), "The same as JSON"),
        (csv.as_str(), "All pages as CSV"),
    ];
    more_named(path, query, &found.next_page_token, &links)
}

fn json_of(request: &ExplainInvoiceRequest) -> Value {
    json!({
        "accountId": request.account_id,
        "period": request.period.map(|period| json!({
            "start": period.start.map(rfc3339),
            "end": period.end.map(rfc3339),
        })),
        "stripeInvoice": request.stripe_invoice,
        "pageSize": request.page_size,
        "pageToken": request.page_token,
        "reportId": request.report_id,
        "withoutIncrements": request.without_increments,
    })
}
