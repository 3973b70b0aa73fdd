//! What happened to an account, as marks on the charts of its usage and as a table: its link, its billing periods and what
//! became of its subscription, corrections, decisions, and what admins did.

use maud::{Markup, html};
use prost_types::Timestamp;
use usage_proto::v1::{
    Account, AccountHistory, AccountLink, AuditEntry, AuditOutcome, Period, UsageReport,
};

use super::{
    chart::Mark,
    html::{foreign, grouped, time, words},
    invoice_parts,
    reports::report_url,
};

/// The events that are shown, the latest ones.
const MAX_EVENTS: usize = 200;
/// The corrections and decisions that are shown, the latest ones.
const MAX_DECISIONS: usize = 200;

/// Something that happened.
pub(super) struct Event {
    at: Timestamp,
    what: String,
    /// Why, in someone's words.
    why: String,
    by: String,
    /// Where more of it is.
    link: Option<String>,
    /// Whether it is a correction or a decision.
    is_decision: bool,
}

impl Event {
    fn new(at: Option<Timestamp>, what: impl Into<String>) -> Option<Self> {
        Some(Self {
            at: at?,
            what: what.into(),
            why: String::new(),
            by: String::new(),
            link: None,
            is_decision: false,
        })
    }
}

/// What is known of an account, the latest first.
pub(super) struct TimeLine(Vec<Event>);

/// What is read of an account.
pub(super) struct Sources<'a> {
    pub(super) account: Option<&'a Account>,
    pub(super) billing: Option<&'a AccountHistory>,
    pub(super) corrections: &'a [UsageReport],
    /// Reports with decisions.
    pub(super) decided: &'a [UsageReport],
    pub(super) entries: &'a [AuditEntry],
}

impl TimeLine {
    pub(super) fn new(of: &Sources<'_>) -> Self {
        let mut events: Vec<Event> = of.account.into_iter().flat_map(of_account).collect();
        events.extend(of.billing.into_iter().flat_map(of_billing));
        events.extend(of.corrections.iter().filter_map(of_correction));
        events.extend(of.decided.iter().flat_map(of_decisions));
        events.extend(of.entries.iter().filter_map(of_entry));
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
    let mut events = Vec::new();
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

/// Each link and each change of the subscription.
fn of_billing(history: &AccountHistory) -> Vec<Event> {
    let links = in_force(history).filter_map(|link| {
        Event::new(
            link.valid_from,
            format!("{} from here on", billing_of(link)),
        )
    });
    let changes = history.changes.iter().filter_map(|change| {
        let kind = words(change.kind().as_str_name(), "SUBSCRIPTION_CHANGE_KIND_");
        let state = words(change.state().as_str_name(), "SUBSCRIPTION_CHANGE_STATE_");
        let mut what = format!("{kind} of {}: {state}", change.subscription);
        if !change.prices.is_empty() {
            what = format!("{what}, to {}", change.prices.join(", "));
        }
        Some(Event {
            why: change.error.clone(),
            by: change.requested_by.clone(),
            ..Event::new(change.boundary, what)?
        })
    });
    links.chain(changes).collect()
}

/// The links that are or were in force: one with a larger version that applies from an earlier time outranks the others.
fn in_force(history: &AccountHistory) -> impl Iterator<Item = &AccountLink> {
    let order = |link: &AccountLink| link.valid_from.map(|at| (at.seconds, at.nanos));
    let before = history.link_before.as_ref().map(|link| link.version);
    let mut earliest = None;
    // The one with the largest version is the first.
    history.links.iter().filter(move |link| {
        let own = order(link);
        let is_outranked = before.is_some_and(|version| version > link.version)
            || earliest.is_some_and(|earliest| earliest <= own);
        if !is_outranked {
            earliest = Some(own);
        }
        !is_outranked
    })
}

/// How a link bills, in words.
pub(super) fn billing_of(link: &AccountLink) -> String {
    let customer = &link.stripe_customer;
    if link.ended {
        format!("no longer billed to {customer}")
    } else if customer.is_empty() {
        "free".to_owned()
    } else {
        format!("billed to {customer}")
    }
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
        is_decision: true,
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
            is_decision: true,
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

/// Corrections of the shown time, and decisions on its usage or in it.
pub(super) fn corrections(of: &TimeLine) -> Markup {
    let events = of.0.iter().filter(|event| event.is_decision);
    let events: Vec<&Event> = events.take(MAX_DECISIONS).collect();
    html! {
        @if events.is_empty() { p { "None in this time." } } @else {
            div .scroll tabindex="0" role="region" aria-label="Corrections and decisions" {
                table {
                    caption { "Corrections, by the time that they correct, and decisions on reports of the shown time or in it, the latest first" }
                    thead {
                        tr {
                            th scope="col" { "When" }
                            th scope="col" { "What" }
                            th scope="col" { "Why" }
                            th scope="col" { "By" }
                        }
                    }
                    tbody { @for event in events { (row(event)) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(version: i64, seconds: i64) -> AccountLink {
        AccountLink {
            version,
            valid_from: Some(Timestamp { seconds, nanos: 0 }),
            ..AccountLink::default()
        }
    }

    #[test]
    fn a_link_is_outranked_by_a_later_one_that_applies_from_an_earlier_time() {
        let versions = |links: &[AccountLink], before: Option<AccountLink>| {
            let history = AccountHistory {
                links: links.to_vec(),
                link_before: before,
                ..AccountHistory::default()
            };
            let found = in_force(&history).map(|link| link.version);
            found.collect::<Vec<_>>()
        };
        // The latest version is the first.
        assert_eq!(versions(&[link(2, 20), link(1, 10)], None), [2, 1]);
        assert_eq!(versions(&[link(2, 10), link(1, 20)], None), [2]);
        assert_eq!(versions(&[link(2, 10), link(1, 10)], None), [2]);
        let links = [link(4, 15), link(3, 20), link(2, 10), link(1, 5)];
        assert_eq!(versions(&links, None), [4, 2, 1]);
        assert_eq!(versions(&links, Some(link(3, 0))), [4]);
        assert_eq!(versions(&links, Some(link(0, 0))), [4, 2, 1]);
    }
}
