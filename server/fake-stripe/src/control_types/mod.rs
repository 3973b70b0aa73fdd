//! JSON bodies of the control endpoints, shared by server and client; `billing` has those of billing.

pub(crate) mod billing;

use serde::{Deserialize, Serialize};

/// A stored meter event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEvent {
    /// The event's identifier.
    pub identifier: String,
    /// The event name, which selects the meter.
    pub event_name: String,
    /// The customer's id.
    pub customer: String,
    /// The value; 1 for an event of a `count` meter that has none.
    pub value: i64,
    /// When the usage happened, in seconds since the Unix epoch.
    pub timestamp: i64,
    /// When the fake Stripe received it, by its clock, in milliseconds since the Unix epoch.
    pub received_at_ms: i64,
    /// Whether an adjustment cancelled it.
    pub cancelled: bool,
}

/// The sum of a customer's events of one name, without cancelled events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TotalSnapshot {
    pub(crate) customer: String,
    pub(crate) event_name: String,
    pub(crate) total: i64,
}

/// A customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomerSnapshot {
    /// The customer's id.
    pub id: String,
    /// Whether it was deleted.
    pub deleted: bool,
}

/// A meter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterSnapshot {
    /// The meter's id.
    pub id: String,
    /// The name of the events that it aggregates.
    pub event_name: String,
    /// How it aggregates: `sum`, `count` or `last`.
    pub formula: String,
    /// Whether it is active.
    pub active: bool,
}

/// One request below `/v1`, as received.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedRequest {
    /// Its number; the first request is 1.
    pub sequence: u64,
    /// When it arrived, by the fake Stripe's clock, in milliseconds since the Unix epoch.
    pub received_at_ms: i64,
    /// The HTTP method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The parameters of query and body, decoded, with their brackets.
    pub params: Vec<(String, String)>,
    /// The `identifier` parameter of a meter event.
    pub identifier: Option<String>,
    /// The customer that the request is about.
    pub customer: Option<String>,
    /// The event name that the request is about.
    pub event_name: Option<String>,
    /// The `Idempotency-Key` header.
    pub idempotency_key: Option<String>,
    /// The `traceparent` header.
    pub traceparent: Option<String>,
    /// The HTTP status of the response; `None` while it runs, and if its connection was broken.
    pub status: Option<u16>,
    /// Whether processing ended, with or without a response.
    pub finished: bool,
    /// Whether the response was stored under the same idempotency key and replayed.
    pub replayed: bool,
    /// The scripted fault that was applied, as JSON.
    pub fault: Option<String>,
}

/// Counters since the fake Stripe started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Requests below `/v1`.
    pub requests: u64,
    /// Stored meter events, including cancelled ones.
    pub events: u64,
    /// The highest number of concurrent meter event requests for one customer and meter. More than 1 means
    /// that a caller did not wait for a response.
    pub max_in_flight_per_customer_meter: u64,
    /// Requests rejected because another was running for the same customer and meter.
    pub lock_timeouts: u64,
    /// Requests rejected by the rate limit.
    pub rate_limited: u64,
    /// Meter events rejected because their identifier was already used.
    pub duplicates_refused: u64,
    /// Responses replayed for an idempotency key.
    pub replayed: u64,
    /// Requests rejected because their idempotency key was in use, or was used for a different request.
    pub idempotency_conflicts: u64,
    /// Requests rejected because of their API key.
    pub unauthorized: u64,
    /// Requests that a scripted fault was applied to.
    pub faults_met: u64,
}

/// The fake Stripe's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockState {
    /// Milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Whether it is frozen until it is set or advanced.
    pub frozen: bool,
}

/// A change of the clock: exactly one of the three fields.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(clippy::struct_field_names, reason = "each field names its unit")]
pub(crate) struct ClockChange {
    /// Freeze at this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) set_ms: Option<i64>,
    /// Advance by this many milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advance_ms: Option<i64>,
    /// Run with the real clock, this many milliseconds ahead of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) real_offset_ms: Option<i64>,
}

/// A change of the settings; absent fields stay unchanged.
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
    /// The id of the test clock that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) test_clock: Option<String>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) event_time_window: Option<String>,
}

/// A meter, by the event name that it is active for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeterName {
    pub(crate) event_name: String,
}

/// A named block. `blocked` is the number of requests that it blocks; requests leave it out.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BlockState {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) blocked: usize,
}

/// What to wait for: every given count must be reached.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Wait {
    /// Number of stored meter events.
    pub(crate) events: Option<usize>,
    /// Number of requests received, below `path` if given.
    pub(crate) requests: Option<u64>,
    pub(crate) path: Option<String>,
    /// Number of requests blocked by the block named `block`.
    pub(crate) blocked: Option<usize>,
    pub(crate) block: Option<String>,
    pub(crate) timeout_ms: Option<u64>,
}

/// The result of a wait, with the counts at its end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Waited {
    pub(crate) reached: bool,
    pub(crate) events: usize,
    pub(crate) requests: u64,
    pub(crate) blocked: usize,
}
