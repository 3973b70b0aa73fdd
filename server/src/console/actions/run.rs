//! `/run`: how far a run is. The page loads itself again while the run goes on, without a script.

use axum::http::HeaderValue;
use maud::{Markup, html};
use serde_json::json;
use usage_proto::v1::ReportRunProgress;
use uuid::Uuid;

use super::{
    force::count,
    preview::{self, Seen},
};
use crate::{
    console::{
        calls::Failure,
        html::{grouped, json_url, url},
        layout::Page,
        query::Query,
        visitor::Visitor,
    },
    domain::{http_paths::HttpPath, violation::quoted},
};

/// How often the page loads itself again.
const REFRESH_SECS: u32 = 2;
/// How many times it does: for half an hour.
const MAX_REFRESHES: u32 = 900;

/// The address of a run. `is_waiting` if its first answer said that reports which wait for a retry still wait: only that answer
/// says it.
pub(super) fn address(run: &str, is_waiting: bool) -> String {
    address_of(run, is_waiting, "", 0)
}

/// The address of the next look at a run.
fn address_of(run: &str, is_waiting: bool, refresh: &str, seen: u32) -> String {
    let seen = if seen == 0 {
        String::new()
    } else {
        seen.to_string()
    };
    let pairs = [
        ("id", run),
        ("waiting", if is_waiting { "yes" } else { "" }),
        ("refresh", refresh),
        ("seen", &seen),
    ];
    url(HttpPath::ConsoleRun, &pairs)
}

pub(super) async fn page(visitor: &Visitor) -> Result<Page, Failure> {
    let query = &visitor.query;
    let id = query.get("id");
    let run = Uuid::parse_str(id)
        .map_err(|_| Failure::invalid(format!("id is {}; it must be a UUID", quoted(id))))?
        .to_string();
    let seen = preview::watch(&visitor.calls, &run).await?;
    let is_done = match &seen {
        Seen::Progress(progress) => is_done(progress),
        Seen::Summary(_) => true,
    };
    let looks = looks(query);
    let (is_stopped, is_waiting) = (is_stopped(query), is_waiting(query));
    let content = html! {
        h1 { "Report run " span .id { (run) } }
        (state(&seen, is_done))
        @if is_waiting {
            p #still-waiting .note {
                "Reports that waited for a retry when this run began still wait, and it does not send them. They are retried by themselves; the "
                a href=(HttpPath::ConsoleAudit.name()) { "audit" }
                " says why."
            }
        }
        @match &seen {
            Seen::Progress(progress) => (progress_of(progress)),
            Seen::Summary(summary) => {
                (results(summary, 0))
            }
        }
        @if !is_done {
            p #refreshing .note {
                @if is_stopped {
                    "This page no longer loads itself again. "
                    a #start-refresh href=(address(&run, is_waiting)) { "Load it every " (REFRESH_SECS) " seconds" }
                } @else {
                    "This page loads itself again every " (REFRESH_SECS) " seconds, for half an hour. "
                    a #stop-refresh href=(address_of(&run, is_waiting, "no", 0)) { "Stop that" }
                }
            }
        }
        p .more {
            a href=(url(HttpPath::ConsoleReports, &[("run", &run)])) { "The reports that it closed" }
            a href=(HttpPath::ConsoleRuns.name()) { "All runs" }
            a href=(json_url("OperationsService/ListRuns", &json!({ "runId": run }))) { "The run as JSON" }
        }
    };
    let page = Page::new(
        if is_done {
            "Run: done"
        } else {
            "Run: in progress"
        },
        content,
    );
    Ok(if is_done || is_stopped {
        page
    } else {
        let next = address_of(&run, is_waiting, "", looks.saturating_add(1));
        page.refreshed(REFRESH_SECS, &next)
    })
}

/// How often the page has loaded itself.
fn looks(query: &Query) -> u32 {
    query.get("seen").parse().unwrap_or(0)
}

fn is_stopped(query: &Query) -> bool {
    query.get("refresh") == "no" || looks(query) >= MAX_REFRESHES
}

/// Whether the address says that reports which wait for a retry still wait.
fn is_waiting(query: &Query) -> bool {
    query.get("waiting") == "yes"
}

/// When the browser loads what next, after a failure in the place of the page that may pass.
pub(in crate::console) fn refresh_after(
    visitor: &Visitor,
    failure: &Failure,
) -> Option<HeaderValue> {
    let query = &visitor.query;
    if failure.is_final() || is_stopped(query) {
        return None;
    }
    let secs = failure.retry_after_secs.unwrap_or(0);
    let secs = secs.max(u64::from(REFRESH_SECS));
    let looks = looks(query).saturating_add(1);
    let next = address_of(query.get("id"), is_waiting(query), "", looks);
    HeaderValue::from_str(&format!("{secs}; url={next}")).ok()
}

fn is_done(progress: &ReportRunProgress) -> bool {
    progress.closing_finished && progress.done >= progress.closed && progress.in_earlier_runs == 0
}

fn state(seen: &Seen, is_done: bool) -> Markup {
    let words = match seen {
        _ if is_done => "Done: each report has a result.",
        Seen::Progress(progress) if !progress.closing_finished => {
            "In progress: it closes reports and sends them. It goes on if you leave this page."
        }
        _ => {
            "In progress: all reports are closed, and it sends them. It goes on if you leave this page."
        }
    };
    html! { p #run-state role="status" .ok[is_done] { (words) } }
}

fn progress_of(progress: &ReportRunProgress) -> Markup {
    let left = progress.closed.saturating_sub(progress.done);
    let left = left.saturating_add(progress.in_earlier_runs);
    let all = progress.closed.saturating_add(progress.in_earlier_runs);
    html! {
        @if all > 0 {
            progress aria-label="Reports with a result" max=(all) value=(progress.done) { (grouped(progress.done)) " of " (grouped(all)) }
        }
        (results(&progress.results.clone().unwrap_or_default(), left))
    }
}

fn results(summary: &usage_proto::v1::ReportRunSummary, left: i64) -> Markup {
    html! {
        dl #run-figures {
            dt { "Closed" } dd { (count(summary.closed)) }
            dt { "Sent" } dd { (count(summary.accepted)) }
            dt { "Failed" } dd { (count(summary.rejected)) }
            dt { "Retried later" } dd { (count(summary.retried_later)) }
            dt { "Never billed" } dd { (count(summary.not_billable)) }
            dt { "Without a Stripe customer" } dd { (count(summary.no_customer)) }
            dt { "Left" } dd { (grouped(left)) " reports" }
        }
    }
}
