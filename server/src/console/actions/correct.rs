//! `/correct`: an admin corrects usage.

use axum::http::StatusCode;
use chrono_tz::Tz;
use maud::{Markup, html};
use prost_types::Timestamp;
use usage_proto::v1::{
    CorrectRequest, CorrectResponse, CorrectedTotal, ListMetersRequest, ListMetersResponse,
};
use uuid::Uuid;

use super::{
    Outcome,
    fields::{Form, check_button, confirm, line, nothing_yet, problem, reason},
    not_known,
};
use crate::{
    console::{
        calls::Failure,
        html::{account_link, choice, foreign, grouped, state, time, url},
        layout::Page,
        reports::report_url,
    },
    domain::{http_paths::HttpPath, increment::MAX_QUANTITY, period::rfc3339, violation::quoted},
};

/// What an account id may be.
const ACCOUNT: &str = "1 to 128 characters out of A-Z a-z 0-9 . _ : @ / + = -";

pub(super) async fn form(form: &Form<'_>, error: Option<&Failure>) -> Result<Page, Failure> {
    let account = form.visitor.query.text("account");
    // Without the list, its name is typed.
    let request = ListMetersRequest::default();
    let meters = form.visitor.calls.list_meters(request).await.ok();
    let content = html! {
        h1 { "Correct usage" @if !account.is_empty() { " of " bdi .id { (account) } } }
        p { "A correction is a report of its own: counted usage stays as it was. It is sent to Stripe like any other report." }
        (problem(error))
        form #correct-form .stacked method="post" action=(address(&account)) {
            (form.token())
            @if account.is_empty() { (line(form, error, "account", "Account", ACCOUNT)) }
            (meter(form, meters.as_ref(), error))
            (line(form, error, "quantity", "Quantity", "Added to the usage, or taken from it if it is negative: -1,000,000,000,000 to 1,000,000,000,000, not 0."))
            (line(form, error, "timestamp", "Time", "What it applies to, and so its billing period: at most 34 days ago, such as 2026-03-10T12:00:00Z, or a day in UTC. Empty means now."))
            (reason(form, error, "the correction"))
            (check_button())
        }
    };
    Ok(Page::new("Correct usage", content))
}

fn address(account: &str) -> String {
    url(HttpPath::ConsoleCorrect, &[("account", account)])
}

fn meter(form: &Form<'_>, meters: Option<&ListMetersResponse>, error: Option<&Failure>) -> Markup {
    let Some(meters) = meters.filter(|found| !found.meters.is_empty()) else {
        return line(
            form,
            error,
            "meter",
            "Meter",
            "Empty means the default meter.",
        );
    };
    let mut meters: Vec<_> = meters.meters.iter().collect();
    meters.sort_by_key(|meter| !meter.is_default);
    let values = meters.into_iter().map(|meter| {
        let unit = if meter.unit.is_empty() {
            String::new()
        } else {
            format!(" ({})", meter.unit)
        };
        (meter.name.as_str(), format!("{}{unit}", meter.name))
    });
    choice(form.fields, "meter", "Meter", &values.collect::<Vec<_>>())
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
            let again = address(&form.visitor.query.text("account"));
            if let Some(page) = not_known(form, &failure, &again) {
                return Ok(page);
            }
            let page = self::form(form, Some(&failure)).await?;
            Ok(Outcome::Page(failure.status, page))
        }
    }
}

fn quantity(text: &str) -> Result<i64, Failure> {
    let digits = text.replace(',', "");
    digits.parse().map_err(|_| {
        Failure::invalid(format!(
            "quantity is {}; it must be a whole number from -{MAX_QUANTITY} to {MAX_QUANTITY}, and not 0",
            quoted(text)
        ))
    })
}

/// The time that the correction applies to. Without one, that of the dry run, which the confirmed form has: so what is
/// entered is what was shown.
fn applies_to(form: &Form<'_>, is_dry_run: bool) -> Result<Option<Timestamp>, Failure> {
    let stated = form.fields.time("timestamp", Tz::UTC)?;
    if stated.is_some() {
        return Ok(stated);
    }
    if !is_dry_run {
        return form.fields.time("now", Tz::UTC);
    }
    let now = form.visitor.now;
    let nanos = now.rem_euclid(1_000).saturating_mul(1_000_000);
    Ok(Some(Timestamp {
        seconds: now.div_euclid(1_000),
        nanos: i32::try_from(nanos).unwrap_or(0),
    }))
}

async fn sent(form: &Form<'_>) -> Result<Outcome, Failure> {
    let is_dry_run = !form.is("do");
    let account = form.named("account");
    if account.is_empty() {
        return Err(Failure::invalid(format!(
            "account is empty; it must have {ACCOUNT}"
        )));
    }
    let request = CorrectRequest {
        account_id: account.clone(),
        meter: form.fields.text("meter"),
        quantity: quantity(form.fields.get("quantity"))?,
        reason: form.lines("reason"),
        timestamp: applies_to(form, is_dry_run)?,
        requested_by: String::new(),
        idempotency_key: if is_dry_run {
            String::new()
        } else {
            form.fields.text("key")
        },
        dry_run: is_dry_run,
    };
    if !is_dry_run && request.idempotency_key.is_empty() {
        return Err(Failure::invalid(
            "key is missing; look at what would happen first",
        ));
    }
    let (quantity, reason) = (request.quantity, request.reason.clone());
    let found = form.visitor.calls.correct(request).await?;
    if !is_dry_run {
        let report = found.report.unwrap_or_default();
        let done = format!("{}&done=corrected", report_url(&report));
        return Ok(Outcome::Done(done));
    }
    let page = confirmation(form, &found, &account, quantity, &reason);
    Ok(Outcome::Page(StatusCode::OK, page))
}

fn confirmation(
    form: &Form<'_>,
    found: &CorrectResponse,
    account: &str,
    quantity: i64,
    reason: &str,
) -> Page {
    let report = found.report.clone().unwrap_or_default();
    let (number, key) = (quantity.to_string(), format!("console-{}", Uuid::now_v7()));
    let now = rfc3339(form.visitor.now);
    let kept = [
        ("account", account),
        ("meter", report.meter.as_str()),
        ("quantity", number.as_str()),
        ("timestamp", form.fields.get("timestamp")),
        // Apart from what was typed, which may be changed.
        ("now", now.as_str()),
        ("reason", reason),
        ("key", key.as_str()),
    ];
    let window = report.window.unwrap_or_default();
    let content = html! {
        h1 { "Correct usage of " bdi .id { (account) } ": " (grouped(quantity)) }
        (nothing_yet())
        dl {
            dt { "Account" } dd { (account_link(account)) }
            dt { "Meter" } dd { (foreign(&report.meter)) }
            dt { "Quantity" } dd { (grouped(quantity)) }
            dt { "Window" } dd { (time(window.start)) " to " (time(window.end)) }
            dt { "State" } dd { (state(report.state)) }
            dt { "Stripe customer" } dd { (foreign(&report.stripe_customer)) }
            dt { "Reason" } dd .lines { (foreign(reason)) }
        }
        (totals(&found.totals))
        (confirm(form, &address(account), &kept, "Enter the correction"))
    };
    Page::new("Correct usage: confirm", content)
}

/// What the correction changes.
fn totals(totals: &[CorrectedTotal]) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Before and after" {
            table {
                caption { "The total of the meter, as it will be billed" }
                thead {
                    tr {
                        th scope="col" { "From" }
                        th scope="col" { "To" }
                        th scope="col" .number { "Before" }
                        th scope="col" .number { "After" }
                    }
                }
                tbody {
                    @for total in totals {
                        @let period = total.period.unwrap_or_default();
                        tr {
                            th scope="row" { (time(period.start)) }
                            td { (time(period.end)) }
                            td .number { (grouped(total.before)) }
                            td .number { (grouped(total.after)) }
                        }
                    }
                }
            }
        }
    }
}
