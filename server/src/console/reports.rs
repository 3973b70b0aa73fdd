//! `/reports`: usage reports by state, account, meter, customer, run and time.

use chrono_tz::Tz;
use maud::{Markup, html};
use serde_json::{Value, json};
use usage_proto::v1::{ListReportsRequest, UsageReport, UsageReportKind, UsageReportState};

use super::{
    calls::Failure,
    html::{
        ROWS, account_link, choice, field, foreign, grouped, json_url, more, needs_decision,
        rfc3339, state, state_named, time, url, words,
    },
    layout::Page,
    query::Query,
    visitor::Visitor,
};
use crate::domain::{http_paths::HttpPath, report::State, violation::quoted};

const KIND: &str = "USAGE_REPORT_KIND_";
const KINDS: [UsageReportKind; 3] = [
    UsageReportKind::Usage,
    UsageReportKind::Correction,
    UsageReportKind::AlreadySent,
];
/// The choice of all states that wait for a decision.
const NEEDS_DECISION: &str = "needs_decision";

pub(super) async fn page(visitor: &Visitor) -> Result<Page, Failure> {
    let query = &visitor.query;
    let request = request(query)?;
    let page = visitor.calls.list_reports(request.clone()).await?;
    let json = json_url("UsageService/ListReports", &json_of(&request));
    let content = html! {
        h1 { "Reports" }
        (filters(query))
        @if page.reports.is_empty() {
            p { "There is no such report" @if !page.next_page_token.is_empty() { " on this page" } "." }
        } @else {
            (table(&page.reports, "Usage reports, the latest first"))
        }
        @if !page.archives.is_empty() {
            h2 { "Archives" }
            p { "Older reports were folded into sums. They are in these files of " code { "ARCHIVE_DIR" } ":" }
            ul {
                @for archive in &page.archives {
                    li { bdi { (archive.file) } ": " (grouped(archive.reports)) " reports, " (grouped(archive.quantity)) " units" }
                }
            }
        }
        (more(HttpPath::ConsoleReports, query, &page.next_page_token, Some(&json)))
    };
    Ok(Page::new("Reports", content))
}

fn request(query: &Query) -> Result<ListReportsRequest, Failure> {
    Ok(ListReportsRequest {
        account_id: query.text("account"),
        states: states(query.get("state"))?,
        run_id: query.text("run"),
        page_size: ROWS,
        page_token: query.text("page"),
        kind: kind(query.get("kind"))?.into(),
        meter: query.text("meter"),
        stripe_customer: query.text("customer"),
        from: query.time("from", Tz::UTC)?,
        until: query.time("until", Tz::UTC)?,
        decided_from: query.time("decided_from", Tz::UTC)?,
        decided_until: query.time("decided_until", Tz::UTC)?,
    })
}

fn kind(wanted: &str) -> Result<UsageReportKind, Failure> {
    if wanted.is_empty() {
        return Ok(UsageReportKind::Unspecified);
    }
    let kind = KINDS.into_iter().find(|kind| name_of_kind(*kind) == wanted);
    kind.ok_or_else(|| {
        let known = KINDS.map(name_of_kind).join(", ");
        Failure::invalid(format!(
            "kind is {}; it must be one of {known}",
            quoted(wanted)
        ))
    })
}

/// A kind as addresses have it, such as `correction`.
pub(super) fn name_of_kind(kind: UsageReportKind) -> String {
    let name = kind.as_str_name();
    let name = name.strip_prefix(KIND).unwrap_or(name);
    name.to_ascii_lowercase()
}

fn states(wanted: &str) -> Result<Vec<i32>, Failure> {
    let states = match wanted {
        "" => Vec::new(),
        NEEDS_DECISION => needs_decision(),
        name => {
            let state = state_named(name);
            let unknown = || Failure::invalid(format!("state is {}; it is no state", quoted(name)));
            vec![state.ok_or_else(unknown)?]
        }
    };
    Ok(states.into_iter().map(Into::into).collect())
}

/// The request as JSON, as far as the address of a page can say it.
pub(super) fn json_of(request: &ListReportsRequest) -> Value {
    let states = request.states.iter().filter_map(|state| {
        let state = UsageReportState::try_from(*state).ok()?;
        Some(state.as_str_name())
    });
    json!({
        "accountId": request.account_id,
        "states": states.collect::<Vec<_>>(),
        "runId": request.run_id,
        "kind": request.kind().as_str_name(),
        "pageSize": request.page_size,
        "pageToken": request.page_token,
        "meter": request.meter,
        "stripeCustomer": request.stripe_customer,
        "from": request.from.map(rfc3339),
        "until": request.until.map(rfc3339),
        "decidedFrom": request.decided_from.map(rfc3339),
        "decidedUntil": request.decided_until.map(rfc3339),
    })
}

fn filters(query: &Query) -> Markup {
    let mut values = vec![
        ("", "any".to_owned()),
        (NEEDS_DECISION, "needs a decision".to_owned()),
    ];
    values.extend(State::ALL.map(|state| (state.name(), words(state.name(), ""))));
    let names = KINDS.map(name_of_kind);
    let mut kinds = vec![("", "any".to_owned())];
    kinds.extend(names.iter().map(|name| (name.as_str(), words(name, ""))));
    html! {
        form .filters method="get" action=(HttpPath::ConsoleReports.name()) role="search" {
            (choice(query, "state", "State", &values))
            (choice(query, "kind", "Kind", &kinds))
            (field(query, "account", "Account", ""))
            (field(query, "meter", "Meter", ""))
            (field(query, "customer", "Stripe customer", "cus_…"))
            (field(query, "run", "Run", ""))
            (field(query, "from", "Usage from", "2026-03-01"))
            (field(query, "until", "Usage before", "2026-04-01"))
            (field(query, "decided_from", "Decided from", "2026-03-01"))
            (field(query, "decided_until", "Decided before", "2026-04-01"))
            button type="submit" { "Show" }
        }
    }
}

/// The address of one report. The start of its window says where it is found.
pub(super) fn report_url(report: &UsageReport) -> String {
    let start = report.window.and_then(|window| window.start);
    let start = start.map(rfc3339).unwrap_or_default();
    let pairs = [
        ("account", report.account_id.as_str()),
        ("id", report.id.as_str()),
        ("window", start.as_str()),
    ];
    url(HttpPath::ConsoleReport, &pairs)
}

pub(super) fn table(reports: &[UsageReport], caption: &str) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { (caption) }
                thead {
                    tr {
                        th scope="col" { "Window" }
                        th scope="col" { "Account" }
                        th scope="col" { "Meter" }
                        th scope="col" .number { "Quantity" }
                        th scope="col" { "State" }
                        th scope="col" { "Stripe customer" }
                        th scope="col" { "Last error" }
                    }
                }
                tbody { @for report in reports { (row(report)) } }
            }
        }
    }
}

fn row(report: &UsageReport) -> Markup {
    let start = report.window.and_then(|window| window.start);
    html! {
        tr {
            th scope="row" { a href=(report_url(report)) { (time(start)) } }
            td { (account_link(&report.account_id)) }
            td { (foreign(&report.meter)) }
            td .number {
                (grouped(report.quantity))
                @if report.kind() == UsageReportKind::Correction { " (correction)" }
            }
            td { (state(report.state)) @if report.billed_elsewhere { " " span .faint { "(would be sent; another integration bills it)" } } }
            td { (foreign(&report.stripe_customer)) }
            td { (foreign(&report.last_error)) }
        }
    }
}
