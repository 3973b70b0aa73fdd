//! `usagectl audit`

use super::{
    Streams,
    exit::Failure,
    output::{Format, Rows, rfc3339},
    paging::{Paging, print_next_page},
    time_arg::{self, TimeArg, Times},
};
use crate::{AuditEntry, ListAuditEntries, UsageClient};
use clap::Args;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only entries about this account
    #[arg(long, short)]
    account: Option<String>,
    /// Only entries of the key with this id
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Only entries from this time on, such as -7d, yesterday or 2026-03-01
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse, allow_hyphen_values = true)]
    start: Option<TimeArg>,
    /// Only entries before this time
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse, allow_hyphen_values = true)]
    end: Option<TimeArg>,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let mut filter = ListAuditEntries::new();
    if let Some(account) = arguments.account {
        filter = filter.account(account);
    }
    if let Some(key) = arguments.key {
        filter = filter.key(key);
    }
    let times = Times::read(arguments.start, arguments.end)?;
    if let Some(start) = times.start {
        filter = filter.from(start);
    }
    if let Some(end) = times.end {
        filter = filter.until(end);
    }
    let page = |size, token: Option<String>| {
        let page = filter.clone().page_size(size);
        let page = page.page_token(token.unwrap_or_default());
        async move {
            let page = client.list_audit_entries(page).await?;
            Ok((page.entries, page.next_page_token))
        }
    };
    let (entries, next) = arguments.paging.read(page).await?;
    let mut rows = Rows::new(&[
        "at",
        "action",
        "account_id",
        "actor",
        "key_name",
        "address",
        "outcome",
        "message",
        "request",
        "before",
        "after",
        "action_id",
        "request_id",
    ]);
    for entry in entries {
        rows.push(cells(entry, arguments.format.json));
    }
    rows.print(arguments.format, streams)?;
    print_next_page(next, times, streams)
}

fn cells(entry: AuditEntry, is_json: bool) -> Vec<Value> {
    // Within JSON as JSON, not as a text that contains it.
    let json_of = |text: Option<String>| match (is_json, text) {
        (_, None) => Value::Null,
        (true, Some(text)) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        (false, Some(text)) => Value::String(text),
    };
    vec![
        rfc3339(entry.at),
        json!(entry.action),
        json!(entry.account_id),
        json!(entry.actor.to_string()),
        json!(entry.key_name),
        json!(entry.address),
        json!(entry.outcome.to_string()),
        json!(entry.message),
        json_of(entry.request),
        json_of(entry.before),
        json_of(entry.after),
        json!(entry.action_id),
        json!(entry.request_id),
    ]
}
