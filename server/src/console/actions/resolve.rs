//! `/resolve`: an admin decides on a report.

use axum::http::StatusCode;
use maud::{Markup, html};
use usage_proto::v1::{ResolveAction, ResolveReportRequest, ResolveReportResponse, UsageReport};

use super::{
    Outcome,
    fields::{Form, Way, check_button, confirm, nothing_yet, problem, reason, ways},
    not_known,
};
use crate::{
    console::{
        calls::Failure,
        html::{account_link, foreign, grouped, rfc3339, state, time, url},
        layout::Page,
        report,
        reports::report_url,
    },
    domain::{decision::Action, http_paths::HttpPath, report::State, violation::quoted},
};

const WAYS: [(Action, ResolveAction, Way); 3] = [
    (
        Action::Retry,
        ResolveAction::Retry,
        Way {
            value: "retry",
            label: "Send it again",
            meaning: "Under a new identifier, with a time inside its window, so it is billed in the period of its usage. If the invoice of that period is final, or the usage is older than the 35 days that Stripe accepts, it becomes too late again.",
        },
    ),
    (
        Action::BillInCurrentPeriod,
        ResolveAction::BillInCurrentPeriod,
        Way {
            value: "bill_in_current_period",
            label: "Bill it in the current period",
            meaning: "Under a new identifier, with the current time, so it is on the next invoice. Refused if no subscription of the customer charges for the meter now.",
        },
    ),
    (
        Action::WriteOff,
        ResolveAction::WriteOff,
        Way {
            value: "write_off",
            label: "Write it off",
            meaning: "It is counted and shown, and never billed. This cannot be taken back.",
        },
    ),
];

fn domain_state(report: &UsageReport) -> Option<State> {
    let name = report.state().as_str_name();
    State::ALL.into_iter().find(|state| {
        crate::console::html::state_named(state.name()).is_some_and(|own| own.as_str_name() == name)
    })
}

/// The ways that the state of a report leaves open.
pub(super) fn open_ways(report: &UsageReport) -> Vec<&'static Way> {
    let state = domain_state(report);
    let open = WAYS.iter().filter(|(action, ..)| {
        state.is_some_and(|state| state.after(&action.transition()).is_some())
    });
    open.map(|(.., way)| way).collect()
}

/// Where forms about a report are sent: its address says which one it is, also after signing in again.
fn address(report: &UsageReport) -> String {
    let window = report.window.and_then(|window| window.start);
    let window = window.map(rfc3339).unwrap_or_default();
    let pairs = [
        ("account", report.account_id.as_str()),
        ("id", report.id.as_str()),
        ("window", window.as_str()),
    ];
    url(HttpPath::ConsoleResolve, &pairs)
}

/// The form, with what was typed.
pub(super) fn inputs(form: &Form<'_>, report: &UsageReport, error: Option<&Failure>) -> Markup {
    let open = open_ways(report);
    html! {
        (problem(error))
        @if open.is_empty() {
            p .note { "The state of this report needs no decision." }
        } @else {
            form #resolve-form .stacked method="post" action=(address(report)) {
                (form.token())
                (ways("action", "What becomes of it", &open, form.fields.get("action")))
                (reason(form, error, "the report"))
                (check_button())
            }
        }
    }
}

pub(super) async fn form(form: &Form<'_>, error: Option<&Failure>) -> Result<Page, Failure> {
    let report = report::find(form.visitor).await?;
    let content = html! {
        h1 { "Resolve report " span .id { (report.id) } }
        (about(&report))
        (inputs(form, &report, error))
    };
    Ok(Page::new("Resolve a report", content))
}

fn about(report: &UsageReport) -> Markup {
    html! {
        dl {
            dt { "Account" } dd { (account_link(&report.account_id)) }
            dt { "Meter" } dd { (foreign(&report.meter)) }
            dt { "Quantity" } dd { (grouped(report.quantity)) }
            dt { "State" } dd { (state(report.state)) }
            @if !report.last_error.is_empty() { dt { "Last error" } dd .bad { (foreign(&report.last_error)) } }
        }
        p .more { a href=(report_url(report)) { "All of this report" } }
    }
}

pub(super) async fn post(form: &Form<'_>) -> Result<Outcome, Failure> {
    if form.is("edit") {
        let page = self::form(form, None).await?;
        return Ok(Outcome::Page(StatusCode::OK, page));
    }
    match sent(form).await {
        Ok(outcome) => Ok(outcome),
        Err(failure) if failure.is_denied() => Err(failure),
        Err(failure) => {
            let again = form.visitor.query.with(&[]);
            let again = format!("{}?{again}", HttpPath::ConsoleResolve.name());
            if let Some(page) = not_known(form, &failure, &again) {
                return Ok(page);
            }
            let page = self::form(form, Some(&failure)).await?;
            Ok(Outcome::Page(failure.status, page))
        }
    }
}

async fn sent(form: &Form<'_>) -> Result<Outcome, Failure> {
    let wanted = form.fields.get("action");
    let way = WAYS.iter().find(|(.., way)| way.value == wanted);
    let (_, action, way) = way.ok_or_else(|| {
        let names = WAYS.map(|(.., way)| way.value).join(", ");
        Failure::invalid(format!(
            "action is {}; it must be one of {names}",
            quoted(wanted)
        ))
    })?;
    let is_dry_run = !form.is("do");
    // What would happen is about the report as it is now.
    let etag = if is_dry_run {
        String::new()
    } else {
        form.fields.text("etag")
    };
    if etag.is_empty() && !is_dry_run {
        let message = "etag is missing; look at what would happen first";
        return Err(Failure::invalid(message));
    }
    let request = ResolveReportRequest {
        account_id: form.visitor.query.text("account"),
        report_id: form.visitor.query.text("id"),
        action: (*action).into(),
        reason: form.lines("reason"),
        requested_by: String::new(),
        dry_run: is_dry_run,
        etag,
    };
    let reason = request.reason.clone();
    let found = form.visitor.calls.resolve_report(request).await?;
    let after = found.report.clone().unwrap_or_default();
    if !is_dry_run {
        let done = format!("{}&done=resolved#decisions", report_url(&after));
        return Ok(Outcome::Done(done));
    }
    let before = report::find(form.visitor).await?;
    let kept = [
        ("action", way.value),
        ("reason", reason.as_str()),
        ("etag", found.etag.as_str()),
    ];
    let content = html! {
        h1 { "Resolve report " span .id { (before.id) } ": " (way.label) }
        (nothing_yet())
        p { (way.meaning) }
        (compared(&before, &after, &found))
        dl { dt { "Reason" } dd .lines { (foreign(&reason)) } }
        (confirm(form, &address(&before), &kept, way.label))
    };
    let page = Page::new("Resolve a report: confirm", content);
    Ok(Outcome::Page(StatusCode::OK, page))
}

/// What the decision changes.
fn compared(before: &UsageReport, after: &UsageReport, found: &ResolveReportResponse) -> Markup {
    let rows: [(&str, Markup, Markup); 6] = [
        ("State", state(before.state), state(after.state)),
        (
            "Quantity",
            html! { (grouped(before.quantity)) },
            html! { (grouped(after.quantity)) },
        ),
        (
            "Stripe customer",
            foreign(&before.stripe_customer),
            foreign(&after.stripe_customer),
        ),
        (
            "Identifier",
            foreign(&before.identifier),
            foreign(&after.identifier),
        ),
        ("Billed at", time(before.bill_at), time(after.bill_at)),
        (
            "Attempts",
            html! { (before.attempts) },
            html! { (after.attempts) },
        ),
    ];
    html! {
        @if found.duplicate {
            p .note { "The same was decided before, and is in force: nothing would change." }
        }
        div .scroll tabindex="0" role="region" aria-label="Before and after" {
            table {
                caption { (foreign(&before.account_id)) ", " (foreign(&before.meter)) ": the report before and after" }
                thead { tr { th scope="col" { "" } th scope="col" { "Before" } th scope="col" { "After" } } }
                tbody {
                    @for (name, before, after) in rows {
                        tr { th scope="row" { (name) } td { (before) } td { (after) } }
                    }
                }
            }
        }
    }
}
