//! The forms that the control endpoints and their client exchange, as JSON.

use serde::{Deserialize, Serialize};

/// A meter event that the fake Stripe holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEvent {
    /// The event's identifier.
    pub identifier: String,
    /// The event name, by which it found its meter.
    pub event_name: String,
    /// The customer's id.
    pub customer: String,
    /// The value; 1 where a counting meter's event had none.
    pub value: i64,
    /// When the usage happened, in seconds since the Unix epoch.
    pub timestamp: i64,
    /// When the fake Stripe received it, by its own clock, in milliseconds since the Unix epoch.
    pub received_at_ms: i64,
    /// Whether an adjustment cancelled it.
    pub cancelled: bool,
}

/// The sum of a customer's events of one name, those cancelled left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TotalSnapshot {
    pub(crate) customer: String,
    pub(crate) event_name: String,
    pub(crate) total: i64,
}

/// A customer that the fake Stripe knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomerSnapshot {
    /// The customer's id.
    pub id: String,
    /// Whether it was deleted.
    pub deleted: bool,
}

/// A meter that the fake Stripe knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterSnapshot {
    /// The meter's id.
    pub id: String,
    /// The event name whose events it takes.
    pub event_name: String,
    /// How it aggregates: `sum`, `count` or `last`.
    pub formula: String,
    /// Whether it is active.
    pub active: bool,
}

/// One call below `/v1`, as it came in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedRequest {
    /// Its number; the first call is 1.
    pub sequence: u64,
    /// When it came in, by the fake Stripe's clock, in milliseconds since the Unix epoch.
    pub received_at_ms: i64,
    /// The HTTP method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The parameters of query and body, decoded, with their brackets.
    pub params: Vec<(String, String)>,
    /// The `identifier` parameter of a meter event.
    pub identifier: Option<String>,
    /// The customer that the call is about.
    pub customer: Option<String>,
    /// The event name that the call is about.
    pub event_name: Option<String>,
    /// The `Idempotency-Key` header.
    pub idempotency_key: Option<String>,
    /// The HTTP status that it was answered with; `None` while it is under way, and where its connection was broken.
    pub status: Option<u16>,
    /// Whether it is over, answered or not.
    pub finished: bool,
    /// Whether the answer was an earlier one, given again because of its idempotency key.
    pub replayed: bool,
    /// The scripted fault that it met, as JSON.
    pub fault: Option<String>,
}

/// What happened since the fake Stripe started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Calls below `/v1` that came in.
    pub requests: u64,
    /// Meter events held, the cancelled among them.
    pub events: u64,
    /// The most meter event calls that were under way at the same time for one customer and meter. More than 1 means
    /// that a caller did not wait for its answer.
    pub max_in_flight_per_customer_meter: u64,
    /// Calls refused because another was under way for the same customer and meter.
    pub lock_timeouts: u64,
    /// Calls refused because of the rate limit.
    pub rate_limited: u64,
    /// Meter events refused because their identifier was taken.
    pub duplicates_refused: u64,
    /// Answers given again because of an idempotency key.
    pub replayed: u64,
    /// Calls refused because their idempotency key was in use, or had been used for something else.
    pub idempotency_conflicts: u64,
    /// Calls refused because of their API key.
    pub unauthorized: u64,
    /// Calls that met a scripted fault.
    pub faults_met: u64,
}

/// What the fake Stripe's clock shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockState {
    /// Milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Whether it stands still until it is moved.
    pub frozen: bool,
}

/// A change of the clock: exactly one of the three.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ClockChange {
    /// Stop at this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) set_ms: Option<i64>,
    /// Move ahead by so much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advance_ms: Option<i64>,
    /// Run with real time, so many milliseconds ahead of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) real_offset_ms: Option<i64>,
}

/// A change of the settings; what is absent stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SettingsChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) summary_delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) events_per_sec: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) summarize_empty_ranges: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bare_error_codes: Option<bool>,
}

/// A customer to create under a chosen id.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCustomer {
    pub(crate) id: String,
}

/// A meter to create, under a chosen id where one is given.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMeter {
    pub(crate) event_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) formula: Option<String>,
}

/// A meter, by the event name that it is active for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeterName {
    pub(crate) event_name: String,
}

/// A hold, by its name, with the number of calls that it holds in answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BlockState {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) blocked: usize,
}

/// What to wait for: each of the three that is given must be reached.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Wait {
    /// So many meter events held.
    pub(crate) events: Option<usize>,
    /// So many calls arrived, at `path` where that is given.
    pub(crate) requests: Option<u64>,
    pub(crate) path: Option<String>,
    /// So many calls held by the hold named `hold`.
    pub(crate) blocked: Option<usize>,
    pub(crate) block: Option<String>,
    pub(crate) timeout_ms: Option<u64>,
}

/// The end of a wait, with what was there then.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Waited {
    pub(crate) reached: bool,
    pub(crate) events: usize,
    pub(crate) requests: u64,
    pub(crate) blocked: usize,
}
