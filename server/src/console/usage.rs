//! `/usage`: the usage of all accounts: units by meter over time, how far they have come, and the accounts with the most.

use chrono_tz::Tz;
use maud::{Markup, html};
use prost_types::Timestamp;
use serde_json::json;
use usage_proto::v1::{
    AccountUsage, GetSummaryRequest, GetSummaryResponse, ListUsageRequest, ListUsageResponse,
    MeterSummary, Period, SummaryPoint, UsageOrder,
};

use super::{
    account::{step, steps_of, zone},
    calls::Failure,
    chart::MAX_POINTS,
    html::{
        ROWS, account_link, choice, field, foreign, grouped, json_url, more_named, or_reason,
        period_label, rfc3339, time, url,
    },
    layout::Page,
    query::Query,
    recent_usage::{self, RecentUsage},
    state_sums,
    visitor::Visitor,
};
use crate::domain::http_paths::HttpPath;

/// The accounts with the most usage that are shown of each meter.
pub(super) const TOP: i32 = 10;
/// The time that is shown unless the address names another, in whole days before the current one.
const DEFAULT_DAYS: i64 = 29;

/// What an address may choose. Without any, the page shows what is kept for the first page.
const CHOICES: [&str; 7] = ["meter", "prefix", "by", "start", "end", "tz", "page"];

pub(super) async fn page(visitor: &Visitor, recent: &RecentUsage) -> Result<Page, Failure> {
    let (query, calls) = (&visitor.query, &visitor.calls);
    if CHOICES.iter().all(|name| query.get(name).is_empty()) {
        return Ok(kept(visitor, recent).await);
    }
    let request = request(visitor)?;
    let is_first = query.get("page").is_empty();
    let accounts = accounts_request(query, &request);
    let summary = async {
        if is_first {
            calls.get_summary(request.clone()).await.map(Some)
        } else {
            Ok(None)
        }
    };
    let accounts_page = async {
        match &accounts {
            Some(accounts) => calls.list_usage(accounts.clone()).await.map(Some),
            None => Ok(None),
        }
    };
    let (summary, accounts_page) = tokio::join!(summary, accounts_page);
    // Of a wrong address, the page says so and no more.
    let summary = match summary {
        Err(failure) if failure.status == http::StatusCode::BAD_REQUEST => {
            return Err(failure);
        }
        other => other,
    };
    let content = html! {
        h1 { "Usage of all accounts" }
        (filters(query))
        (or_reason(&summary, |summary| html! {
            @if let Some(summary) = summary { (shown(summary, query)) }
        }))
        (or_reason(&accounts_page, |page| html! {
            @if let (Some(page), Some(request)) = (page, &accounts) { (all_accounts(page, request, query)) }
        }))
        p .more { a href=(json_of(&request)) { "The sums as JSON" } }
    };
    Ok(Page::new("Usage of all accounts", content))
}

/// The usage of the last days as it was last read.
async fn kept(visitor: &Visitor, recent: &RecentUsage) -> Page {
    let found = recent.read(visitor).await;
    let content = html! {
        h1 { "Usage of all accounts" }
        (filters(&visitor.query))
        (or_reason(&found, |found| html! {
            @match found {
                Some(found) => {
                    p { "Read " (found.age.as_secs()) " s ago. Choose steps, a time or a meter to read it anew, which takes seconds with many accounts." }
                    (shown(&found.answer, &visitor.query))
                }
                None => p .note { "The usage of all accounts is being read. Load this page again in a moment." },
            }
        }))
        p .more { a href=(json_of(&recent_usage::request(visitor.now))) { "Read it now, as JSON" } }
    };
    Page::new("Usage of all accounts", content)
}

fn request(visitor: &Visitor) -> Result<GetSummaryRequest, Failure> {
    let query = &visitor.query;
    let (zone, (granularity, _)) = (zone(query)?, step(query)?);
    let period = match (query.time("start", zone)?, query.time("end", zone)?) {
        (None, None) => default_period(visitor.now, zone),
        (Some(start), Some(end)) => Period {
            start: Some(start),
            end: Some(end),
        },
        _ => return Err(Failure::invalid("give both a start and an end, or neither")),
    };
    Ok(GetSummaryRequest {
        meter: query.text("meter"),
        period: Some(period),
        granularity: granularity.into(),
        time_zone: query.text("tz"),
        round_outward: true,
        account_prefix: query.text("prefix"),
        top_accounts: TOP,
    })
}

/// The current day in the zone, and those before it.
fn default_period(now: i64, zone: Tz) -> Period {
    let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let now_secs = now.div_euclid(1_000);
    let first = super::query::day_of(now_secs, zone, DEFAULT_DAYS).unwrap_or(now_secs);
    Period {
        start: at(first),
        end: at(now_secs.saturating_add(1)),
    }
}

/// All accounts of one meter, if the address names one.
fn accounts_request(query: &Query, summary: &GetSummaryRequest) -> Option<ListUsageRequest> {
    (!summary.meter.is_empty()).then(|| ListUsageRequest {
        meter: summary.meter.clone(),
        period: summary.period,
        order: UsageOrder::Quantity.into(),
        account_prefix: summary.account_prefix.clone(),
        round_outward: true,
        page_size: ROWS,
        page_token: query.text("page"),
    })
}

fn period_json(period: Option<Period>) -> serde_json::Value {
    let period = period.unwrap_or_default();
    json!({ "start": period.start.map(rfc3339), "end": period.end.map(rfc3339) })
}

pub(super) fn json_of(request: &GetSummaryRequest) -> String {
    let json = json!({
        "meter": request.meter,
        "period": period_json(request.period),
        "granularity": request.granularity().as_str_name(),
        "timeZone": request.time_zone,
        "roundOutward": request.round_outward,
        "accountPrefix": request.account_prefix,
        "topAccounts": request.top_accounts,
    });
    json_url("UsageService/GetSummary", &json)
}

fn filters(query: &Query) -> Markup {
    html! {
        form .filters method="get" action=(HttpPath::ConsoleUsage.name()) role="search" {
            (field(query, "meter", "Meter", "all"))
            (field(query, "prefix", "Beginning of the accounts", "all"))
            (choice(query, "by", "Steps", &steps_of()))
            (field(query, "start", "From", "2026-03-01"))
            (field(query, "end", "Before", "2026-04-01"))
            (field(query, "tz", "Time zone", "Europe/Vienna"))
            button type="submit" { "Show" }
        }
    }
}

fn shown(summary: &GetSummaryResponse, query: &Query) -> Markup {
    let (Ok(zone), Ok((_, format))) = (zone(query), step(query)) else {
        return html! {};
    };
    let period = summary.period.unwrap_or_default();
    let label = |point: &SummaryPoint| period_label(point.period, zone, format);
    let mut room = MAX_POINTS;
    let of_meter = |meter: &MeterSummary| {
        let parameters = query.with(&[("meter", &meter.meter), ("page", "")]);
        Some(format!("{}?{parameters}", HttpPath::ConsoleUsage.name()))
    };
    html! {
        p { "From " (time(period.start)) " to " (time(period.end)) " UTC, in steps of the time zone " bdi { (summary.time_zone) } ", as of " (time(summary.as_of)) "." }
        (state_sums::table(&summary.meters, of_meter))
        (state_sums::legend())
        @for meter in &summary.meters {
            h2 { (foreign(&meter.meter)) }
            @if meter.accounts == 0 {
                p { "No usage in this time." }
            } @else {
                @if takes(&mut room, meter.points.len()) {
                    (state_sums::chart_of(meter, label))
                } @else {
                    p .note { (meter.points.len()) " steps are too many for the charts of this page: choose longer ones, a shorter time or one meter." }
                }
                @if query.get("meter").is_empty() {
                    h3 { "Accounts with the most" }
                    (accounts(&meter.top_accounts, &meter.meter, summary.period))
                    p .more { a href=(of_meter(meter).unwrap_or_default()) { "All accounts" } }
                }
            }
        }
    }
}

/// Whether a page has room for the steps of another chart.
fn takes(room: &mut usize, steps: usize) -> bool {
    let left = room.checked_sub(steps);
    *room = left.unwrap_or(*room);
    left.is_some()
}

fn all_accounts(page: &ListUsageResponse, request: &ListUsageRequest, query: &Query) -> Markup {
    let json = json!({
        "meter": request.meter,
        "period": period_json(request.period),
        "accountPrefix": request.account_prefix,
        "roundOutward": request.round_outward,
        "pageSize": request.page_size,
        "pageToken": request.page_token,
    });
    let json = json_url("UsageService/ListUsage", &json);
    html! {
        h2 { "Accounts with usage of " (foreign(&request.meter)) }
        @if page.usage.is_empty() { p { "There is none." } } @else {
            (accounts(&page.usage, &request.meter, page.period))
        }
        (more_named(HttpPath::ConsoleUsage, query, &page.next_page_token, &[(&json, "The accounts as JSON")]))
    }
}

/// Accounts, each with a link to its usage of the same time.
fn accounts(usage: &[AccountUsage], meter: &str, period: Option<Period>) -> Markup {
    let period = period.unwrap_or_default();
    let edge = |at: Option<Timestamp>| at.map(rfc3339).unwrap_or_default();
    let (start, end) = (edge(period.start), edge(period.end));
    html! {
        div .scroll tabindex="0" role="region" aria-label={ "Accounts with usage of " (meter) } {
            table {
                caption { "The largest quantity first" }
                thead {
                    tr {
                        th scope="col" { "Account" }
                        th scope="col" .number { "Quantity" }
                        th scope="col" { "Usage over time" }
                    }
                }
                tbody {
                    @for one in usage {
                        @let pairs = [("id", one.account_id.as_str()), ("meter", meter), ("start", &start), ("end", &end)];
                        tr {
                            th scope="row" { (account_link(&one.account_id)) }
                            td .number { (grouped(one.quantity)) }
                            td { a href={ (url(HttpPath::ConsoleAccount, &pairs)) "#usage" } { "Show" } }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_charts_of_a_page_have_as_many_steps_as_one_may_have() {
        let mut room = MAX_POINTS;
        let steps = [600, 600, 400, 1, 0];
        let fits = steps.map(|steps| takes(&mut room, steps));
        assert_eq!(fits, [true, false, true, false, true]);
    }
}
