//! What happened to an account: its reports, corrections, decisions, and for admins who did what.

use maud::{Markup, html};
use usage_proto::v1::{
    Account, ListAuditEntriesRequest, ListAuditEntriesResponse, ListReportsRequest,
    ListReportsResponse, UsageReport, UsageReportKind,
};

use super::{
    audit,
    calls::Failure,
    html::{or_reason, url},
    reports,
    time_line::{self, TimeLine},
    visitor::Visitor,
};
use crate::domain::{
    access::{Requirement, Role},
    http_paths::HttpPath,
};

/// The newest reports that are shown, and the newest corrections.
const REPORTS: i32 = 20;
/// The latest audit entries that are shown.
const ENTRIES: i32 = 20;

/// What was read of it, as far as the visitor may see it.
pub(super) struct History {
    reports: Result<ListReportsResponse, Failure>,
    corrections: Result<ListReportsResponse, Failure>,
    /// Absent for those who are no admins.
    entries: Option<Result<ListAuditEntriesResponse, Failure>>,
}

impl History {
    pub(super) async fn read(visitor: &Visitor, id: &str) -> Self {
        let request = |kind: UsageReportKind| ListReportsRequest {
            account_id: id.to_owned(),
            page_size: REPORTS,
            meter: visitor.query.text("meter"),
            kind: kind.into(),
            ..ListReportsRequest::default()
        };
        let calls = &visitor.calls;
        let (reports, corrections, entries) = tokio::join!(
            calls.list_reports(request(UsageReportKind::Unspecified)),
            calls.list_reports(request(UsageReportKind::Correction)),
            entries(visitor, id),
        );
        Self {
            reports,
            corrections,
            entries,
        }
    }

    pub(super) fn time_line(&self, account: Option<&Account>) -> TimeLine {
        let entries = self.entries.as_ref();
        let entries = entries.and_then(|found| found.as_ref().ok());
        let entries = entries.map_or(&[][..], |page| &page.entries[..]);
        let (reports, corrections) = (listed(&self.reports), listed(&self.corrections));
        TimeLine::new(account, reports, corrections, entries)
    }

    pub(super) fn part(&self, id: &str) -> Markup {
        let (listed, corrected) = (listed(&self.reports), listed(&self.corrections));
        html! {
            h2 { "Reports" }
            (or_reason(&self.reports, |_| html! {
                @if listed.is_empty() { p { "There is none." } } @else {
                    (reports::table(listed, "The newest reports"))
                }
                p .more {
                    a href=(url(HttpPath::ConsoleReports, &[("account", id)])) { "All reports" }
                    a href=(url(HttpPath::ConsoleReports, &[("account", id), ("state", "needs_decision")])) { "Those that need a decision" }
                }
            }))
            h2 { "Corrections and decisions" }
            (or_reason(&self.corrections, |_| time_line::corrections(corrected, listed)))
            @if let Some(entries) = &self.entries { (who_did_what(entries, id)) }
        }
    }
}

/// The reports that could be listed.
fn listed(found: &Result<ListReportsResponse, Failure>) -> &[UsageReport] {
    found.as_ref().map_or(&[][..], |page| &page.reports[..])
}

async fn entries(visitor: &Visitor, id: &str) -> Option<Result<ListAuditEntriesResponse, Failure>> {
    // A refusal would be an entry itself.
    let requirement = Requirement::Role(Role::Admin);
    let caller = &visitor.caller;
    let may_see = caller.check_role(requirement).is_ok() && caller.check_everything().is_ok();
    if !may_see {
        return None;
    }
    let request = ListAuditEntriesRequest {
        account_id: id.to_owned(),
        page_size: ENTRIES,
        ..ListAuditEntriesRequest::default()
    };
    Some(visitor.calls.list_audit_entries(request).await)
}

fn who_did_what(entries: &Result<ListAuditEntriesResponse, Failure>, id: &str) -> Markup {
    html! {
        h2 { "Who did what" }
        (or_reason(entries, |page| html! {
            @if page.entries.is_empty() { p { "No admin did anything with this account." } } @else {
                (audit::table(&page.entries))
            }
            p .more { a href=(url(HttpPath::ConsoleAudit, &[("account", id)])) { "All of it" } }
        }))
    }
}
