//! `/usage`: the usage of all accounts: units by meter over time, how far they have come, and the accounts with the most.

use maud::{Markup, html};
use prost_types::Timestamp;
use serde_json::json;
use usage_proto::v1::{
    AccountUsage, GetSummaryRequest, GetSummaryResponse, ListUsageRequest, ListUsageResponse,
    MeterSummary, Period, SummaryPoint, UsageOrder,
};

use super::{
    account::{step, steps_of},
    asked_usage::{AskedUsage, Question},
    calls::Failure,
    chart::MAX_POINTS,
    diagnosis::{self, REFRESH_SECS},
    html::{
        ROWS, account_link_in, choice, field, foreign, grouped, json_url, more_named, or_reason,
        period_label, rfc3339, time, url,
    },
    layout::Page,
    query::Query,
    recent_usage::{self, RecentUsage},
    state_sums,
    visitor::Visitor,
    zone::{self, NAMED, Zone},
};
use crate::domain::http_paths::HttpPath;

/// The accounts with the most usage that are shown of each meter.
pub(super) const TOP: i32 = 10;
/// The days that are shown unless the address names another time, with the current one.
const DEFAULT_DAYS: u32 = 30;

/// What an address may choose. Without any, the page shows what is kept for the first page.
const CHOICES: [&str; 6] = ["meter", "prefix", "by", "start", "end", "page"];

pub(super) async fn page(
    visitor: &Visitor,
    recent: &RecentUsage,
    asked: &AskedUsage,
) -> Result<Page, Failure> {
    let query = &visitor.query;
    let zone = visitor.zone.zone()?;
    if CHOICES.iter().all(|name| query.get(name).is_empty()) {
        return Ok(kept(visitor, zone, recent).await);
    }
    let request = request(visitor, zone)?;
    let is_first = query.get("page").is_empty();
    let question = Question {
        summary: is_first.then(|| request.clone()),
        accounts: accounts_request(query, &request),
    };
    let chosen = CHOICES.iter().map(|name| query.text(name));
    let chosen = chosen.chain([zone.name().to_owned()]).collect();
    let found = asked.read(visitor, chosen, question.clone()).await;
    // Of a wrong address, the page says so and no more.
    let found = match found {
        Err(failure) if failure.status == http::StatusCode::BAD_REQUEST => {
            return Err(failure);
        }
        other => other,
    };
    let again = again(visitor);
    let content = html! {
        h1 { "Usage of all accounts" }
        (filters(visitor))
        (or_reason(&found, |found| html! {
            @match found {
                None => (diagnosis::being_checked("The usage is being read.", &again)),
                Some(found) => {
                    @if found.age.as_secs() > 1 { p .note { "Read " (found.age.as_secs()) " s ago. Load it again for what was counted since." } }
                    @if let Some(summary) = &found.answer.summary { (shown(summary, visitor, zone)) }
                    @if let (Some(page), Some(request)) = (&found.answer.accounts, &question.accounts) { (all_accounts(page, request, visitor)) }
                }
            }
        }))
        p .more { a href=(json_of(&request)) { "The sums as JSON" } }
    };
    let page = Page::new("Usage of all accounts", content);
    Ok(match found {
        Ok(None) => page.refreshed(REFRESH_SECS, &again),
        _ => page,
    })
}

/// The address of this page.
fn again(visitor: &Visitor) -> String {
    let pairs = visitor.query.with(&[]);
    format!("{}?{pairs}", HttpPath::ConsoleUsage.name())
}

/// The usage of the last days as it was last read.
async fn kept(visitor: &Visitor, zone: Zone, recent: &RecentUsage) -> Page {
    let found = recent.read(visitor).await;
    let content = html! {
        h1 { "Usage of all accounts" }
        (filters(visitor))
        (or_reason(&found, |found| html! {
            @match found {
                Some(found) => {
                    p { "Read " (found.age.as_secs()) " s ago. Choose steps, a time or a meter for more, which takes a while with many accounts." }
                    (shown(&found.answer, visitor, zone))
                }
                None => p .note { "The usage of all accounts is being read. Load this page again in a moment." },
            }
        }))
        p .more { a href=(json_of(&recent_usage::request(visitor.now, zone))) { "Read it now, as JSON" } }
    };
    Page::new("Usage of all accounts", content)
}

fn request(visitor: &Visitor, zone: Zone) -> Result<GetSummaryRequest, Failure> {
    let query = &visitor.query;
    let (granularity, _) = step(query)?;
    let period = match (zone.time(query, "start")?, zone.time(query, "end")?) {
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
        time_zone: zone.wire_name(),
        round_outward: true,
        account_prefix: query.text("prefix"),
        top_accounts: TOP,
    })
}

/// The current day in the zone to now, and those before it.
fn default_period(now: i64, zone: Zone) -> Period {
    let seconds = now.div_euclid(1_000).saturating_add(1);
    Period {
        end: Some(Timestamp { seconds, nanos: 0 }),
        ..zone.last_days(now, DEFAULT_DAYS)
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

fn filters(visitor: &Visitor) -> Markup {
    let query = &visitor.query;
    html! {
        form .filters method="get" action=(HttpPath::ConsoleUsage.name()) role="search" {
            (field(query, "meter", "Meter", "all"))
            (field(query, "prefix", "Beginning of the accounts", "all"))
            (choice(query, "by", "Steps", &steps_of()))
            (field(query, "start", "From", "2026-03-01"))
            (field(query, "end", "Before", "2026-04-01"))
            (zone::hidden(visitor))
            button type="submit" { "Show" }
        }
    }
}

fn shown(summary: &GetSummaryResponse, visitor: &Visitor, zone: Zone) -> Markup {
    let query = &visitor.query;
    let Ok((_, format)) = step(query) else {
        return html! {};
    };
    let period = summary.period.unwrap_or_default();
    let label = |point: &SummaryPoint| period_label(point.period, zone.tz(), format);
    let mut room = MAX_POINTS;
    let of_meter = |meter: &MeterSummary| {
        let parameters = query.with(&[("meter", &meter.meter), ("page", "")]);
        Some(format!("{}?{parameters}", HttpPath::ConsoleUsage.name()))
    };
    html! {
        p { "From " (time(period.start)) " to " (time(period.end)) " UTC, in steps of the time zone " bdi { (summary.time_zone) } ", as of " (time(summary.as_of)) "." }
        (zone.note(period))
        (state_sums::accounts(summary.accounts))
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
                    (accounts(&meter.top_accounts, &meter.meter, summary.period, visitor))
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

fn all_accounts(page: &ListUsageResponse, request: &ListUsageRequest, visitor: &Visitor) -> Markup {
    // The token holds for the period of this answer.
    let period = page.period.unwrap_or_default();
    let edge = |at: Option<Timestamp>| at.map(rfc3339).unwrap_or_default();
    let (start, end) = (edge(period.start), edge(period.end));
    let query = visitor.query.with(&[("start", &start), ("end", &end)]);
    let query = Query::parse(&query);
    let json = json!({
        "meter": request.meter,
        "period": period_json(page.period),
        "accountPrefix": request.account_prefix,
        "roundOutward": request.round_outward,
        "pageSize": request.page_size,
        "pageToken": request.page_token,
    });
    let json = json_url("UsageService/ListUsage", &json);
    html! {
        h2 { "Accounts with usage of " (foreign(&request.meter)) }
        @if page.usage.is_empty() { p { "There is none." } } @else {
            (accounts(&page.usage, &request.meter, page.period, visitor))
        }
        (more_named(HttpPath::ConsoleUsage, &query, &page.next_page_token, &[(&json, "The accounts as JSON")]))
    }
}

/// Accounts, each with a link to its usage of the same time.
fn accounts(
    usage: &[AccountUsage],
    meter: &str,
    period: Option<Period>,
    visitor: &Visitor,
) -> Markup {
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
                        @let pairs = [("id", one.account_id.as_str()), ("meter", meter), ("start", &start), ("end", &end), (NAMED, visitor.zone.named())];
                        tr {
                            th scope="row" { (account_link_in(&one.account_id, visitor.zone.named())) }
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
