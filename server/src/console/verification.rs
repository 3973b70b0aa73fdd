//! `/verification`: differences that were found between what was counted, Stripe's totals and invoices; usage that no invoice
//! charges; and, on demand, the comparison of accounts with Stripe.

use chrono_tz::Tz;
use maud::{Markup, html};
use serde_json::json;
use usage_proto::v1::{
    InvoiceFinding, ListReportsRequest, Period, ReconcileRequest, ReconciledUsage, UsageReport,
    UsageReportState as State,
};

use super::{
    account_parts::comparison,
    calls::Failure,
    diagnosis::{self, Diagnosis},
    doctor_lines,
    html::{
        ROWS, account_link, choice, field, foreign, grouped, json_url, more_named, needs_decision,
        or_reason, rfc3339, state, state_named, time, words,
    },
    layout::Page,
    query::Query,
    reports,
    visitor::Visitor,
};
use crate::domain::{http_paths::HttpPath, violation::quoted};

/// The checks of `doctor` that compare.
const CHECKS: [&str; 8] = [
    "reports",
    "ledger check",
    "invoices",
    "kept drafts",
    "price splits",
    "charged twice",
    "unassigned usage",
    "comparisons",
];
/// The accounts of one page that are compared with Stripe.
const COMPARED: i32 = 10;

pub(super) async fn page(visitor: &Visitor, diagnosis: &Diagnosis) -> Result<Page, Failure> {
    let query = &visitor.query;
    let waiting = waiting(query)?;
    let compare = compare_request(query)?;
    let is_compared = !query.get("compare").is_empty() && visitor.is_own_request;
    let compared = async {
        if is_compared {
            Some(visitor.calls.reconcile(compare.clone()).await)
        } else {
            None
        }
    };
    let (found, reports, compared) = tokio::join!(
        diagnosis.read(visitor),
        visitor.calls.list_reports(waiting.clone()),
        compared
    );
    let content = html! {
        h1 { "Verification" }
        h2 { "What was found" }
        (or_reason(&found, |found| html! {
            @match found {
                Some(found) => {
                    p { (diagnosis::age(found)) }
                    (doctor_lines::list(found.answer.findings.iter().filter(|finding| CHECKS.contains(&finding.check.as_str()))))
                }
                None => (diagnosis::being_checked(diagnosis::CHECKED, &diagnosis::again(visitor, HttpPath::ConsoleVerification))),
            }
        }))
        p .more { a href=(doctor_lines::json()) { "Check now, as JSON" } }
        h2 #uncharged { "Usage that waits for a decision" }
        (filters(query))
        (or_reason(&reports, |page| html! {
            @if page.reports.is_empty() {
                p { "There is none" @if !page.next_page_token.is_empty() { " on this page" } "." }
            } @else {
                (undecided(&page.reports))
            }
            @let json = json_url("UsageService/ListReports", &reports::json_of(&waiting));
            // Another page of reports compares nothing.
            @let list = Query::parse(&query.with(&[("compare", "")]));
            (more_named(HttpPath::ConsoleVerification, &list, &page.next_page_token, &[(&json, "The reports as JSON")]))
        }))
        h2 #compared { "Comparison with Stripe and invoices" }
        (compare_form(query))
        @match &compared {
            None => p { "It asks Stripe for the totals of each account, which takes seconds." },
            Some(found) => (or_reason(found, |page| {
                differences(&page.rows, &page.next_page_token, &compare, query)
            })),
        }
        p .more { a href=(HttpPath::ConsoleShadow.name()) { "Comparison with another integration (shadow mode)" } }
    };
    Ok(Page::new("Verification", content))
}

fn waiting(query: &Query) -> Result<ListReportsRequest, Failure> {
    let name = query.get("state");
    let states = if name.is_empty() {
        needs_decision()
    } else {
        let state = state_named(name).filter(|state| needs_decision().contains(state));
        let unknown = || {
            let why = "it is no state that waits for a decision";
            Failure::invalid(format!("state is {}; {why}", quoted(name)))
        };
        vec![state.ok_or_else(unknown)?]
    };
    Ok(ListReportsRequest {
        account_id: query.text("account"),
        states: states.into_iter().map(Into::into).collect(),
        meter: query.text("meter"),
        page_size: ROWS,
        page_token: query.text("page"),
        ..ListReportsRequest::default()
    })
}

fn filters(query: &Query) -> Markup {
    let mut values = vec![("", "any".to_owned())];
    let states = crate::domain::report::State::NEEDS_DECISION;
    values.extend(states.map(|state| (state.name(), words(state.name(), ""))));
    html! {
        form .filters method="get" action={ (HttpPath::ConsoleVerification.name()) "#uncharged" } role="search" {
            (choice(query, "state", "State", &values))
            (field(query, "account", "Account", ""))
            (field(query, "meter", "Meter", ""))
            button type="submit" { "Show" }
        }
    }
}

/// Why reports of a state are where they are, and what to do.
fn why(state: State) -> (&'static str, &'static str) {
    match state {
        State::Missing => (
            "Stripe accepted it, and its totals lack it a day later",
            "read Stripe's meter error reports, then retry, bill in the current period or write it off",
        ),
        State::Rejected => ("Stripe refused it", "fix what Stripe says, then retry"),
        State::CustomerDeleted => (
            "the customer was deleted at Stripe",
            "link the account to another customer and retry, or write it off",
        ),
        State::Unknown => (
            "Stripe did not answer, and its totals do not show it",
            "compare with the customer's meter events in Stripe's dashboard before it is billed again",
        ),
        State::Uncharged => (
            "no item of a living subscription charges its meter at its time",
            "give the customer a subscription with a price on the meter, bill in the current period, or write it off",
        ),
        State::TooLate => (
            "it is too old for Stripe, or its invoice is final",
            "bill in the current period, or write it off",
        ),
        _ => ("", "see the report"),
    }
}

fn undecided(reports: &[UsageReport]) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Usage that waits for a decision" {
            table {
                caption { "Usage that is not charged, and why" }
                thead {
                    tr {
                        th scope="col" { "Window" }
                        th scope="col" { "Account" }
                        th scope="col" { "Meter" }
                        th scope="col" .number { "Quantity" }
                        th scope="col" { "State" }
                        th scope="col" { "Why" }
                        th scope="col" { "What to do" }
                    }
                }
                tbody {
                    @for report in reports {
                        @let (reason, advice) = why(report.state());
                        @let start = report.window.and_then(|window| window.start);
                        tr {
                            th scope="row" { a href=(reports::report_url(report)) { (time(start)) } }
                            td { (account_link(&report.account_id)) }
                            td { (foreign(&report.meter)) }
                            td .number { (grouped(report.quantity)) }
                            td { (state(report.state)) }
                            td { (reason) @if !report.last_error.is_empty() { ": " bdi { (report.last_error) } } }
                            td { a href=(reports::report_url(report)) { (advice) } }
                        }
                    }
                }
            }
        }
    }
}

fn compare_request(query: &Query) -> Result<ReconcileRequest, Failure> {
    let (start, end) = (query.time("start", Tz::UTC)?, query.time("end", Tz::UTC)?);
    let period = match (start, end) {
        (None, None) => None,
        (Some(_), Some(_)) => Some(Period { start, end }),
        _ => return Err(Failure::invalid("give both a start and an end, or neither")),
    };
    Ok(ReconcileRequest {
        account_id: query.text("of"),
        period,
        page_size: COMPARED,
        page_token: query.text("from"),
    })
}

fn compare_form(query: &Query) -> Markup {
    let rows = [
        ("", "those that differ".to_owned()),
        ("all", "all".to_owned()),
    ];
    html! {
        form .filters method="get" action={ (HttpPath::ConsoleVerification.name()) "#compared" } {
            input type="hidden" name="compare" value="yes";
            (field(query, "of", "Only the account", "all"))
            (field(query, "start", "Periods that end after", "2026-03-01"))
            (field(query, "end", "Periods that begin before", "2026-04-01"))
            (choice(query, "rows", "Rows", &rows))
            button type="submit" { "Compare" }
        }
    }
}

/// Whether the figures of a row differ, or are not known to be the same.
fn differs(row: &ReconciledUsage) -> bool {
    let is_same = row.counted == row.reported && row.stripe_total == Some(row.reported);
    let is_equal = |finding| finding == InvoiceFinding::Equal;
    let are_equal = row.invoices.iter().all(|one| is_equal(one.finding()));
    !(is_same && are_equal && row.waiting.is_empty())
}

fn differences(
    rows: &[ReconciledUsage],
    next: &str,
    request: &ReconcileRequest,
    query: &Query,
) -> Markup {
    let shows_all = query.get("rows") == "all";
    let shown = rows.iter().filter(|row| shows_all || differs(row));
    let shown: Vec<ReconciledUsage> = shown.cloned().collect();
    let same = rows.len().saturating_sub(shown.len());
    let path = HttpPath::ConsoleVerification.name();
    let page = |token: &str| format!("{path}?{}#compared", query.with(&[("from", token)]));
    let json = json!({
        "accountId": request.account_id,
        "period": request.period.map(|period| json!({
            "start": period.start.map(rfc3339),
            "end": period.end.map(rfc3339),
        })),
        "pageSize": request.page_size,
        "pageToken": request.page_token,
    });
    html! {
        @for row in &shown {
            p { "Account " (account_link(&row.account_id)) }
            (comparison(std::slice::from_ref(row)))
        }
        p role="status" {
            (shown.len()) " rows of these " (COMPARED) " accounts at most are shown"
            @if same > 0 { "; of " (same) " others every figure is the same" } "."
        }
        p .more {
            @if !request.page_token.is_empty() { a href=(page("")) { "First accounts" } }
            @if !next.is_empty() { a href=(page(next)) { "Next accounts" } }
            a href=(json_url("UsageService/Reconcile", &json)) { "The comparison as JSON" }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_decision_has_a_reason_and_an_advice() {
        for state in needs_decision() {
            let (reason, _) = why(state);
            assert!(!reason.is_empty(), "{state:?}");
        }
    }

    #[test]
    fn a_row_differs_unless_all_of_its_figures_are_the_same() {
        let same = ReconciledUsage {
            counted: 5,
            reported: 5,
            stripe_total: Some(5),
            ..ReconciledUsage::default()
        };
        assert!(!differs(&same));
        for other in [
            ReconciledUsage {
                counted: 6,
                ..same.clone()
            },
            ReconciledUsage {
                stripe_total: None,
                ..same.clone()
            },
            ReconciledUsage {
                stripe_total: Some(4),
                ..same.clone()
            },
            ReconciledUsage {
                invoices: vec![usage_proto::v1::InvoiceComparison::default()],
                ..same.clone()
            },
            ReconciledUsage {
                waiting: vec![usage_proto::v1::WaitingComparison::default()],
                ..same.clone()
            },
        ] {
            assert!(differs(&other), "{other:?}");
        }
    }
}
