//! `/keys`: the API keys, without their texts. For admins.

use maud::{Markup, html};
use serde_json::json;
use usage_proto::v1::{ApiKey, KeyScope, ListKeysRequest};

use super::{
    calls::Failure,
    html::{ROWS, foreign, json_url, more, time, url, words},
    layout::Page,
    visitor::Visitor,
};
use crate::domain::http_paths::HttpPath;

/// Limits of one kind that are shown of a key. The JSON has all.
const MAX_LIMITS: usize = 10;

pub(super) async fn page(visitor: &Visitor) -> Result<Page, Failure> {
    let request = ListKeysRequest {
        page_size: ROWS,
        page_token: visitor.query.text("page"),
    };
    let json = json!({ "pageSize": request.page_size, "pageToken": request.page_token });
    let page = visitor.calls.list_keys(request).await?;
    let content = html! {
        h1 { "Keys" }
        @if page.keys.is_empty() {
            p .note { "There is no API key: every program on this machine may do everything. Create the first one with " code { "usage-server keys create" } "." }
        } @else {
            (table(&page.keys))
        }
        (more(HttpPath::ConsoleKeys, &visitor.query, &page.next_page_token, Some(&json_url("AccessService/ListKeys", &json))))
    };
    Ok(Page::new("Keys", content))
}

fn table(keys: &[ApiKey]) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Keys" {
            table {
                caption { "API keys by id, also those that are not valid any more" }
                thead {
                    tr {
                        th scope="col" { "Id" }
                        th scope="col" { "Name" }
                        th scope="col" { "Role" }
                        th scope="col" { "Limited to" }
                        th scope="col" { "Created" }
                        th scope="col" { "Last used" }
                        th scope="col" { "Expires" }
                        th scope="col" { "Revoked" }
                    }
                }
                tbody {
                    @for key in keys {
                        tr {
                            th scope="row" { a href=(url(HttpPath::ConsoleAudit, &[("key", &key.id)])) { span .id { (key.id) } } }
                            td { (foreign(&key.name)) }
                            td { (words(key.role().as_str_name(), "KEY_ROLE_")) }
                            td { (limits(key.scope.as_ref())) }
                            td { (time(key.created_at)) }
                            td { (time(key.last_used_at)) }
                            td { (time(key.expires_at)) }
                            td { (time(key.revoked_at)) }
                        }
                    }
                }
            }
        }
    }
}

fn limits(scope: Option<&KeyScope>) -> Markup {
    let Some(scope) = scope else {
        return html! { "nothing" };
    };
    let kinds = [
        ("accounts", &scope.accounts),
        ("accounts that begin with", &scope.account_prefixes),
        ("meters", &scope.meters),
    ];
    html! {
        @for (kind, items) in kinds.into_iter().filter(|(_, items)| !items.is_empty()) {
            p { (kind) ": "
                @for item in items.iter().take(MAX_LIMITS) { bdi .id { (item) } " " }
                @if items.len() > MAX_LIMITS { "and " (items.len().saturating_sub(MAX_LIMITS)) " more" }
            }
        }
    }
}
