//! `/sign-off`: whether a month is closed, its totals, and its files for finance.

use chrono::{DateTime, Datelike as _, Months, NaiveDate};
use maud::{Markup, html};
use serde_json::json;
use usage_proto::v1::{GetSignOffResponse, SignOffFile, SignOffTotals};

use super::{
    calls::Failure,
    diagnosis,
    html::{field, foreign, grouped, json_url, more_named, time, url},
    layout::Page,
    sign_off_months::{self, SignOffMonths},
    visitor::Visitor,
    zone::NAMED,
};
use crate::domain::http_paths::HttpPath;

const PATH: HttpPath = HttpPath::ConsoleSignOff;
/// Months that the page links to, with the current one.
const RECENT_MONTHS: u32 = 4;
/// When a page loads itself again whose month is not read yet, or is old.
const REFRESH_SECS: u32 = 5;
/// Asks to read again what is kept.
const ANEW: &str = "anew";
/// The link to what is not kept.
const READ_NOW: &str = "Read it now, as JSON";

/// A figure of the totals: its name, what it is, and where it is in them.
type Figure = (&'static str, &'static str, fn(&SignOffTotals) -> i64);

const FIGURES: [Figure; 16] = [
    ("reports", "usage reports", |of| of.reports),
    ("counted", "what increments counted", |of| of.counted),
    (
        "already sent",
        "what Stripe was found to have after a restore",
        |of| of.already_sent,
    ),
    ("corrected", "corrections, each with its sign", |of| {
        of.corrected
    }),
    (
        "not billable",
        "free, in a trial, or billed by another integration",
        |of| of.not_billable,
    ),
    ("written off", "what admins decided not to bill", |of| {
        of.written_off
    }),
    ("reported", "what Stripe accepted", |of| of.reported),
    (
        "confirmed",
        "the part of it that Stripe’s totals contain",
        |of| of.confirmed,
    ),
    (
        "invoiced",
        "the part of that which final invoices charge",
        |of| of.invoiced,
    ),
    (
        "acknowledged",
        "differences with invoices that an admin acknowledged",
        |of| of.acknowledged,
    ),
    ("difference", "what is not accounted for", |of| {
        of.difference
    }),
    ("open", "still counted", |of| of.open),
    ("to send", "closed and not accepted by Stripe yet", |of| {
        of.to_send
    }),
    ("no customer", "waits for a link", |of| of.no_customer),
    ("needs decision", "waits for a decision of an admin", |of| {
        of.needs_decision
    }),
    ("decisions", "decisions of admins on these reports", |of| {
        of.decisions
    }),
];

pub(super) async fn page(visitor: &Visitor, months: &SignOffMonths) -> Result<Page, Failure> {
    let query = &visitor.query;
    let month = query.get("month");
    let again = url(PATH, &[("month", month), (NAMED, visitor.zone.named())]);
    let found = if month.is_empty() {
        None
    } else {
        let is_anew = query.get(ANEW) == "yes" && visitor.is_own_request;
        Some(months.read(visitor, month, is_anew).await?)
    };
    let content = html! {
        h1 { "Sign-off of a month" }
        form .filters method="get" action=(PATH.name()) role="search" {
            (field(query, "month", "Month", "2026-10"))
            button type="submit" { "Show" }
        }
        @match &found {
            None => {
                p { "What was counted in a calendar month of UTC and what became of it, for finance. Choose a month:" }
                ul {
                    @for month in recent_months(visitor) {
                        li { a href=(url(PATH, &[("month", month.as_str())])) { (month) } }
                    }
                }
            },
            Some(None) => {
                (diagnosis::being_checked("All usage of the month is being read.", &again))
                (more_named(PATH, query, "", &[(json_of(month).as_str(), READ_NOW)]))
            },
            Some(Some(found)) => {
                (shown(&found.answer))
                (sign_off_months::age(found, visitor.now))
                (links(visitor, &found.answer))
            },
        }
    };
    let page = Page::new("Sign-off", content);
    let is_waiting = found.is_some_and(|found| found.is_none_or(|found| found.is_old));
    Ok(if is_waiting {
        page.refreshed(REFRESH_SECS, &again)
    } else {
        page
    })
}

/// The call that answers a month.
fn json_of(month: &str) -> String {
    json_url("OperationsService/GetSignOff", &json!({ "month": month }))
}

/// The current month and those before it.
fn recent_months(visitor: &Visitor) -> Vec<String> {
    let now = DateTime::from_timestamp_millis(visitor.now);
    let first = now.and_then(|now| now.date_naive().with_day(1));
    let month = |back| -> Option<NaiveDate> { first?.checked_sub_months(Months::new(back)) };
    let months = (0..RECENT_MONTHS).filter_map(month);
    months
        .map(|first| first.format("%Y-%m").to_string())
        .collect()
}

fn shown(found: &GetSignOffResponse) -> Markup {
    let period = found.period.unwrap_or_default();
    let sha256 =
        |file: Option<&SignOffFile>| file.map_or_else(String::new, |file| file.sha256.clone());
    html! {
        h2 { "Month " (found.month) }
        p { "From " (time(period.start)) " to " (time(period.end)) ", which is not part of it." }
        @if found.closed {
            p { span .ok { "closed" } ": all usage of the month is final. It gives the same files whenever it is exported." }
            dl {
                dt { "SHA-256 as CSV" }
                dd { code { (sha256(found.csv.as_ref())) } }
                dt { "SHA-256 as JSON lines" }
                dd { code { (sha256(found.json_lines.as_ref())) } }
            }
        } @else {
            p { span .warn { "not closed" } ":" }
            ul { @for reason in &found.reasons { li { bdi { (reason) } } } }
            p .faint { "Files of a month that is not closed change. " code { "sha256sum FILE" } " prints the SHA-256 of one that was downloaded." }
        }
        (table(found))
    }
}

fn table(found: &GetSignOffResponse) -> Markup {
    let caption = "Totals of the month";
    let columns: Vec<&SignOffTotals> = found.meters.iter().chain(&found.total).collect();
    html! {
        div .scroll tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { (caption) }
                thead {
                    tr {
                        th scope="col" { "Figure" }
                        @for meter in &found.meters { th scope="col" .number { (foreign(&meter.meter)) } }
                        @if found.total.is_some() { th scope="col" .number { "all meters" } }
                        th scope="col" { "What it is" }
                    }
                }
                tbody {
                    @for (name, meaning, figure) in FIGURES {
                        tr {
                            th scope="row" { (name) }
                            @for column in &columns { td .number { (grouped(figure(column))) } }
                            td { (meaning) }
                        }
                    }
                }
            }
        }
    }
}

fn links(visitor: &Visitor, found: &GetSignOffResponse) -> Markup {
    let open = if found.closed { "" } else { "yes" };
    let file = |form| {
        url(
            PATH,
            &[
                ("month", found.month.as_str()),
                ("as", form),
                ("open", open),
            ],
        )
    };
    let names = if found.closed {
        ["Download as CSV", "Download as JSON lines"]
    } else {
        [
            "Download as it is, as CSV",
            "Download as it is, as JSON lines",
        ]
    };
    let [csv, jsonl] = names;
    let zone = visitor.zone.named();
    let anew = [
        ("month", found.month.as_str()),
        (ANEW, "yes"),
        (NAMED, zone),
    ];
    let links = [
        (url(PATH, &anew), "Read it anew"),
        (file("csv"), csv),
        (file("jsonl"), jsonl),
        (json_of(&found.month), READ_NOW),
    ];
    let links = links
        .each_ref()
        .map(|(address, name)| (address.as_str(), *name));
    html! {
        p { "The files have a row for each account, Stripe customer and meter, then these totals." }
        (more_named(PATH, &visitor.query, "", &links))
    }
}
