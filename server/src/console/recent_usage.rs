//! The usage of all accounts of the last days, for the first page. It reads the reports of all accounts, so it is read in the
//! background while somebody looks, at most once a minute, and shown with its age.

use std::time::Duration;

use maud::{Markup, html};
use moka::{policy::EvictionPolicy, sync::Cache};
use usage_proto::v1::{GetSummaryRequest, GetSummaryResponse, Granularity, SummaryPoint};

use super::{
    calls::Failure,
    html::{foreign, or_reason, period_label, url},
    kept::{Ages, Found, Kept},
    state_sums,
    visitor::Visitor,
    zone::{NAMED, Zone},
};
use crate::domain::{Millis, http_paths::HttpPath};

/// The days that are shown, with the current one.
const DAYS: u32 = 30;
/// The meters with a chart. All are in the table.
const MAX_CHARTS: usize = 4;
const AGES: Ages = Ages {
    young: Duration::from_mins(1),
    old: Duration::from_hours(1),
    wait: Duration::from_millis(50),
};

/// The zones whose days are kept, those that were last looked at.
const ZONES: u64 = 8;

/// By the name of the zone.
pub(super) struct RecentUsage(Cache<&'static str, Kept<GetSummaryResponse>>);

impl Default for RecentUsage {
    fn default() -> Self {
        // One that is looked at now comes before others.
        let kept = Cache::builder().eviction_policy(EvictionPolicy::lru());
        let kept = kept.max_capacity(ZONES);
        Self(kept.build())
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
                    Some(found) => (shown(found, visitor)),
                    None => p .note { "The usage of all accounts is being read. Load this page again in a moment." },
                }
            }))
            p .more {
                a href=(url(HttpPath::ConsoleUsage, &[(NAMED, visitor.zone.named())])) { "Usage of all accounts" }
                @if let Ok(zone) = visitor.zone.zone() {
                    a href=(super::usage::json_of(&request(visitor.now, zone))) { "Read it now, as JSON" }
                }
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
        let zone = visitor.zone.zone()?;
        let request = request(visitor.now, zone);
        let asking = async move { calls.get_summary(request).await };
        // As the call itself checks it; another key sees nothing that was read for this one.
        if visitor.caller.check_everything().is_err() {
            asking.await?;
            return Ok(None);
        }
        let kept = self.0.get_with(zone.name(), || Kept::new(AGES));
        kept.get(asking).await
    }
}

/// The current day in the zone, and those before it.
pub(super) fn request(now: Millis, zone: Zone) -> GetSummaryRequest {
    GetSummaryRequest {
        period: Some(zone.last_days(now, DAYS)),
        granularity: Granularity::Day.into(),
        time_zone: zone.wire_name(),
        round_outward: true,
        top_accounts: super::usage::TOP,
        ..GetSummaryRequest::default()
    }
}

fn shown(found: &Found<GetSummaryResponse>, visitor: &Visitor) -> Markup {
    let Ok(zone) = visitor.zone.zone() else {
        return html! {};
    };
    let named = visitor.zone.named();
    let summary = &found.answer;
    let label = |point: &SummaryPoint| period_label(point.period, zone.tz(), "%Y-%m-%d");
    let used = summary.meters.iter().filter(|meter| meter.accounts > 0);
    html! {
        p { "The last " (DAYS) " days in " bdi { (zone.name()) } ", as of " (super::html::time(summary.as_of)) ", " (found.age.as_secs()) " s ago." }
        (zone.note(summary.period.unwrap_or_default()))
        (state_sums::accounts(summary.accounts))
        (state_sums::table(&summary.meters, |meter| Some(url(HttpPath::ConsoleUsage, &[("meter", &meter.meter), (NAMED, named)]))))
        @if summary.meters.iter().any(|meter| meter.accounts > 0) { (state_sums::legend()) }
        @for meter in used.take(MAX_CHARTS) {
            h3 { (foreign(&meter.meter)) }
            (state_sums::chart_of(meter, label))
        }
    }
}
