//! The present billing period of an account to date, and the last ones.

use chrono::{Datelike as _, Months, NaiveTime, TimeZone as _};
use chrono_tz::Tz;
use futures_util::future::join_all;
use maud::{Markup, html};
use prost_types::Timestamp;
use usage_proto::v1::{Account, GetRequest, GetResponse, Granularity, Period, Quantities};

use super::{
    calls::Failure,
    html::{foreign, grouped, or_reason, rfc3339, time, url, utc},
    invoice_parts,
    visitor::Visitor,
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
pub(super) async fn read(
    visitor: &Visitor,
    id: &str,
    account: Option<&Account>,
    zone: Tz,
) -> Periods {
    let billed = billed(account, visitor.timestamp());
    let are_billed = !billed.is_empty();
    let periods = if are_billed {
        billed
    } else {
        months(visitor.timestamp(), zone)
    };
    let calls = periods.into_iter().map(|period| {
        visitor.calls.get(GetRequest {
            account_id: id.to_owned(),
            meter: visitor.query.text("meter"),
            period: Some(period),
            granularity: Granularity::Total.into(),
            time_zone: visitor.query.text("tz"),
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

/// The current calendar month in the zone, and those before it.
fn months(now: Timestamp, zone: Tz) -> Vec<Period> {
    let first = |before: u32| {
        let today = utc(now)?.with_timezone(&zone).date_naive();
        let day = today.with_day(1)?;
        // The end of the current one is the start of the next.
        let day = match before.checked_sub(1) {
            Some(before) => day.checked_sub_months(Months::new(before))?,
            None => day.checked_add_months(Months::new(1))?,
        };
        let start = zone.from_local_datetime(&day.and_time(NaiveTime::MIN));
        let seconds = start.earliest()?.timestamp();
        Some(Timestamp { seconds, nanos: 0 })
    };
    let period = |before: u32| {
        let (start, end) = (first(before.checked_add(1)?)?, first(before)?);
        Some(Period {
            start: Some(start),
            end: Some(end),
        })
    };
    (0_u32..).take(SHOWN).filter_map(period).collect()
}

pub(super) fn part(periods: &Periods, id: &str, meter: &str, tz: &str) -> Markup {
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
                        @if let Ok(usage) = one { (rows(usage, periods.are_billed, (id, meter, tz))) }
                    }
                }
            }
        }
        @for failed in periods.usage.iter().filter(|one| one.is_err()).take(1) {
            (or_reason(failed, |_| html! {}))
        }
    }
}

fn rows(usage: &GetResponse, is_billed: bool, (id, meter, tz): (&str, &str, &str)) -> Markup {
    let period = usage.period.unwrap_or_default();
    let edge = |at: Option<Timestamp>| at.map(rfc3339).unwrap_or_default();
    let (start, end) = (edge(period.start), edge(period.end));
    let pairs = [
        ("id", id),
        ("meter", meter),
        ("start", &start),
        ("end", &end),
        ("tz", tz),
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
    }
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
    fn months_begin_in_the_zone() {
        // 2026-01-01T00:30Z is still the old year in New York.
        let now = at(1_767_227_400);
        let found = months(now, Tz::UTC);
        assert_eq!(
            found,
            [
                period(1_767_225_600, 1_769_904_000),
                period(1_764_547_200, 1_767_225_600),
                period(1_761_955_200, 1_764_547_200),
            ]
        );
        let found = months(now, Tz::America__New_York);
        assert_eq!(found[0], period(1_764_565_200, 1_767_243_600));
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
