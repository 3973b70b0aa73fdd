//! The present billing period of an account to date, and the last ones.

use futures_util::future::join_all;
use maud::{Markup, html};
use prost_types::Timestamp;
use serde_json::json;
use usage_proto::v1::{Account, GetRequest, GetResponse, Granularity, Period, Quantities};

use super::{
    calls::Failure,
    html::{foreign, grouped, json_url, or_reason, rfc3339, time, url},
    invoice_parts,
    visitor::Visitor,
    zone::{NAMED, Zone},
};
use crate::domain::http_paths::HttpPath;

/// The periods that are shown.
const SHOWN: usize = 3;

/// What is known of the newest periods.
pub(super) struct Periods {
    usage: Vec<Result<GetResponse, Failure>>,
    /// Whether they are billing periods.
    are_billed: bool,
}

/// The usage of the newest periods that have begun.
pub(super) async fn read(visitor: &Visitor, id: &str, account: Option<&Account>) -> Periods {
    let zone = visitor.zone.zone();
    let billed = billed(account, visitor.timestamp());
    let are_billed = !billed.is_empty();
    let periods = if are_billed {
        billed
    } else {
        // Without one, the usage below says why.
        let zone = zone.as_ref();
        zone.map_or_else(|_| Vec::new(), |zone| zone.last_months(visitor.now, SHOWN))
    };
    let time_zone = zone.map_or_else(|_| String::new(), Zone::wire_name);
    let calls = periods.into_iter().map(|period| {
        visitor.calls.get(GetRequest {
            account_id: id.to_owned(),
            meter: visitor.query.text("meter"),
            period: Some(period),
            granularity: Granularity::Total.into(),
            time_zone: time_zone.clone(),
            round_outward: true,
        })
    });
    Periods {
        usage: join_all(calls).await,
        are_billed,
    }
}

/// The newest billing periods that have begun.
fn billed(account: Option<&Account>, now: Timestamp) -> Vec<Period> {
    let synced = account.and_then(|account| account.subscription.as_ref());
    let periods = synced.into_iter().flat_map(|synced| &synced.periods);
    let order = |at: Option<Timestamp>| at.map(|at| (at.seconds, at.nanos));
    let mut periods: Vec<Period> = periods
        .filter_map(|one| one.period)
        .filter(|period| order(period.start) <= order(Some(now)))
        .collect();
    periods.sort_by_key(|period| std::cmp::Reverse((order(period.start), order(period.end))));
    periods.dedup();
    periods.truncate(SHOWN);
    periods
}

pub(super) fn part(periods: &Periods, id: &str, visitor: &Visitor) -> Markup {
    html! {
        h2 { "Periods" }
        div .scroll tabindex="0" role="region" aria-label="Periods" {
            table {
                caption {
                    @if periods.are_billed { "The present billing period to date, and the last ones" }
                    @else { "The present calendar month to date, and the last ones: no billing period is known" }
                }
                thead {
                    tr {
                        th scope="col" { "Period" }
                        th scope="col" { "Meter" }
                        th scope="col" .number { "Total" }
                        th scope="col" .number { "At Stripe" }
                        th scope="col" .number { "Not yet at Stripe" }
                        th scope="col" .number { "Never billed" }
                        th scope="col" { "More" }
                    }
                }
                tbody {
                    @for one in &periods.usage {
                        @if let Ok(usage) = one { (rows(usage, periods.are_billed, id, visitor)) }
                    }
                }
            }
        }
        @for failed in periods.usage.iter().filter(|one| one.is_err()).take(1) {
            (or_reason(failed, |_| html! {}))
        }
    }
}

fn rows(usage: &GetResponse, is_billed: bool, id: &str, visitor: &Visitor) -> Markup {
    let period = usage.period.unwrap_or_default();
    let edge = |at: Option<Timestamp>| at.map(rfc3339).unwrap_or_default();
    let (start, end) = (edge(period.start), edge(period.end));
    let pairs = [
        ("id", id),
        ("meter", visitor.query.get("meter")),
        ("start", &start),
        ("end", &end),
        (NAMED, visitor.zone.named()),
    ];
    let used = usage
        .meters
        .iter()
        .filter(|meter| meter.quantities.unwrap_or_default() != Quantities::default());
    let used: Vec<_> = used.collect();
    html! {
        @if used.is_empty() {
            tr {
                th scope="row" { (time(period.start)) " to " (time(period.end)) }
                td colspan="5" { "no usage" }
                td { (links(usage, is_billed, id, &pairs)) }
            }
        }
        @for meter in used {
            @let of = meter.quantities.unwrap_or_default();
            tr {
                th scope="row" { (time(period.start)) " to " (time(period.end)) }
                td { (foreign(&meter.meter)) }
                td .number { (grouped(of.total)) }
                td .number { (grouped(of.reported)) }
                td .number { (grouped(of.not_yet_reported)) }
                td .number { (grouped(of.not_billable)) }
                td { (links(usage, is_billed, id, &pairs)) }
            }
        }
    }
}

fn links(usage: &GetResponse, is_billed: bool, id: &str, pairs: &[(&str, &str)]) -> Markup {
    html! {
        a href={ (url(HttpPath::ConsoleAccount, pairs)) "#usage" } { "Over time" }
        @if is_billed {
            ", " a href=(invoice_parts::url_of(id, usage.period, "")) { "invoice line by line" }
        }
        ", " a href=(json_of(pairs)) { "as JSON" }
    }
}

/// The usage of the period, by the parameters of its address.
fn json_of(pairs: &[(&str, &str)]) -> String {
    let of = |name: &str| pairs.iter().find(|(known, _)| *known == name);
    let of = |name: &str| of(name).map_or("", |(_, value)| *value);
    let json = json!({
        "accountId": of("id"),
        "meter": of("meter"),
        "period": { "start": of("start"), "end": of("end") },
    });
    json_url("UsageService/Get", &json)
}

#[cfg(test)]
mod tests {
    use usage_proto::v1::{BillingPeriod, Subscription};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }

    fn period(start: i64, end: i64) -> Period {
        Period {
            start: Some(at(start)),
            end: Some(at(end)),
        }
    }

    #[test]
    fn the_newest_billing_periods_that_have_begun_are_shown_once() {
        let of = |start, end| BillingPeriod {
            period: Some(period(start, end)),
            ..BillingPeriod::default()
        };
        let account = Account {
            subscription: Some(Subscription {
                periods: vec![
                    of(50, 60),
                    of(40, 50),
                    of(40, 50),
                    of(30, 40),
                    of(20, 30),
                    of(10, 20),
                ],
                ..Subscription::default()
            }),
            ..Account::default()
        };
        let found = billed(Some(&account), at(45));
        assert_eq!(found, [period(40, 50), period(30, 40), period(20, 30)]);
        assert!(billed(None, at(45)).is_empty());
    }
}
