//! `/report`: one usage report, and its way to Stripe.

use chrono_tz::Tz;
use maud::{Markup, html};
use prost_types::Timestamp;
use usage_proto::v1::{ListReportsRequest, ReportDecision, UsageReport, UsageReportKind};

use super::{
    actions,
    calls::Failure,
    html::{account_link, foreign, grouped, json_url, state, time, url, words},
    invoice_parts,
    layout::Page,
    query::Query,
    reports,
    visitor::Visitor,
};
use crate::domain::http_paths::HttpPath;

/// The reports of a window that are searched.
const MAX_REPORTS: i32 = 1_000;

pub(super) async fn page(visitor: &Visitor) -> Result<Page, Failure> {
    let request = request(&visitor.query)?;
    let report = &find(visitor).await?;
    let json = json_url("UsageService/ListReports", &reports::json_of(&request));
    let content = html! {
        h1 { "Report " span .id { (report.id) } }
        (actions::recorded(visitor, report))
        (facts(report))
        h2 { "Its way to Stripe" }
        (steps(report))
        h2 #decisions { "Decisions" }
        (decisions(&report.decisions))
        (actions::report_part(visitor, report))
        p .more {
            a href=(url(HttpPath::ConsoleReports, &[("account", &report.account_id)])) { "All reports of the account" }
            @let period = invoice_parts::around(report);
            a href=(invoice_parts::url_of(&report.account_id, period, &report.id)) { "Its increments and invoice" }
            a href=(json) { "All of the window as JSON" }
        }
    };
    Ok(Page::new("Report", content))
}

/// The report that the address names.
pub(super) async fn find(visitor: &Visitor) -> Result<UsageReport, Failure> {
    let query = &visitor.query;
    let (request, id) = (request(query)?, query.get("id"));
    let found = visitor.calls.list_reports(request).await?;
    let report = found.reports.into_iter().find(|report| report.id == id);
    report.ok_or_else(|| {
        Failure::not_found(
            "no such report is listed for this account and window; it may have been folded into a sum",
        )
    })
}

/// All reports of the window, of which one is wanted.
fn request(query: &Query) -> Result<ListReportsRequest, Failure> {
    for name in ["account", "id"] {
        if query.get(name).is_empty() {
            return Err(Failure::invalid(format!("the address has no {name}")));
        }
    }
    let from = query.time("window", Tz::UTC)?;
    // The first millisecond after it.
    let until = from.map(|from| match from.nanos.checked_add(1_000_000) {
        Some(nanos) if nanos < 1_000_000_000 => Timestamp { nanos, ..from },
        _ => Timestamp {
            seconds: from.seconds.saturating_add(1),
            nanos: 0,
        },
    });
    Ok(ListReportsRequest {
        account_id: query.text("account"),
        page_size: MAX_REPORTS,
        from,
        until,
        ..ListReportsRequest::default()
    })
}

fn facts(report: &UsageReport) -> Markup {
    let window = report.window.unwrap_or_default();
    html! {
        dl {
            dt { "Account" } dd { (account_link(&report.account_id)) }
            dt { "Meter" } dd { (foreign(&report.meter)) }
            dt { "Quantity" } dd { (grouped(report.quantity)) }
            dt { "State" } dd { (state(report.state)) @if report.billed_elsewhere { " " span .faint { "(would be sent; another integration bills it)" } } }
            dt { "Window" } dd { (time(window.start)) " to " (time(window.end)) }
            dt { "Kind" } dd { (words(report.kind().as_str_name(), "USAGE_REPORT_KIND_")) }
            @if report.kind() == UsageReportKind::Correction {
                dt { "Why" } dd { (foreign(&report.note)) }
                dt { "Entered by" } dd { (foreign(&report.entered_by)) }
            }
            dt { "Stripe customer" } dd { (foreign(&report.stripe_customer)) }
            @if report.bill_at.is_some() { dt { "Billed at" } dd { (time(report.bill_at)) } }
            @if !report.last_error.is_empty() { dt { "Last error" } dd .bad { (foreign(&report.last_error)) } }
            @if report.straddled {
                dt { "Boundary" }
                dd { "A boundary inside the window became known too late to divide it: all of it counts as usage of its first increment's time." }
            }
        }
    }
}

fn steps(report: &UsageReport) -> Markup {
    html! {
        ol .steps {
            li { "Counted in the window, until it was closed: " (time(report.closed_at))
                @if !report.run_id.is_empty() {
                    ", by the run " a href=(url(HttpPath::ConsoleReports, &[("run", &report.run_id)])) { span .id { (report.run_id) } }
                }
            }
            li { "First sent to Stripe: " (time(report.first_sent_at)) ", " (report.attempts) " attempts, identifier " span .id { (foreign(&report.identifier)) } }
            li { "Time of the meter event: " (time(report.event_timestamp)) }
            li { "Accepted by Stripe: " (time(report.reported_at)) }
            li { "Found in Stripe's meter totals: " (time(report.confirmed_at)) }
            li { "Charged by final invoices: " @if report.state() == usage_proto::v1::UsageReportState::Invoiced { "yes" } @else { "not yet" } }
        }
    }
}

fn decisions(decisions: &[ReportDecision]) -> Markup {
    html! {
        @if decisions.is_empty() {
            p { "None." }
        } @else {
            div .scroll tabindex="0" role="region" aria-label="Decisions" {
                table {
                    caption { "The decisions of admins, oldest first" }
                    thead {
                        tr {
                            th scope="col" { "When" }
                            th scope="col" { "Action" }
                            th scope="col" { "Reason" }
                            th scope="col" { "By" }
                            th scope="col" { "State before" }
                        }
                    }
                    tbody {
                        @for decision in decisions {
                            tr {
                                th scope="row" { (time(decision.decided_at)) }
                                td { (words(decision.action().as_str_name(), "RESOLVE_ACTION_")) }
                                td { (foreign(&decision.reason)) }
                                td { (foreign(&decision.requested_by)) }
                                td { (state(decision.from_state)) }
                            }
                        }
                    }
                }
            }
        }
    }
}
