//! `/v1/billing/meter_events`: usage events, stored once for each identifier.
//!
//! Errors follow what is known of Stripe's synchronous responses:
//! - a repeated identifier: `An event already exists with identifier X.`, type `invalid_request_error`, and no code, as
//!   seen in production;
//! - no active meter: `No active meter found for event name "X".`, as seen in production;
//! - no such customer: `No such customer: 'X'` with `resource_missing`, as everywhere in Stripe's v1 API;
//! - everything else: 400 with the name that Stripe documents for the same fault in its error reports, such as
//!   `timestamp_too_far_in_past`. [`crate::Settings::bare_error_codes`] leaves these names out, and then an archived
//!   meter reads like an absent one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};

use crate::api_version::ApiVersion;
use crate::clock::Clock;
use crate::customers::Customer;
use crate::errors::StripeError;
use crate::ids;
use crate::list::Collection;
use crate::meters::{self, Formula, Meter};
use crate::params::Params;

/// How long an identifier stays taken, and an event can be cancelled: 24 hours.
pub(crate) const UNIQUE_FOR_MS: i64 = 24 * 60 * 60 * 1_000;
const OLDEST_SECS: i64 = 35 * 24 * 60 * 60;
const NEWEST_SECS: i64 = 5 * 60;
const TOO_MANY_DIGITS: &str = "meter_event_value_too_many_digits";
const MAX_VALUE_DIGITS: usize = 15;

/// One accepted event.
#[derive(Debug)]
pub(crate) struct MeterEvent {
    pub(crate) identifier: String,
    pub(crate) event_name: String,
    pub(crate) customer: String,
    pub(crate) value: i64,
    /// When the usage happened, in seconds.
    pub(crate) timestamp: i64,
    pub(crate) received_at_ms: i64,
    pub(crate) cancelled: bool,
}

/// All accepted events, found by identifier, and by customer and meter in the order of their timestamps.
#[derive(Debug)]
pub(crate) struct EventStore {
    /// Whether errors omit their code; see [`crate::Settings::bare_error_codes`].
    pub(crate) bare_error_codes: bool,
    /// Events rejected because their identifier was already used.
    pub(crate) duplicates_refused: u64,
    max_events: usize,
    events: Vec<MeterEvent>,
    /// The latest event of each identifier: an older one may have had it more than 24 hours before.
    by_identifier: HashMap<String, usize>,
    series: HashMap<(String, String), BTreeSet<(i64, usize)>>,
}

impl EventStore {
    /// An empty store for at most this many events.
    pub(crate) fn new(max_events: usize, bare_error_codes: bool) -> EventStore {
        EventStore {
            bare_error_codes,
            duplicates_refused: 0,
            max_events,
            events: Vec::new(),
            by_identifier: HashMap::new(),
            series: HashMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &MeterEvent> {
        self.events.iter()
    }

    /// The latest event with this identifier.
    pub(crate) fn find(&self, identifier: &str) -> Option<&MeterEvent> {
        self.events.get(*self.by_identifier.get(identifier)?)
    }

    pub(crate) fn find_mut(&mut self, identifier: &str) -> Option<&mut MeterEvent> {
        self.events.get_mut(*self.by_identifier.get(identifier)?)
    }

    /// The events of a customer and meter with `from <= timestamp < to`, by timestamp, then by receipt.
    pub(crate) fn range(
        &self,
        customer: &str,
        meter: &str,
        from: i64,
        to: i64,
    ) -> impl Iterator<Item = &MeterEvent> {
        self.numbered_range(customer, meter, from, to)
            .map(|(_, event)| event)
    }

    /// The same, with each event's index in the order of receipt.
    pub(crate) fn numbered_range(
        &self,
        customer: &str,
        meter: &str,
        from: i64,
        to: i64,
    ) -> impl Iterator<Item = (usize, &MeterEvent)> {
        self.series
            .get(&(customer.to_owned(), meter.to_owned()))
            .into_iter()
            // An empty or backward range would panic.
            .filter(move |_| from < to)
            .flat_map(move |series| series.range((from, 0)..(to, 0)))
            .filter_map(|(_, index)| Some((*index, self.events.get(*index)?)))
    }

    fn push(&mut self, meter: &str, event: MeterEvent) {
        let index = self.events.len();
        self.by_identifier.insert(event.identifier.clone(), index);
        self.series
            .entry((event.customer.clone(), meter.to_owned()))
            .or_default()
            .insert((event.timestamp, index));
        self.events.push(event);
    }
}

pub(crate) fn create(
    events: &mut EventStore,
    meters: &Collection<Meter>,
    customers: &Collection<Customer>,
    clock: &Clock,
    version: ApiVersion,
    mut params: Params,
) -> Result<Value, StripeError> {
    let event_name = params.required("event_name")?;
    let payload = params
        .text_map("payload")?
        .ok_or_else(|| StripeError::missing_param("payload"))?;
    let identifier = params.text("identifier")?;
    let timestamp = params.integer("timestamp")?;
    params.finish()?;

    let bare = events.bare_error_codes;
    let (meter, customer, value) = read_payload(meters, customers, &event_name, &payload)
        .map_err(|error| apply_version(error, version))
        .map_err(|error| apply_code_setting(error, bare))?;
    let now = clock.now_secs();
    let timestamp = timestamp.unwrap_or(now);
    check_timestamp(timestamp, now).map_err(|error| apply_code_setting(error, bare))?;
    let now_ms = clock.now_ms();
    let identifier = identifier.unwrap_or_else(ids::meter_event);
    let taken = events
        .find(&identifier)
        .is_some_and(|event| now_ms.saturating_sub(event.received_at_ms) < UNIQUE_FOR_MS);
    if taken {
        events.duplicates_refused = events.duplicates_refused.saturating_add(1);
        return Err(StripeError::refused(format!(
            "An event already exists with identifier {identifier}."
        )));
    }
    if events.len() >= events.max_events {
        return Err(StripeError::unsupported(format!(
            "more than {} meter events: restart it, or raise `max_events`",
            events.max_events
        )));
    }
    let body = json!({
        "object": "billing.meter_event",
        "created": now,
        "event_name": event_name,
        "identifier": identifier,
        "livemode": false,
        "payload": payload,
        "timestamp": timestamp,
    });
    events.push(
        &meter,
        MeterEvent {
            identifier,
            event_name,
            customer,
            value,
            timestamp,
            received_at_ms: now_ms,
            cancelled: false,
        },
    );
    Ok(body)
}

/// Finds the meter, the customer and the value of an event.
fn read_payload(
    meters: &Collection<Meter>,
    customers: &Collection<Customer>,
    event_name: &str,
    payload: &BTreeMap<String, String>,
) -> Result<(String, String, i64), StripeError> {
    let Some(meter) = meters::active(meters, event_name) else {
        let archived = meters
            .newest_first()
            .any(|meter| meter.event_name == event_name);
        let code = if archived {
            "archived_meter"
        } else {
            "no_meter"
        };
        return Err(StripeError::refused(format!(
            "No active meter found for event name \"{event_name}\"."
        ))
        .code(code)
        .param("event_name"));
    };
    if let Some(window) = meter.event_time_window {
        return Err(StripeError::unsupported(format!(
            "events of a meter with event_time_window={window}"
        )));
    }
    let customer_param = format!("payload[{}]", meter.customer_key);
    let Some(customer) = payload.get(&meter.customer_key).filter(|id| !id.is_empty()) else {
        return Err(StripeError::refused(format!(
            "The event payload has no customer under {}.",
            meter.customer_key
        ))
        .code("meter_event_no_customer_defined")
        .param(customer_param));
    };
    if customers
        .get(customer)
        .is_none_or(|customer| customer.deleted)
    {
        return Err(
            StripeError::refused(format!("No such customer: '{customer}'"))
                .code("resource_missing")
                .param(customer_param),
        );
    }
    let value = match payload.get(&meter.value_key) {
        Some(text) => parse_value(text)
            .map_err(|error| error.param(format!("payload[{}]", meter.value_key)))?,
        // A meter that counts events needs no value; each event is worth one.
        None if meter.formula == Formula::Count => 1,
        None => {
            return Err(StripeError::refused(format!(
                "The event payload has no value under {}.",
                meter.value_key
            ))
            .code("meter_event_value_not_found")
            .param(format!("payload[{}]", meter.value_key)));
        }
    };
    Ok((meter.id.clone(), customer.clone(), value))
}

/// A whole number of at most 15 digits, which a double represents exactly.
fn parse_value(text: &str) -> Result<i64, StripeError> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(StripeError::refused(format!(
            "The value in the event payload must be a whole number. Received {text}."
        ))
        .code("meter_event_invalid_value"));
    }
    let too_long = || {
        StripeError::refused(format!(
            "The value in the event payload can have at most {MAX_VALUE_DIGITS} digits. Received {text}."
        ))
        .code(TOO_MANY_DIGITS)
    };
    if digits.len() > MAX_VALUE_DIGITS {
        return Err(too_long());
    }
    text.parse().map_err(|_| too_long())
}

/// Older versions took more digits, and rounded them; how is not documented.
fn apply_version(error: StripeError, version: ApiVersion) -> StripeError {
    if version.long_values && error.code.as_deref() == Some(TOO_MANY_DIGITS) {
        return StripeError::unsupported(format!("a value of more than {MAX_VALUE_DIGITS} digits"));
    }
    error
}

fn check_timestamp(timestamp: i64, now: i64) -> Result<(), StripeError> {
    if timestamp < now.saturating_sub(OLDEST_SECS) {
        return Err(StripeError::refused(
            "The timestamp is too far in the past. It must be within the past 35 calendar days.",
        )
        .code("timestamp_too_far_in_past")
        .param("timestamp"));
    }
    if timestamp > now.saturating_add(NEWEST_SECS) {
        return Err(StripeError::refused(
            "The timestamp is too far in the future. It must be at most 5 minutes ahead.",
        )
        .code("timestamp_in_future")
        .param("timestamp"));
    }
    Ok(())
}

/// Removes the codes that only Stripe's error reports are known to carry.
fn apply_code_setting(mut error: StripeError, bare: bool) -> StripeError {
    if bare && !error.is_unsupported() && error.code.as_deref() != Some("resource_missing") {
        error.code = None;
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_of_fifteen_digits_are_values() {
        assert_eq!(parse_value("0").unwrap(), 0);
        assert_eq!(parse_value("-3").unwrap(), -3);
        assert_eq!(parse_value("999999999999999").unwrap(), 999_999_999_999_999);
        for text in ["", "-", "1.5", "1e3", "+1", " 1", "one", "--1", "٣"] {
            assert_eq!(
                parse_value(text).unwrap_err().code.as_deref(),
                Some("meter_event_invalid_value"),
                "{text}"
            );
        }
        let code = parse_value("1000000000000000").unwrap_err().code;
        assert_eq!(code.as_deref(), Some("meter_event_value_too_many_digits"));
    }

    #[test]
    fn timestamps_have_two_edges() {
        let now = 1_700_000_000;
        check_timestamp(now - 35 * 86_400, now).unwrap();
        check_timestamp(now + 300, now).unwrap();
        let error = check_timestamp(now - 35 * 86_400 - 1, now).unwrap_err();
        assert_eq!(error.code.as_deref(), Some("timestamp_too_far_in_past"));
        assert_eq!(
            check_timestamp(now + 301, now).unwrap_err().code.as_deref(),
            Some("timestamp_in_future")
        );
    }
}
