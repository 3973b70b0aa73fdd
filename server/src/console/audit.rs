//! `/audit`: what admins did, tried to do and were refused. For admins.

use chrono_tz::Tz;
use maud::{Markup, html};
use serde_json::json;
use usage_proto::v1::{AuditActor, AuditEntry, AuditOutcome, ListAuditEntriesRequest};

use super::{
    calls::Failure,
    html::{ROWS, account_link, field, foreign, json_url, more, rfc3339, time, words},
    layout::Page,
    visitor::Visitor,
};
use crate::domain::http_paths::HttpPath;

pub(super) async fn page(visitor: &Visitor) -> Result<Page, Failure> {
    let query = &visitor.query;
    let request = ListAuditEntriesRequest {
        from: query.time("from", Tz::UTC)?,
        until: query.time("until", Tz::UTC)?,
        key_id: query.text("key"),
        account_id: query.text("account"),
        page_size: ROWS,
        page_token: query.text("page"),
    };
    let json = json!({
        "from": request.from.map(rfc3339),
        "until": request.until.map(rfc3339),
        "keyId": request.key_id,
        "accountId": request.account_id,
        "pageSize": request.page_size,
        "pageToken": request.page_token,
    });
    let page = visitor.calls.list_audit_entries(request).await?;
    let content = html! {
        h1 { "Audit" }
        form .filters method="get" action=(HttpPath::ConsoleAudit.name()) role="search" {
            (field(query, "account", "Account", ""))
            (field(query, "key", "Id of the key", ""))
            (field(query, "from", "From", "2026-03-01"))
            (field(query, "until", "Before", "2026-04-01"))
            button type="submit" { "Show" }
        }
        @if page.entries.is_empty() {
            p { "There is no such entry." }
        } @else {
            (table(&page.entries))
        }
        (more(HttpPath::ConsoleAudit, query, &page.next_page_token, Some(&json_url("AccessService/ListAuditEntries", &json))))
    };
    Ok(Page::new("Audit", content))
}

pub(super) fn table(entries: &[AuditEntry]) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Audit entries" {
            table {
                caption { "What admins did, the latest first" }
                thead {
                    tr {
                        th scope="col" { "When" }
                        th scope="col" { "Who" }
                        th scope="col" { "Action" }
                        th scope="col" { "Account" }
                        th scope="col" { "Outcome" }
                        th scope="col" { "Details" }
                    }
                }
                tbody { @for entry in entries { (row(entry)) } }
            }
        }
    }
}

fn row(entry: &AuditEntry) -> Markup {
    let class = match entry.outcome() {
        AuditOutcome::Failed => "bad",
        AuditOutcome::Begun => "warn",
        _ => "plain",
    };
    html! {
        tr {
            th scope="row" { (time(entry.at)) }
            td {
                @match entry.actor() {
                    AuditActor::Anyone => "anyone",
                    _ => (foreign(&entry.key_name)),
                }
                " " span .faint { (foreign(&entry.address)) }
            }
            td { (foreign(&entry.action)) }
            td { @if entry.account_id.is_empty() { (foreign("")) } @else { (account_link(&entry.account_id)) } }
            td { span class=(class) { (words(entry.outcome().as_str_name(), "AUDIT_OUTCOME_")) } }
            td { (details(entry)) }
        }
    }
}

fn details(entry: &AuditEntry) -> Markup {
    let parts = [
        ("Message", &entry.message),
        ("Request", &entry.request),
        ("Before", &entry.before),
        ("After", &entry.after),
        ("Id of the request", &entry.request_id),
    ];
    html! {
        details {
            summary { "Show" }
            @for (name, text) in parts.into_iter().filter(|(_, text)| !text.is_empty()) {
                p { (name) }
                pre { bdi { (text) } }
            }
        }
    }
}
