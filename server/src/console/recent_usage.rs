//! The usage of all accounts of the last days, for the first page. It reads the reports of all accounts, so it is read in the
//! background while somebody looks, at most once a minute, and shown with its age.

use std::time::Duration;

use chrono_tz::Tz;
use maud::{Markup, html};
use prost_types::Timestamp;
use usage_proto::v1::{GetSummaryRequest, GetSummaryResponse, Granularity, Period, SummaryPoint};

use super::{
    calls::Failure,
    html::{foreign, or_reason, period_label, url},
    kept::{Ages, Found, Kept},
    state_sums,
    visitor::Visitor,
};
use crate::domain::{DAY_MS, Millis, http_paths::HttpPath};

/// The days that are shown, with the current one.
const DAYS: Millis = 30;
/// The meters with a chart. All are in the table.
const MAX_CHARTS: usize = 4;
const AGES: Ages = Ages {
    young: Duration::from_mins(1),
    old: Duration::from_hours(1),
    wait: Duration::from_millis(50),
};

pub(super) struct RecentUsage(Kept<GetSummaryResponse>);

impl Default for RecentUsage {
    fn default() -> Self {
        Self(Kept::new(AGES))
    }
}

impl RecentUsage {
    /// The part of the first page that shows it.
    pub(super) async fn part(&self, visitor: &Visitor) -> Markup {
        let found = self.read(visitor).await;
        html! {
            h2 { "Usage" }
            (or_reason(&found, |found| html! {
                @match found {
                    Some(found) => (shown(found)),
                    None => p .note { "The usage of all accounts is being read. Load this page again in a moment." },
                }
            }))
            p .more {
                a href=(url(HttpPath::ConsoleUsage, &[])) { "Usage of all accounts" }
                a href=(super::usage::json_of(&request(visitor.now))) { "Read it now, as JSON" }
            }
        }
    }

    /// The usage, if it was read within the time that a page waits.
    ///
    /// # Errors
    /// The visitor may not see it, or it fails.
    pub(super) async fn read(
        &self,
        visitor: &Visitor,
    ) -> Result<Option<Found<GetSummaryResponse>>, Failure> {
        let calls = visitor.calls.clone();
        let request = request(visitor.now);
        let asking = async move { calls.get_summary(request).await };
        // As the call itself checks it; another key sees nothing that was read for this one.
        if visitor.caller.check_everything().is_err() {
            asking.await?;
            return Ok(None);
        }
        self.0.get(asking).await
    }
}

/// The current day in UTC, and those before it.
pub(super) fn request(now: Millis) -> GetSummaryRequest {
    let today = now.div_euclid(DAY_MS);
    let first = today.saturating_sub(DAYS.saturating_sub(1));
    let start_of = |day: i64| {
        Some(Timestamp {
            seconds: day.saturating_mul(86_400),
            nanos: 0,
        })
    };
    GetSummaryRequest {
        period: Some(Period {
            start: start_of(first),
            end: start_of(today.saturating_add(1)),
        }),
        granularity: Granularity::Day.into(),
        top_accounts: super::usage::TOP,
        ..GetSummaryRequest::default()
    }
}

fn shown(found: &Found<GetSummaryResponse>) -> Markup {
    let summary = &found.answer;
    let label = |point: &SummaryPoint| period_label(point.period, Tz::UTC, "%Y-%m-%d");
    let used = summary.meters.iter().filter(|meter| meter.accounts > 0);
    html! {
        p { "The last " (DAYS) " days in UTC, as of " (super::html::time(summary.as_of)) ", " (found.age.as_secs()) " s ago." }
        (state_sums::table(&summary.meters, |meter| Some(url(HttpPath::ConsoleUsage, &[("meter", &meter.meter)]))))
        @if summary.meters.iter().any(|meter| meter.accounts > 0) { (state_sums::legend()) }
        @for meter in used.take(MAX_CHARTS) {
            h3 { (foreign(&meter.meter)) }
            (state_sums::chart_of(meter, label))
        }
    }
}
