//! `/v1/billing/meters`: the event name, the aggregation and the payload keys of meters.

use serde_json::{Value, json};

use crate::clock::Clock;
use crate::errors::StripeError;
use crate::ids;
use crate::list::{Collection, Paging};
use crate::params::Params;

/// The default payload key of the customer id.
pub(crate) const DEFAULT_CUSTOMER_KEY: &str = "stripe_customer_id";
const DEFAULT_VALUE_KEY: &str = "value";

/// How a meter aggregates events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Formula {
    Sum,
    Count,
    Last,
}

impl Formula {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Formula::Sum => "sum",
            Formula::Count => "count",
            Formula::Last => "last",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Formula> {
        [Formula::Sum, Formula::Count, Formula::Last]
            .into_iter()
            .find(|formula| formula.name() == name)
    }
}

/// A meter.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) id: String,
    pub(crate) event_name: String,
    pub(crate) formula: Formula,
    pub(crate) customer_key: String,
    pub(crate) value_key: String,
    /// When it was deactivated, in seconds; `None` while it is active.
    pub(crate) deactivated_at: Option<i64>,
    display_name: String,
    /// Only control endpoints set it: events of such a meter are refused.
    pub(crate) event_time_window: Option<&'static str>,
    created: i64,
    updated: i64,
}

impl Meter {
    pub(crate) fn new(id: &str, event_name: &str, formula: Formula, created: i64) -> Meter {
        Meter {
            id: id.to_owned(),
            event_name: event_name.to_owned(),
            formula,
            customer_key: DEFAULT_CUSTOMER_KEY.to_owned(),
            value_key: DEFAULT_VALUE_KEY.to_owned(),
            deactivated_at: None,
            display_name: event_name.to_owned(),
            event_time_window: None,
            created,
            updated: created,
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        self.deactivated_at.is_none()
    }

    pub(crate) fn deactivate(&mut self, now: i64) {
        self.deactivated_at = Some(now);
        self.updated = now;
    }

    fn status(&self) -> &'static str {
        if self.is_active() {
            "active"
        } else {
            "inactive"
        }
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id,
            "object": "billing.meter",
            "created": self.created,
            "customer_mapping": { "event_payload_key": self.customer_key, "type": "by_id" },
            "default_aggregation": { "formula": self.formula.name() },
            "display_name": self.display_name,
            "event_name": self.event_name,
            "event_time_window": self.event_time_window,
            "livemode": false,
            "status": self.status(),
            "status_transitions": { "deactivated_at": self.deactivated_at },
            "updated": self.updated,
            "value_settings": { "event_payload_key": self.value_key },
        })
    }
}

/// The running aggregate of a series of values. A sum of values of 15 digits cannot overflow an `i128`.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Aggregate {
    sum: i128,
    count: i128,
    last: i128,
}

impl Aggregate {
    pub(crate) fn add(&mut self, value: i64) {
        self.sum = self.sum.saturating_add(i128::from(value));
        self.count = self.count.saturating_add(1);
        self.last = i128::from(value);
    }

    pub(crate) fn value(self, formula: Formula) -> i128 {
        match formula {
            Formula::Sum => self.sum,
            Formula::Count => self.count,
            Formula::Last => self.last,
        }
    }
}

/// The active meter of an event name; there is at most one.
pub(crate) fn active<'a>(meters: &'a Collection<Meter>, event_name: &str) -> Option<&'a Meter> {
    meters
        .newest_first()
        .find(|meter| meter.is_active() && meter.event_name == event_name)
}

pub(crate) fn create(
    meters: &mut Collection<Meter>,
    clock: &Clock,
    mut params: Params,
) -> Result<Value, StripeError> {
    let display_name = params.required("display_name")?;
    let event_name = params.required("event_name")?;
    let mut aggregation = params
        .nested("default_aggregation")?
        .ok_or_else(|| StripeError::missing_param("default_aggregation"))?;
    let formula = aggregation
        .one_of("formula", &["sum", "count", "last"])?
        .and_then(Formula::parse)
        .ok_or_else(|| StripeError::missing_param("default_aggregation[formula]"))?;
    aggregation.finish()?;
    let mut meter = Meter::new(&ids::meter(), &event_name, formula, clock.now_secs());
    meter.display_name = display_name;
    // A meter of pre-aggregated events replaces values within a window; how exactly is not documented.
    if let Some(window) = params.one_of("event_time_window", &["day", "hour"])? {
        let what = format!("event_time_window={window}");
        return Err(StripeError::unsupported(what).param("event_time_window"));
    }
    if let Some(mut mapping) = params.nested("customer_mapping")? {
        meter.customer_key = mapping.required("event_payload_key")?;
        mapping
            .one_of("type", &["by_id"])?
            .ok_or_else(|| StripeError::missing_param("customer_mapping[type]"))?;
        mapping.finish()?;
    }
    if let Some(mut settings) = params.nested("value_settings")? {
        meter.value_key = settings.required("event_payload_key")?;
        settings.finish()?;
    }
    params.finish()?;
    if active(meters, &event_name).is_some() {
        return Err(taken(&event_name));
    }
    let body = meter.json();
    meters.insert(&meter.id.clone(), meter);
    Ok(body)
}

pub(crate) fn retrieve(
    meters: &mut Collection<Meter>,
    id: &str,
    params: Params,
) -> Result<Value, StripeError> {
    params.finish()?;
    Ok(find(meters, id)?.json())
}

pub(crate) fn update(
    meters: &mut Collection<Meter>,
    clock: &Clock,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    let display_name = params.text("display_name")?;
    params.finish()?;
    let now = clock.now_secs();
    let meter = find(meters, id)?;
    if let Some(display_name) = display_name {
        meter.display_name = display_name;
        meter.updated = now;
    }
    Ok(meter.json())
}

pub(crate) fn deactivate(
    meters: &mut Collection<Meter>,
    clock: &Clock,
    id: &str,
    params: Params,
) -> Result<Value, StripeError> {
    params.finish()?;
    let now = clock.now_secs();
    let meter = find(meters, id)?;
    if !meter.is_active() {
        return Err(StripeError::refused("This meter is already inactive."));
    }
    meter.deactivate(now);
    Ok(meter.json())
}

pub(crate) fn reactivate(
    meters: &mut Collection<Meter>,
    clock: &Clock,
    id: &str,
    params: Params,
) -> Result<Value, StripeError> {
    params.finish()?;
    let now = clock.now_secs();
    let meter = find(meters, id)?;
    if meter.is_active() {
        return Err(StripeError::refused("This meter is already active."));
    }
    let event_name = meter.event_name.clone();
    if active(meters, &event_name).is_some() {
        return Err(taken(&event_name));
    }
    let meter = find(meters, id)?;
    meter.deactivated_at = None;
    meter.updated = now;
    Ok(meter.json())
}

pub(crate) fn list(meters: &Collection<Meter>, mut params: Params) -> Result<Value, StripeError> {
    let paging = Paging::take(&mut params)?;
    let status = params.one_of("status", &["active", "inactive"])?;
    params.finish()?;
    let all: Vec<Value> = meters
        .newest_first()
        .filter(|meter| status.is_none_or(|status| meter.status() == status))
        .map(Meter::json)
        .collect();
    paging.page("meter", "/v1/billing/meters", &all)
}

fn find<'a>(meters: &'a mut Collection<Meter>, id: &str) -> Result<&'a mut Meter, StripeError> {
    meters
        .get_mut(id)
        .ok_or_else(|| StripeError::no_such("meter", id))
}

fn taken(event_name: &str) -> StripeError {
    StripeError::refused(format!(
        "An active meter already exists for event name \"{event_name}\". Deactivate it first, or use another name."
    ))
    .param("event_name")
}
