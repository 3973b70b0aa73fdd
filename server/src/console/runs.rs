//! `/runs`: the closings of reports, and what became of them.

use chrono_tz::Tz;
use maud::{Markup, html};
use serde_json::json;
use usage_proto::v1::{ListRunsRequest, ListedRun, ReportCount, ReportRunState};

use super::{
    actions,
    calls::Failure,
    html::{ROWS, choice, field, foreign, grouped, json_url, more, rfc3339, time, url, words},
    layout::Page,
    query::Query,
    visitor::Visitor,
};
use crate::domain::{
    access::{Requirement, Role},
    http_paths::HttpPath,
    violation::quoted,
};

const STATE: &str = "REPORT_RUN_STATE_";
const STATES: [ReportRunState; 3] = [
    ReportRunState::Closing,
    ReportRunState::Stalled,
    ReportRunState::Closed,
];

pub(super) async fn page(visitor: &Visitor) -> Result<Page, Failure> {
    let query = &visitor.query;
    let (states, names) = states(query)?;
    let request = ListRunsRequest {
        from: query.time("from", Tz::UTC)?,
        until: query.time("until", Tz::UTC)?,
        states,
        page_size: ROWS,
        page_token: query.text("page"),
        run_id: query.text("run"),
    };
    let json = json!({
        "from": request.from.map(rfc3339),
        "until": request.until.map(rfc3339),
        "states": names,
        "pageSize": request.page_size,
        "pageToken": request.page_token,
        "runId": request.run_id,
    });
    let page = visitor.calls.list_runs(request).await?;
    let mut values = vec![("", "any".to_owned())];
    values.extend(STATES.map(|state| {
        let name = state.as_str_name();
        (name, words(name, STATE))
    }));
    let content = html! {
        h1 { "Runs" }
        (actions::runs_part(visitor))
        form .filters method="get" action=(HttpPath::ConsoleRuns.name()) role="search" {
            (choice(query, "state", "State", &values))
            (field(query, "run", "Run", ""))
            (field(query, "from", "Begun from", "2026-03-01"))
            (field(query, "until", "Begun before", "2026-04-01"))
            button type="submit" { "Show" }
        }
        @if page.runs.is_empty() {
            p { "There is no such run." }
        } @else {
            (table(visitor, &page.runs, "Runs, the latest first"))
        }
        (more(HttpPath::ConsoleRuns, query, &page.next_page_token, Some(&json_url("OperationsService/ListRuns", &json))))
    };
    Ok(Page::new("Runs", content))
}

fn states(query: &Query) -> Result<(Vec<i32>, Vec<&'static str>), Failure> {
    let name = query.get("state");
    if name.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let state = STATES.into_iter().find(|state| state.as_str_name() == name);
    let unknown = || Failure::invalid(format!("state is {}; it is no state", quoted(name)));
    let state = state.ok_or_else(unknown)?;
    Ok((vec![state.into()], vec![state.as_str_name()]))
}

/// Runs; admins can look at how far each is.
pub(super) fn table(visitor: &Visitor, runs: &[ListedRun], caption: &str) -> Markup {
    let is_admin = Requirement::Role(Role::Admin).is_met_by(visitor.caller.role);
    html! {
        div .scroll tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { (caption) }
                thead {
                    tr {
                        th scope="col" { "Begun" }
                        th scope="col" { "By" }
                        th scope="col" { "State" }
                        th scope="col" .number { "Reports" }
                        th scope="col" .number { "Accepted" }
                        th scope="col" .number { "Waiting" }
                        th scope="col" .number { "Not billed" }
                        th scope="col" .number { "Never billed" }
                        th scope="col" .number { "No customer" }
                    }
                }
                tbody { @for run in runs { (row(run, is_admin)) } }
            }
        }
    }
}

fn row(run: &ListedRun, is_admin: bool) -> Markup {
    let count = |count: Option<ReportCount>| count.map_or(0, |count| count.reports);
    let class = match run.state() {
        ReportRunState::Stalled => "bad",
        _ => "plain",
    };
    html! {
        tr {
            th scope="row" { a href=(url(HttpPath::ConsoleReports, &[("run", &run.id)])) { (time(run.started_at)) } }
            td {
                (words(run.trigger().as_str_name(), "REPORT_RUN_TRIGGER_"))
                @if !run.requested_by.is_empty() { ": " (foreign(&run.requested_by)) }
            }
            td {
                @let state = words(run.state().as_str_name(), STATE);
                @if is_admin {
                    a class=(class) href=(url(HttpPath::ConsoleRun, &[("id", &run.id)])) { (state) }
                } @else {
                    span class=(class) { (state) }
                }
            }
            td .number { (grouped(count(run.closed))) }
            @match &run.results {
                Some(results) => {
                    td .number { (grouped(count(results.accepted))) }
                    td .number { (grouped(count(results.pending).saturating_add(count(results.retried_later)))) }
                    td .number { (grouped(count(results.rejected))) }
                    td .number { (grouped(count(results.not_billable))) }
                    td .number { (grouped(count(results.no_customer))) }
                }
                None => td colspan="5" .faint { "too many to be counted here" },
            }
        }
    }
}
