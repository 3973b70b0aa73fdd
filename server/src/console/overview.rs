//! `/`: what needs a decision, how reporting is, the usage of the last days, and the latest runs.

use std::cmp::Reverse;

use maud::{Markup, html};
use serde_json::json;
use usage_proto::v1::{DoctorResponse, ListReportsRequest, ListRunsRequest};

use super::{
    calls::Failure,
    diagnosis::{self, Diagnosis},
    doctor_lines,
    html::{self as parts, needs_decision, or_reason, url},
    kept::Found,
    layout::Page,
    recent_usage::RecentUsage,
    reports, runs,
    visitor::Visitor,
};
use crate::domain::http_paths::HttpPath;

/// Rows of each list.
const ROWS: i32 = 5;
/// The checks whose findings are shown also if nothing is to be done.
const SHOWN: [&str; 6] = [
    "health",
    "unreported usage",
    "sending",
    "schedule",
    "sending rate",
    "stripe account",
];

pub(super) async fn page(
    visitor: &Visitor,
    diagnosis: &Diagnosis,
    usage: &RecentUsage,
) -> Result<Page, Failure> {
    let undecided = ListReportsRequest {
        states: needs_decision().into_iter().map(Into::into).collect(),
        page_size: ROWS,
        ..ListReportsRequest::default()
    };
    let latest = ListRunsRequest {
        page_size: ROWS,
        ..ListRunsRequest::default()
    };
    let (found, waiting, latest, usage) = tokio::join!(
        diagnosis.read(visitor),
        visitor.calls.list_reports(undecided.clone()),
        visitor.calls.list_runs(latest),
        usage.part(visitor),
    );
    let again = diagnosis::again(visitor, HttpPath::ConsoleOverview);
    let content = html! {
        h1 { "Overview" }
        (or_reason(&found, |found| findings(found.as_ref(), &again)))
        (usage)
        h2 { "Reports that need a decision" }
        (or_reason(&waiting, |page| html! {
            @if page.reports.is_empty() {
                p .ok { "None." }
            } @else {
                (reports::table(&page.reports, "The reports that wait for a decision"))
            }
            p .more {
                a href=(url(HttpPath::ConsoleReports, &[("state", "needs_decision")])) { "All that need a decision" }
                a href=(parts::json_url("UsageService/ListReports", &reports::json_of(&undecided))) { "The same as JSON" }
            }
        }))
        h2 { "Latest runs" }
        (or_reason(&latest, |page| html! {
            @if page.runs.is_empty() {
                p { "There was none." }
            } @else {
                (runs::table(visitor, &page.runs, "The latest runs"))
            }
            p .more {
                a href=(HttpPath::ConsoleRuns.name()) { "All runs" }
                a href=(parts::json_url("OperationsService/ListRuns", &json!({ "pageSize": ROWS }))) { "The same as JSON" }
            }
        }))
    };
    let page = Page::new("Overview", content);
    Ok(diagnosis::refreshed(page, &again, &found))
}

fn findings(found: Option<&Found<DoctorResponse>>, again: &str) -> Markup {
    let Some(found) = found else {
        return html! {
            h2 { "What needs attention" }
            (diagnosis::being_checked(diagnosis::CHECKED, again))
            p .more { a href=(doctor_lines::json()) { "Check now, as JSON" } }
        };
    };
    let age = diagnosis::age(found);
    let found = &found.answer;
    let findings = found.findings.iter();
    let mut to_do: Vec<_> = findings
        .filter(|finding| doctor_lines::needs_attention(finding))
        .collect();
    // The worst come first.
    to_do.sort_by_key(|finding| Reverse(finding.severity));
    let fine = found.findings.iter().filter(|finding| {
        SHOWN.contains(&finding.check.as_str()) && !doctor_lines::needs_attention(finding)
    });
    html! {
        h2 { "What needs attention" }
        @if to_do.is_empty() {
            p .ok { "Nothing: every check is fine." }
        } @else {
            (doctor_lines::list(to_do.into_iter()))
        }
        h2 { "State" }
        (doctor_lines::list(fine))
        p .faint { (age) }
        p .more {
            a href=(HttpPath::ConsoleSetUp.name()) { "All checks and settings" }
            a href=(doctor_lines::json()) { "Check now, as JSON" }
        }
    }
}
