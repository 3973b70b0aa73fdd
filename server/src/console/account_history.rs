//! What happened to an account: its newest reports; and of the time that is shown, its links and subscription changes,
//! corrections, decisions, and for admins who did what.

use maud::{Markup, html};
use prost_types::Timestamp;
use serde_json::json;
use usage_proto::v1::{
    Account, AccountHistory, GetAccountRequest, ListAuditEntriesRequest, ListAuditEntriesResponse,
    ListReportsRequest, ListReportsResponse, Period, UsageReportKind,
};

use super::{
    audit,
    calls::Failure,
    html::{json_url, or_reason, rfc3339, time, url},
    layout,
    reports::{self, name_of_kind},
    time_line::{self, Sources, TimeLine},
    visitor::Visitor,
};
use crate::domain::{
    access::{Requirement, Role},
    http_paths::HttpPath,
};

/// The newest reports that are shown.
const REPORTS: i32 = 20;
/// The corrections, decided reports and audit entries of the time that is shown: each the latest ones.
const LISTED: i32 = 100;
/// The time that is looked at if none is shown.
const LAST_YEARS_SECS: i64 = 3_650 * 24 * 3_600;
/// Before every decision.
const EVER: Timestamp = Timestamp {
    seconds: 0,
    nanos: 0,
};

type Reports = Result<ListReportsResponse, Failure>;

/// What was read of it, as far as the visitor may see it.
pub(super) struct History {
    /// The time that is shown.
    period: Period,
    reports: Reports,
    corrections: Reports,
    /// With usage of this time, whenever they were decided on.
    decided: Reports,
    /// Decided on in this time.
    decided_then: Reports,
    /// Absent without a link.
    billing: Option<Result<AccountHistory, Failure>>,
    /// Absent for those who are no admins.
    entries: Option<Result<ListAuditEntriesResponse, Failure>>,
}

impl History {
    /// Without a period, what is of the last years.
    pub(super) async fn read(
        visitor: &Visitor,
        id: &str,
        is_linked: bool,
        period: Option<Period>,
    ) -> Self {
        let now = visitor.timestamp();
        let period = period.unwrap_or_else(|| Period {
            start: Some(Timestamp {
                seconds: now.seconds.saturating_sub(LAST_YEARS_SECS),
                ..now
            }),
            end: Some(now),
        });
        let newest = ListReportsRequest {
            account_id: id.to_owned(),
            page_size: REPORTS,
            meter: visitor.query.text("meter"),
            ..ListReportsRequest::default()
        };
        let listed = ListReportsRequest {
            page_size: LISTED,
            ..newest.clone()
        };
        let corrections = ListReportsRequest {
            kind: UsageReportKind::Correction.into(),
            from: period.start,
            until: period.end,
            ..listed.clone()
        };
        let decided = ListReportsRequest {
            decided_from: Some(EVER),
            from: period.start,
            until: period.end,
            ..listed.clone()
        };
        let decided_then = ListReportsRequest {
            decided_from: period.start,
            decided_until: period.end,
            ..listed
        };
        let calls = &visitor.calls;
        let (reports, corrections, decided, decided_then, billing, entries) = tokio::join!(
            calls.list_reports(newest),
            calls.list_reports(corrections),
            calls.list_reports(decided),
            calls.list_reports(decided_then),
            billing(visitor, id, is_linked, period),
            entries(visitor, id, period),
        );
        Self {
            period,
            reports,
            corrections,
            decided,
            decided_then,
            billing,
            entries,
        }
    }

    pub(super) fn time_line(&self, account: Option<&Account>) -> TimeLine {
        let reports = |found: &Reports| {
            let found = found.as_ref().ok();
            found.map_or_else(Vec::new, |page| page.reports.clone())
        };
        let entries = self.entries.as_ref();
        let entries = entries.and_then(|found| found.as_ref().ok());
        let mut decided = reports(&self.decided);
        for report in reports(&self.decided_then) {
            if decided.iter().all(|known| known.id != report.id) {
                decided.push(report);
            }
        }
        TimeLine::new(&Sources {
            account,
            billing: self.billing.as_ref().and_then(|found| found.as_ref().ok()),
            corrections: &reports(&self.corrections),
            decided: &decided,
            entries: entries.map_or(&[][..], |page| &page.entries[..]),
        })
    }

    /// `time_line` is that of this history.
    pub(super) fn part(&self, id: &str, time_line: &TimeLine) -> Markup {
        html! {
            h2 { "Reports" }
            (or_reason(&self.reports, |page| html! {
                @if page.reports.is_empty() { p { "There is none." } } @else {
                    (reports::table(&page.reports, "The newest reports, of any time"))
                }
                p .more {
                    a href=(url(HttpPath::ConsoleReports, &[("account", id)])) { "All reports" }
                    a href=(url(HttpPath::ConsoleReports, &[("account", id), ("state", "needs_decision")])) { "Those that need a decision" }
                }
            }))
            h2 { "Corrections and decisions" }
            (or_reason(&self.corrections, |_| or_reason(&self.decided, |_| time_line::corrections(time_line))))
            @match &self.billing {
                Some(Err(failure)) => { (layout::reason(failure)) }
                Some(Ok(AccountHistory { link_before: Some(link), .. })) => {
                    p { "Before this time it was " (time_line::billing_of(link)) ", since " (time(link.valid_from)) "." }
                }
                _ => {}
            }
            (self.is_cut())
            (self.lists(id))
            @if let Some(entries) = &self.entries { (who_did_what(entries, id, self.period)) }
        }
    }

    /// Whether there is more than is shown.
    fn is_cut(&self) -> Markup {
        let lists = [&self.corrections, &self.decided, &self.decided_then];
        let has_more =
            |found: &&Reports| matches!(found, Ok(page) if !page.next_page_token.is_empty());
        html! {
            @if lists.iter().any(has_more) {
                p .note { "There are more than " (LISTED) " of a kind in this time. The links below lead to all." }
            }
            @if matches!(&self.billing, Some(Ok(billing)) if billing.truncated) {
                p .note { "There are more than " (LISTED) " links or subscription changes in this time. Show a shorter one to see all." }
            }
        }
    }

    /// The links to all corrections, decisions and links of the time.
    fn lists(&self, id: &str) -> Markup {
        let edge = |at: Option<Timestamp>| at.map(rfc3339).unwrap_or_default();
        let (start, end) = (edge(self.period.start), edge(self.period.end));
        let (kind, ever) = (name_of_kind(UsageReportKind::Correction), rfc3339(EVER));
        let corrections = list_of(id, &[("kind", &kind), ("from", &start), ("until", &end)]);
        let decided = list_of(
            id,
            &[("decided_from", &ever), ("from", &start), ("until", &end)],
        );
        let decided_then = list_of(id, &[("decided_from", &start), ("decided_until", &end)]);
        let json = json!({ "accountId": id, "history": { "start": start, "end": end } });
        html! {
            p .more {
                a href=(corrections) { "All corrections of this time" }
                a href=(decided) { "All decided reports of this time" }
                a href=(decided_then) { "All reports decided on in this time" }
                @if self.billing.is_some() {
                    a href=(json_url("AccountService/GetAccount", &json)) { "Links and subscription changes of this time as JSON" }
                }
            }
        }
    }
}

/// The address of reports of an account.
fn list_of(id: &str, pairs: &[(&str, &str)]) -> String {
    let pairs = [&[("account", id)][..], pairs].concat();
    url(HttpPath::ConsoleReports, &pairs)
}

/// The links and the subscription changes of a time.
async fn billing(
    visitor: &Visitor,
    id: &str,
    is_linked: bool,
    period: Period,
) -> Option<Result<AccountHistory, Failure>> {
    let request = GetAccountRequest {
        account_id: id.to_owned(),
        history: Some(period),
    };
    if !is_linked {
        return None;
    }
    let found = visitor.calls.get_account(request).await;
    Some(found.map(|found| found.history.unwrap_or_default()))
}

async fn entries(
    visitor: &Visitor,
    id: &str,
    period: Period,
) -> Option<Result<ListAuditEntriesResponse, Failure>> {
    // A refusal would be an entry itself.
    let requirement = Requirement::Role(Role::Admin);
    let caller = &visitor.caller;
    let may_see = caller.check_role(requirement).is_ok() && caller.check_everything().is_ok();
    if !may_see {
        return None;
    }
    let request = ListAuditEntriesRequest {
        account_id: id.to_owned(),
        page_size: LISTED,
        from: period.start,
        until: period.end,
        ..ListAuditEntriesRequest::default()
    };
    Some(visitor.calls.list_audit_entries(request).await)
}

fn who_did_what(
    entries: &Result<ListAuditEntriesResponse, Failure>,
    id: &str,
    period: Period,
) -> Markup {
    let edge = |at: Option<Timestamp>| at.map(rfc3339).unwrap_or_default();
    let (start, end) = (edge(period.start), edge(period.end));
    let pairs = [("account", id), ("from", &start), ("until", &end)];
    html! {
        h2 { "Who did what" }
        (or_reason(entries, |page| html! {
            @if page.entries.is_empty() { p { "No admin did anything with this account in this time." } } @else {
                (audit::table(&page.entries))
            }
            p .more {
                @if !page.next_page_token.is_empty() { a href=(url(HttpPath::ConsoleAudit, &pairs)) { "All of this time" } }
                a href=(url(HttpPath::ConsoleAudit, &[("account", id)])) { "All of it" }
            }
        }))
    }
}
