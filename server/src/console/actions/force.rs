//! `/force`: an admin reports accounts to Stripe now.

use axum::http::StatusCode;
use maud::{Markup, html};
use usage_proto::v1::{ForceReportRequest, ReportCount};
use uuid::Uuid;

use super::{
    Outcome,
    fields::{Form, Way, check_button, confirm, lines, nothing_yet, problem, reason, ways},
    not_known,
    preview::{self, MAX_PREVIEWED, Preview},
    run,
};
use crate::{
    console::{
        calls::Failure,
        html::{foreign, grouped, url},
        layout::Page,
    },
    domain::{correction::check_reason, http_paths::HttpPath, violation::quoted},
};

/// Accounts that the page which confirms names.
const NAMED: usize = 20;
const SOME: &str = "accounts";
const ALL: &str = "all";
const WAYS: [&Way; 2] = [
    &Way {
        value: SOME,
        label: "These accounts",
        meaning: "Only the accounts that are named below.",
    },
    &Way {
        value: ALL,
        label: "All accounts",
        meaning: "Every account, as the schedule does.",
    },
];

fn address(form: &Form<'_>) -> String {
    let account = form.visitor.query.text("account");
    url(HttpPath::ConsoleForce, &[("account", &account)])
}

pub(super) fn form(form: &Form<'_>, error: Option<&Failure>) -> Page {
    let chosen = match form.fields.get("scope") {
        "" => SOME,
        chosen => chosen,
    };
    let named = form.visitor.query.text("account");
    let hint = "Ids, one a line, at most 1,000. Not needed for all accounts.";
    let content = html! {
        h1 { "Report now" }
        p { "Closes the open reports and sends them to Stripe, without waiting for the schedule. Reports that wait for a retry are sent too." }
        (problem(error))
        form #force-form .stacked method="post" action=(address(form)) {
            (form.token())
            (ways("scope", "Which accounts", &WAYS, chosen))
            (lines(form, error, "accounts", "Accounts", hint, &named))
            (reason(form, error, "the request"))
            (check_button())
        }
    };
    Page::new("Report now", content)
}

pub(super) async fn post(form: &Form<'_>) -> Result<Outcome, Failure> {
    if form.is("edit") {
        return Ok(Outcome::Page(StatusCode::OK, self::form(form, None)));
    }
    match sent(form).await {
        Ok(outcome) => Ok(outcome),
        Err(failure) if failure.is_denied() => Err(failure),
        Err(failure) => {
            let known = || Outcome::Page(failure.status, self::form(form, Some(&failure)));
            Ok(not_known(form, &failure, &address(form)).unwrap_or_else(known))
        }
    }
}

fn request(form: &Form<'_>) -> Result<ForceReportRequest, Failure> {
    let is_separator = |char: char| char.is_whitespace() || char == ',';
    let accounts = form.fields.get("accounts").split(is_separator);
    let accounts: Vec<String> = accounts
        .filter(|account| !account.is_empty())
        .map(str::to_owned)
        .collect();
    let reason = form.lines("reason");
    check_reason(&reason).map_err(|violation| Failure::invalid(violation.message))?;
    let request = ForceReportRequest {
        reason,
        ..ForceReportRequest::default()
    };
    match form.fields.get("scope") {
        ALL => Ok(ForceReportRequest {
            all: true,
            ..request
        }),
        SOME if accounts.is_empty() => Err(Failure::invalid(
            "accounts is empty; name 1 to 1,000, or choose all accounts",
        )),
        SOME => Ok(ForceReportRequest {
            account_ids: accounts,
            ..request
        }),
        other => Err(Failure::invalid(format!(
            "scope is {}; it must be {SOME} or {ALL}",
            quoted(other)
        ))),
    }
}

async fn sent(form: &Form<'_>) -> Result<Outcome, Failure> {
    let request = request(form)?;
    if form.is("do") {
        let key = form.fields.text("key");
        if key.is_empty() {
            return Err(Failure::invalid(
                "key is missing; look at what would happen first",
            ));
        }
        let request = ForceReportRequest {
            idempotency_key: key,
            ..request
        };
        let run = preview::begin(&form.visitor.calls, request).await?;
        return Ok(Outcome::Done(run::address(&run.run_id, run.is_waiting)));
    }
    let found = preview::read(&form.visitor.calls, request.clone()).await?;
    Ok(Outcome::Page(
        StatusCode::OK,
        confirmation(form, &request, &found),
    ))
}

fn confirmation(form: &Form<'_>, request: &ForceReportRequest, found: &Preview) -> Page {
    let accounts = request.account_ids.join("\n");
    let key = Uuid::now_v7().to_string();
    let kept = [
        ("scope", if request.all { ALL } else { SOME }),
        ("accounts", accounts.as_str()),
        ("reason", request.reason.as_str()),
        ("key", key.as_str()),
    ];
    let act = if request.all {
        "Report all accounts now"
    } else {
        "Report these accounts now"
    };
    let content = html! {
        h1 { (act) }
        (nothing_yet())
        dl {
            dt { "Accounts" }
            dd {
                @if request.all { "all" } @else {
                    @for (index, account) in request.account_ids.iter().take(NAMED).enumerate() {
                        @if index > 0 { ", " }
                        bdi .id { (account) }
                    }
                    @if request.account_ids.len() > NAMED { ", and " (request.account_ids.len().saturating_sub(NAMED)) " more" }
                }
            }
            dt { "Reason" } dd .lines { (foreign(&request.reason)) }
        }
        (figures(found))
        (confirm(form, &address(form), &kept, act))
    };
    Page::new("Report now: confirm", content)
}

/// What would be closed and sent.
fn figures(found: &Preview) -> Markup {
    html! {
        @if found.is_cut {
            p .note { "There is more than is counted here: a page reads " (grouped(i64::try_from(MAX_PREVIEWED).unwrap_or(i64::MAX))) " reports, for 15 seconds at most. All of them would be sent." }
        }
        div .scroll tabindex="0" role="region" aria-label="What would be sent" {
            table {
                caption { "What would be sent to Stripe, by meter" }
                thead {
                    tr {
                        th scope="col" { "Meter" }
                        th scope="col" .number { "Reports" }
                        th scope="col" .number { "Of these, closed first" }
                        th scope="col" .number { "Quantity" }
                    }
                }
                tbody {
                    @for (meter, of) in &found.by_meter {
                        tr {
                            th scope="row" { (foreign(meter)) }
                            td .number { (grouped(of.reports)) }
                            td .number { (grouped(of.open)) }
                            td .number { (grouped(of.quantity)) }
                        }
                    }
                }
            }
        }
        @if found.by_meter.is_empty() { p { "There is nothing to send." } }
        @if let Some(summary) = &found.summary {
            dl {
                dt { "Closed in all" } dd { (count(summary.closed)) }
                dt { "Never billed" } dd { (count(summary.not_billable)) }
                dt { "Without a Stripe customer" } dd { (count(summary.no_customer)) }
            }
        }
    }
}

/// A number of reports, and their total.
pub(super) fn count(count: Option<ReportCount>) -> Markup {
    let count = count.unwrap_or_default();
    html! { (grouped(count.reports)) " reports, " (grouped(count.quantity)) " units" }
}
