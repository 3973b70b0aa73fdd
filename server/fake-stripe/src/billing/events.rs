//! `/v1/events`: every event with the object as it was at that time.

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::errors::StripeError;
use crate::list::{Created, Paging};
use crate::params::Params;
use crate::state::State;
use crate::{API_VERSION, ids};

/// Stripe lists events of the last 30 days.
const LISTED_FOR_SECS: i64 = 30 * 24 * 60 * 60;
/// Beyond this number the oldest events are dropped.
const MAX_EVENTS: usize = 20_000;

#[derive(Debug, Default)]
pub(crate) struct EventLog {
    list: VecDeque<LoggedEvent>,
}

#[derive(Debug)]
struct LoggedEvent {
    kind: &'static str,
    created: i64,
    body: Value,
}

impl State {
    /// Records an event and queues it for the webhooks.
    pub(crate) fn record_event(
        &mut self,
        kind: &'static str,
        created: i64,
        object: &Value,
        previous: Option<&Value>,
    ) {
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
        self.billing.webhooks.enqueue(&id, kind, &text);
        let list = &mut self.billing.events.list;
        let oldest = created.saturating_sub(LISTED_FOR_SECS);
        while list.len() >= MAX_EVENTS || list.front().is_some_and(|one| one.created < oldest) {
            list.pop_front();
        }
        list.push_back(LoggedEvent {
            kind,
            created,
            body,
        });
    }
}

impl State {
    /// Queues an event for the webhooks again; false if there is no such event.
    pub(crate) fn redeliver_event(&mut self, id: &str) -> bool {
        let known = |one: &&LoggedEvent| one.body.get("id").and_then(Value::as_str) == Some(id);
        let Some(found) = self.billing.events.list.iter().find(known) else {
            return false;
        };
        let (kind, text) = (found.kind, found.body.to_string());
        self.billing.webhooks.enqueue(id, kind, &text);
        true
    }
}

pub(crate) fn retrieve(state: &mut State, id: &str, params: Params) -> Result<Value, StripeError> {
    params.finish()?;
    recent(state)
        .find(|one| one.body.get("id").and_then(Value::as_str) == Some(id))
        .map(|one| one.body.clone())
        .ok_or_else(|| StripeError::no_such("event", id))
}

pub(crate) fn list(state: &mut State, mut params: Params) -> Result<Value, StripeError> {
    let paging = Paging::take(&mut params)?;
    let kind = params.text("type")?;
    let kinds = params.text_list("types")?;
    let created = Created::take(&mut params)?;
    params.finish()?;
    let matches = |pattern: &str, kind: &str| match pattern.strip_suffix('*') {
        Some(prefix) => kind.starts_with(prefix),
        None => pattern == kind,
    };
    let all: Vec<Value> = recent(state)
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

/// Newest first.
fn recent(state: &State) -> impl Iterator<Item = &LoggedEvent> {
    let oldest = state.clock.now_secs().saturating_sub(LISTED_FOR_SECS);
    state
        .billing
        .events
        .list
        .iter()
        .rev()
        .filter(move |one| one.created >= oldest)
}
