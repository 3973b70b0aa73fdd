//! `/v1/events`: snapshot events, each with its object as it was at that time.

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::errors::StripeError;
use crate::ids;
use crate::list::{Created, Paging};
use crate::params::Params;
use crate::settings::API_VERSION;

/// Stripe lists events of the last 30 days.
const LISTED_FOR_SECS: i64 = 30 * 24 * 60 * 60;
/// Beyond this number the oldest events are dropped.
const MAX_EVENTS: usize = 20_000;

/// The recorded events, oldest first.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    list: VecDeque<LoggedEvent>,
}

/// A recorded event, as Stripe writes it.
#[derive(Debug)]
struct LoggedEvent {
    kind: &'static str,
    created: i64,
    body: Value,
}

impl EventLog {
    /// Appends an event about an object, with its changed attributes as they were; returns its id and its body.
    pub(crate) fn append(
        &mut self,
        kind: &'static str,
        created: i64,
        object: &Value,
        previous: Option<&Value>,
    ) -> (String, String) {
        let mut data = json!({ "object": object });
        if let (Some(previous), Some(data)) = (previous, data.as_object_mut()) {
            data.insert("previous_attributes".to_owned(), previous.clone());
        }
        let id = ids::billing("evt_");
        let body = json!({
            "id": id,
            "object": "event",
            "api_version": API_VERSION,
            "created": created,
            "data": data,
            "livemode": false,
            "pending_webhooks": 0,
            "request": { "id": null, "idempotency_key": null },
            "type": kind,
        });
        let text = body.to_string();
        let oldest = created.saturating_sub(LISTED_FOR_SECS);
        while self.list.len() >= MAX_EVENTS
            || self.list.front().is_some_and(|one| one.created < oldest)
        {
            self.list.pop_front();
        }
        self.list.push_back(LoggedEvent {
            kind,
            created,
            body,
        });
        (id, text)
    }

    /// The type and the body of an event.
    pub(crate) fn find(&self, id: &str) -> Option<(&'static str, String)> {
        self.list
            .iter()
            .find(|one| one.has_id(id))
            .map(|one| (one.kind, one.body.to_string()))
    }

    /// The listed events, newest first.
    fn recent(&self, now: i64) -> impl Iterator<Item = &LoggedEvent> {
        let oldest = now.saturating_sub(LISTED_FOR_SECS);
        self.list
            .iter()
            .rev()
            .filter(move |one| one.created >= oldest)
    }
}

impl LoggedEvent {
    fn has_id(&self, id: &str) -> bool {
        self.body.get("id").and_then(Value::as_str) == Some(id)
    }
}

pub(crate) fn retrieve(
    events: &EventLog,
    now: i64,
    id: &str,
    params: Params,
) -> Result<Value, StripeError> {
    params.finish()?;
    events
        .recent(now)
        .find(|one| one.has_id(id))
        .map(|one| one.body.clone())
        .ok_or_else(|| StripeError::no_such("event", id))
}

pub(crate) fn list(events: &EventLog, now: i64, mut params: Params) -> Result<Value, StripeError> {
    let paging = Paging::take(&mut params)?;
    let kind = params.text("type")?;
    let kinds = params.text_list("types")?;
    let created = Created::take(&mut params)?;
    params.finish()?;
    let matches = |pattern: &str, kind: &str| match pattern.strip_suffix('*') {
        Some(prefix) => kind.starts_with(prefix),
        None => pattern == kind,
    };
    let all: Vec<Value> = events
        .recent(now)
        .filter(|one| {
            kind.as_ref()
                .is_none_or(|pattern| matches(pattern, one.kind))
        })
        .filter(|one| kinds.is_empty() || kinds.iter().any(|pattern| matches(pattern, one.kind)))
        .filter(|one| created.contains(one.created))
        .map(|one| one.body.clone())
        .collect();
    paging.page("event", "/v1/events", &all)
}
