//! `/account`: all of one account: its link, subscription and periods, usage with what happened meanwhile, reports and their way
//! to Stripe, corrections and decisions, for admins who did what, and, on demand, what Stripe and its invoices have of it.

use chrono_tz::Tz;
use maud::{Markup, html};
use prost_types::Timestamp;
use serde_json::json;
use usage_proto::v1::{
    GetAccountRequest, GetRequest, GetResponse, Granularity, MeterUsage, Period, Quantities,
    ReconcileRequest, ReconciledUsage, UsagePoint,
};

use super::{
    account_history::History,
    account_parts::{comparison, link, subscription},
    account_periods, actions,
    calls::Failure,
    chart::{self, MAX_POINTS},
    html::{choice, field, foreign, grouped, json_url, or_reason, rfc3339, time},
    layout::{self, Page},
    query::Query,
    time_line::TimeLine,
    visitor::Visitor,
    zone,
};
use crate::domain::{http_paths::HttpPath, violation::quoted};

/// The time whose billing periods are compared: the current one and those of the last three months.
const COMPARED_SECS: i64 = 100 * 24 * 3_600;
/// The steps that usage can be divided into: as the address has them, for people, and how a step is written.
const STEPS: [(&str, &str, Granularity, &str); 3] = [
    ("day", "by day", Granularity::Day, "%Y-%m-%d"),
    ("hour", "by hour", Granularity::Hour, "%Y-%m-%d %H:%M"),
    ("month", "by month", Granularity::Month, "%Y-%m"),
];

pub(super) async fn page(visitor: &Visitor) -> Result<Page, Failure> {
    let (query, calls) = (&visitor.query, &visitor.calls);
    let id = query.text("id");
    if id.is_empty() {
        return Err(Failure::invalid("the address has no id of an account"));
    }
    let account = GetAccountRequest {
        account_id: id.clone(),
        history: None,
    };
    let (account, usage) = tokio::join!(calls.get_account(account), usage(visitor, &id));
    let (account, denied) = match account {
        // It is counted without a link too.
        Err(failure) if failure.is_not_found() => (None, None),
        // A key may be limited to the meter whose usage is shown.
        Err(failure) if failure.is_denied() && usage.is_ok() => (None, Some(failure)),
        found => (found?.account, None),
    };
    let now = usage.as_ref().ok().and_then(|usage| usage.as_of);
    let compared = compared(visitor, &id, now).await;
    let shown = usage.as_ref().ok().and_then(|usage| usage.period);
    let (periods, history) = tokio::join!(
        account_periods::read(visitor, &id, account.as_ref()),
        History::read(visitor, &id, account.is_some(), shown),
    );
    let time_line = history.time_line(account.as_ref());
    let content = html! {
        h1 { "Account " bdi .id { (id) } }
        @match &denied {
            None => (link(account.as_ref())),
            Some(failure) => (layout::reason(failure)),
        }
        (actions::account_part(visitor, &id))
        @if let Some(synced) = account.as_ref().and_then(|account| account.subscription.as_ref()) {
            (subscription(synced, &id))
        }
        (account_periods::part(&periods, &id, visitor))
        h2 #usage { "Usage" }
        (steps(visitor))
        (or_reason(&usage, |usage| shown_usage(usage, visitor, &time_line)))
        (history.part(&id, &time_line))
        (comparison_part(compared.as_ref(), query))
        @if account.is_some() {
            p .more { a href=(json_url("AccountService/GetAccount", &json!({ "accountId": id }))) { "The account as JSON" } }
        }
    };
    Ok(Page::new(format!("Account {id}"), content))
}

type Compared = Result<(Vec<ReconciledUsage>, String), Failure>;

fn comparison_part(compared: Option<&Compared>, query: &Query) -> Markup {
    html! {
        h2 #compared { "Stripe and invoices" }
        @match compared {
            None => p { a href={ (HttpPath::ConsoleAccount.name()) "?" (query.with(&[("compare", "yes")])) "#compared" } { "Compare with Stripe's totals and invoices" } " (it asks Stripe, which takes seconds)" },
            Some(found) => (or_reason(found, |(rows, json)| html! {
                (comparison(rows))
                p .more { a href=(json) { "The comparison as JSON" } }
            })),
        }
    }
}

/// The comparison, if the address asks for it, and where its JSON is.
async fn compared(visitor: &Visitor, id: &str, now: Option<Timestamp>) -> Option<Compared> {
    // Links of other sites ask Stripe nothing.
    if visitor.query.get("compare").is_empty() || !visitor.is_own_request {
        return None;
    }
    let request = ReconcileRequest {
        account_id: id.to_owned(),
        period: now.map(|now| Period {
            start: Some(Timestamp {
                seconds: now.seconds.saturating_sub(COMPARED_SECS),
                ..now
            }),
            end: Some(now),
        }),
        ..ReconcileRequest::default()
    };
    let json = json!({
        "accountId": id,
        "period": request.period.map(|period| json!({
            "start": period.start.map(rfc3339),
            "end": period.end.map(rfc3339),
        })),
    });
    let page = visitor.calls.reconcile(request).await;
    Some(page.map(|page| (page.rows, json_url("UsageService/Reconcile", &json))))
}

pub(super) fn step(query: &Query) -> Result<(Granularity, &'static str), Failure> {
    let wanted = query.get("by");
    let known = STEPS.iter().find(|(name, ..)| *name == wanted);
    match known {
        Some((_, _, granularity, format)) => Ok((*granularity, format)),
        None if wanted.is_empty() => Ok((Granularity::Day, "%Y-%m-%d")),
        None => Err(Failure::invalid(format!(
            "by is {}; it must be hour, day or month",
            quoted(wanted)
        ))),
    }
}

async fn usage(visitor: &Visitor, id: &str) -> Result<GetResponse, Failure> {
    let query = &visitor.query;
    let (zone, (granularity, _)) = (visitor.zone.zone()?, step(query)?);
    let (start, end) = (zone.time(query, "start")?, zone.time(query, "end")?);
    let period = match (start, end) {
        (None, None) => None,
        (Some(_), Some(_)) => Some(Period { start, end }),
        _ => return Err(Failure::invalid("give both a start and an end, or neither")),
    };
    let request = GetRequest {
        account_id: id.to_owned(),
        meter: query.text("meter"),
        period,
        granularity: granularity.into(),
        time_zone: zone.wire_name(),
        round_outward: true,
    };
    visitor.calls.get(request).await
}

/// The steps as the choices of a form.
pub(super) fn steps_of() -> [(&'static str, String); 3] {
    STEPS.map(|(name, words, ..)| (name, words.to_owned()))
}

fn steps(visitor: &Visitor) -> Markup {
    let (query, values) = (&visitor.query, steps_of());
    html! {
        form .filters method="get" action={ (HttpPath::ConsoleAccount.name()) "#usage" } {
            input type="hidden" name="id" value=(query.get("id"));
            (field(query, "meter", "Meter", "all"))
            (choice(query, "by", "Steps", &values))
            (field(query, "start", "From", "2026-03-01"))
            (field(query, "end", "Before", "2026-04-01"))
            (zone::hidden(visitor))
            button type="submit" { "Show" }
        }
    }
}

fn shown_usage(usage: &GetResponse, visitor: &Visitor, time_line: &TimeLine) -> Markup {
    let query = &visitor.query;
    let (Ok(zone), Ok((granularity, format))) = (visitor.zone.zone(), step(query)) else {
        return html! {};
    };
    let period = usage.period.unwrap_or_default();
    let marks = time_line.marks(period);
    let json = json!({
        "accountId": usage.account_id,
        "meter": query.get("meter"),
        "period": {
            "start": period.start.map(rfc3339),
            "end": period.end.map(rfc3339),
        },
        "granularity": granularity.as_str_name(),
        "timeZone": usage.time_zone,
        "roundOutward": true,
    });
    html! {
        p { "From " (time(period.start)) " to " (time(period.end)) " UTC, in steps of the time zone " bdi { (usage.time_zone) } ", as of " (time(usage.as_of)) "." }
        (zone.note(period))
        (totals(usage))
        (chart::legend())
        @for (meter, has_room) in with_room(&usage.meters) {
            h3 { (foreign(&meter.meter)) }
            @if !has_usage(meter) {
                p { "No usage in this time." }
            } @else if meter.points.len() > MAX_POINTS {
                p .note { (meter.points.len()) " steps are too many for a chart: choose longer ones, or a shorter time." }
            } @else if !has_room {
                p .note { "The charts above have as many steps as a page shows: choose longer ones, a shorter time, or " a href={ (HttpPath::ConsoleAccount.name()) "?" (query.with(&[("meter", &meter.meter)])) "#usage" } { "this meter alone" } "." }
            } @else {
                @let name = format!("Usage of {}", meter.meter);
                (chart::bars(&meter.points, &name, zone.tz(), format, &marks))
                (points(&meter.points, &meter.meter, zone.tz(), format))
            }
        }
        (time_line.table(period))
        p .more { a href=(json_url("UsageService/Get", &json)) { "The usage as JSON" } }
    }
}

fn has_usage(meter: &MeterUsage) -> bool {
    let is_empty = |point: &UsagePoint| {
        let quantities = point.quantities.unwrap_or_default();
        quantities == Quantities::default()
    };
    !meter.points.iter().all(is_empty)
}

/// The meters, and whether the page has room for the steps of each. All charts together have as many as one may have.
fn with_room(meters: &[MeterUsage]) -> Vec<(&MeterUsage, bool)> {
    let mut room = MAX_POINTS;
    let with_room = meters.iter().map(|meter| {
        let left = room.checked_sub(meter.points.len());
        let left = left.filter(|_| has_usage(meter));
        room = left.unwrap_or(room);
        (meter, left.is_some())
    });
    with_room.collect()
}

fn totals(usage: &GetResponse) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Totals" {
            table {
                caption { "Totals of the period" }
                thead {
                    tr {
                        th scope="col" { "Meter" }
                        th scope="col" .number { "Total" }
                        th scope="col" .number { "At Stripe" }
                        th scope="col" .number { "Not yet at Stripe" }
                        th scope="col" .number { "Never billed" }
                    }
                }
                tbody {
                    @for meter in &usage.meters {
                        @let of = meter.quantities.unwrap_or_default();
                        tr {
                            th scope="row" { (foreign(&meter.meter)) @if !meter.unit.is_empty() { " (" bdi { (meter.unit) } ")" } }
                            td .number { (grouped(of.total)) }
                            td .number { (grouped(of.reported)) }
                            td .number { (grouped(of.not_yet_reported)) }
                            td .number { (grouped(of.not_billable)) }
                        }
                    }
                }
            }
        }
    }
}

/// The figures of a chart.
fn points(points: &[UsagePoint], meter: &str, zone: Tz, format: &str) -> Markup {
    html! {
        details {
            summary { "The same as a table" }
            div .scroll tabindex="0" role="region" aria-label={ "Steps of " (meter) } {
                table {
                    thead {
                        tr {
                            th scope="col" { "Step" }
                            th scope="col" .number { "Total" }
                            th scope="col" .number { "At Stripe" }
                            th scope="col" .number { "Not yet at Stripe" }
                            th scope="col" .number { "Never billed" }
                        }
                    }
                    tbody {
                        @for point in points {
                            @let of = point.quantities.unwrap_or_default();
                            tr {
                                th scope="row" { (chart::label(point, zone, format)) }
                                td .number { (grouped(of.total)) }
                                td .number { (grouped(of.reported)) }
                                td .number { (grouped(of.not_yet_reported)) }
                                td .number { (grouped(of.not_billable)) }
                            }
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
        let meter = |steps: usize, total: i64| {
            let quantities = Some(Quantities {
                total,
                ..Quantities::default()
            });
            let point = UsagePoint {
                quantities,
                ..UsagePoint::default()
            };
            MeterUsage {
                points: vec![point; steps],
                ..MeterUsage::default()
            }
        };
        let meters = [
            meter(MAX_POINTS + 1, 1),
            meter(600, 1),
            meter(600, 1),
            meter(900, 0),
            meter(400, 1),
            meter(1, 1),
        ];
        let found: Vec<bool> = with_room(&meters).iter().map(|(_, has)| *has).collect();
        assert_eq!(found, [false, true, false, false, true, false]);
    }
}
