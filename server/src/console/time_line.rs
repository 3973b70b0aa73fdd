//! What happened to an account, as marks on the charts of its usage and as a table: its link, its billing periods and what
//! became of its subscription, corrections, decisions, and what admins did.

use maud::{Markup, html};
use prost_types::Timestamp;
use usage_proto::v1::{Account, AuditEntry, AuditOutcome, Period, UsageReport, account::Billing};

use super::{
    chart::Mark,
    html::{foreign, grouped, time, words},
    invoice_parts,
    reports::report_url,
};

/// The events that are shown, the latest ones.
const MAX_EVENTS: usize = 50;

/// Something that happened.
pub(super) struct Event {
    at: Timestamp,
    what: String,
    /// Why, in someone's words.
    why: String,
    by: String,
    /// Where more of it is.
    link: Option<String>,
}

impl Event {
    fn new(at: Option<Timestamp>, what: impl Into<String>) -> Option<Self> {
        Some(Self {
            at: at?,
            what: what.into(),
            why: String::new(),
            by: String::new(),
            link: None,
        })
    }
}

/// What is known of an account, the latest first.
pub(super) struct TimeLine(Vec<Event>);

impl TimeLine {
    pub(super) fn new(
        account: Option<&Account>,
        reports: &[UsageReport],
        corrections: &[UsageReport],
        entries: &[AuditEntry],
    ) -> Self {
        let mut events: Vec<Event> = account.into_iter().flat_map(of_account).collect();
        events.extend(corrections.iter().filter_map(of_correction));
        let ids: Vec<&str> = reports.iter().map(|report| report.id.as_str()).collect();
        let others = corrections
            .iter()
            .filter(|report| !ids.contains(&report.id.as_str()));
        events.extend(reports.iter().chain(others).flat_map(of_decisions));
        events.extend(entries.iter().filter_map(of_entry));
        events.sort_by_key(|event| std::cmp::Reverse((event.at.seconds, event.at.nanos)));
        Self(events)
    }

    /// Those within a period, as lines of its charts.
    pub(super) fn marks(&self, period: Period) -> Vec<Mark> {
        let within = self.0.iter().filter(|event| is_within(event.at, period));
        let marks = within.take(MAX_EVENTS).map(|event| Mark {
            at: event.at,
            what: event.what.clone(),
        });
        marks.collect()
    }

    /// Those within a period, as a table.
    pub(super) fn table(&self, period: Period) -> Markup {
        let within = self.0.iter().filter(|event| is_within(event.at, period));
        let shown: Vec<&Event> = within.take(MAX_EVENTS).collect();
        html! {
            h3 { "Links and changes in this time" }
            @if shown.is_empty() { p { "None is known." } } @else {
                div .scroll tabindex="0" role="region" aria-label="Links and changes" {
                    table {
                        caption { "The dashed lines of the charts, the latest first" }
                        thead {
                            tr {
                                th scope="col" { "When" }
                                th scope="col" { "What" }
                                th scope="col" { "Why" }
                                th scope="col" { "By" }
                            }
                        }
                        tbody { @for event in shown { (row(event)) } }
                    }
                }
            }
        }
    }
}

fn row(event: &Event) -> Markup {
    html! {
        tr {
            th scope="row" { (time(Some(event.at))) }
            td {
                @match &event.link {
                    Some(link) => a href=(link) { bdi { (event.what) } },
                    None => bdi { (event.what) },
                }
            }
            td { (foreign(&event.why)) }
            td { (foreign(&event.by)) }
        }
    }
}

fn is_within(at: Timestamp, period: Period) -> bool {
    let order = |at: Timestamp| (at.seconds, at.nanos);
    let (start, end) = (period.start.map(order), period.end.map(order));
    start <= Some(order(at)) && Some(order(at)) < end
}

fn of_account(account: &Account) -> Vec<Event> {
    let billing = match &account.billing {
        Some(Billing::Stripe(stripe)) => format!("billed to {} from here on", stripe.customer),
        _ => "free from here on".to_owned(),
    };
    let mut events = vec![Event::new(account.valid_from, billing)];
    if let Some(synced) = &account.subscription {
        let ended = Event::new(synced.ended_at, "the subscription ended");
        let ends = Event::new(synced.cancel_at, "the subscription is to end");
        events.extend([ended, ends]);
        let mut periods: Vec<Period> = synced.periods.iter().filter_map(|one| one.period).collect();
        periods.dedup();
        events.extend(periods.into_iter().map(|period| {
            let event = Event::new(period.start, "a billing period began")?;
            let link = invoice_parts::url_of(&account.account_id, Some(period), "");
            Some(Event {
                link: Some(link),
                ..event
            })
        }));
    }
    events.into_iter().flatten().collect()
}

fn of_correction(report: &UsageReport) -> Option<Event> {
    let window = report.window.unwrap_or_default();
    let what = format!(
        "correction of {} by {}",
        report.meter,
        grouped(report.quantity)
    );
    Some(Event {
        why: report.note.clone(),
        by: report.entered_by.clone(),
        link: Some(report_url(report)),
        ..Event::new(window.start, what)?
    })
}

fn of_decisions(report: &UsageReport) -> Vec<Event> {
    let decisions = report.decisions.iter().filter_map(|decision| {
        let action = words(decision.action().as_str_name(), "RESOLVE_ACTION_");
        let what = format!(
            "decision on {} of {}: {action}",
            grouped(report.quantity),
            report.meter
        );
        Some(Event {
            why: decision.reason.clone(),
            by: decision.requested_by.clone(),
            link: Some(report_url(report)),
            ..Event::new(decision.decided_at, what)?
        })
    });
    decisions.collect()
}

/// What an admin did. A correction and a decision are events by themselves.
fn of_entry(entry: &AuditEntry) -> Option<Event> {
    let is_other = !["Correct", "ResolveReport"].contains(&entry.action.as_str());
    if entry.outcome() != AuditOutcome::Done || !is_other {
        return None;
    }
    Some(Event {
        by: entry.key_name.clone(),
        ..Event::new(entry.at, entry.action.clone())?
    })
}

/// Corrections and decisions, whenever they were made.
pub(super) fn corrections(corrections: &[UsageReport], reports: &[UsageReport]) -> Markup {
    let entered = corrections.iter().filter_map(of_correction);
    let ids: Vec<&str> = reports.iter().map(|report| report.id.as_str()).collect();
    let others = corrections
        .iter()
        .filter(|report| !ids.contains(&report.id.as_str()));
    let decided = reports.iter().chain(others).flat_map(of_decisions);
    let mut events: Vec<Event> = entered.chain(decided).collect();
    events.sort_by_key(|event| std::cmp::Reverse((event.at.seconds, event.at.nanos)));
    html! {
        @if events.is_empty() { p { "None of the newest reports." } } @else {
            div .scroll tabindex="0" role="region" aria-label="Corrections and decisions" {
                table {
                    caption { "The newest corrections, by the time that they correct, and decisions on the newest reports" }
                    thead {
                        tr {
                            th scope="col" { "When" }
                            th scope="col" { "What" }
                            th scope="col" { "Why" }
                            th scope="col" { "By" }
                        }
                    }
                    tbody { @for event in events.iter().take(MAX_EVENTS) { (row(event)) } }
                }
            }
        }
    }
}
