//! `/v1/billing/meters/{id}/event_summaries`: a customer's usage in a range, as a whole or by hour or day. Events appear
//! after the summary delay, since Stripe aggregates asynchronously.

use std::collections::BTreeMap;

use serde_json::{Number, Value, json};

use crate::customers::Customer;
use crate::errors::StripeError;
use crate::list::{Collection, Paging};
use crate::metering::Metering;
use crate::meters::Aggregate;
use crate::params::Params;

/// Lists the summaries of a meter and customer. `summarize_empty_ranges` is that of [`crate::Settings`].
pub(crate) fn list(
    metering: Metering<'_>,
    customers: &Collection<Customer>,
    summarize_empty_ranges: bool,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    let customer = params.required("customer")?;
    let start = params.required_integer("start_time")?;
    let end = params.required_integer("end_time")?;
    let window = params.one_of("value_grouping_window", &["hour", "day"])?;
    let paging = Paging::take(&mut params)?;
    params.finish()?;
    let (step, edge) = match window {
        Some("hour") => (3_600, "an hour boundary"),
        Some(_) => (86_400, "a UTC day boundary"),
        None => (60, "a minute boundary"),
    };
    check_range(start, end, step, edge)?;

    let meter = metering
        .meters
        .get(id)
        .ok_or_else(|| StripeError::no_such("meter", id))?;
    if !customers.contains(&customer) {
        return Err(
            StripeError::refused(format!("No such customer: '{customer}'"))
                .code("resource_missing")
                .param("customer"),
        );
    }
    let mut buckets: BTreeMap<i64, Aggregate> = BTreeMap::new();
    if window.is_none() && summarize_empty_ranges {
        buckets.insert(start, Aggregate::default());
    }
    for event in metering.events.range(&customer, id, start, end) {
        if !event.cancelled && event.received_at_ms <= metering.aggregated_until_ms {
            let bucket = match window {
                Some(_) => event
                    .timestamp
                    .saturating_sub(event.timestamp.rem_euclid(step)),
                None => start,
            };
            buckets.entry(bucket).or_default().add(event.value);
        }
    }
    let all: Vec<Value> = buckets
        .iter()
        .rev()
        .map(|(from, aggregate)| {
            let to = if window.is_some() {
                from.saturating_add(step)
            } else {
                end
            };
            json!({
                "id": summary_id(id, &customer, *from, to),
                "object": "billing.meter_event_summary",
                "aggregated_value": as_number(aggregate.value(meter.formula)),
                "end_time": to,
                "livemode": false,
                "meter": id,
                "start_time": from,
            })
        })
        .collect();
    paging.page(
        "meter event summary",
        &format!("/v1/billing/meters/{id}/event_summaries"),
        &all,
    )
}

fn check_range(start: i64, end: i64, step: i64, edge: &str) -> Result<(), StripeError> {
    for (param, time) in [("start_time", start), ("end_time", end)] {
        if time.rem_euclid(step) != 0 {
            return Err(StripeError::invalid(format!(
                "The {param} must be aligned with {edge}, and is {time}."
            ))
            .param(param));
        }
    }
    if end <= start {
        return Err(
            StripeError::invalid("The end_time must be after the start_time.").param("end_time"),
        );
    }
    Ok(())
}

/// The same summary has the same id each time, so that it can serve as a cursor.
fn summary_id(meter: &str, customer: &str, from: i64, to: i64) -> String {
    let tail = |id: &str| id.rsplit('_').next().unwrap_or_default().to_owned();
    format!(
        "mtrusg_test_{}{}{from:x}{to:x}",
        tail(meter),
        tail(customer)
    )
}

/// The nearest double, since Stripe's aggregates are doubles. Above 2^53 it is rounded.
fn as_number(value: i128) -> Value {
    let nearest: f64 = value.to_string().parse().unwrap_or_default();
    Number::from_f64(nearest).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregates_are_written_as_doubles() {
        assert_eq!(as_number(10).to_string(), "10.0");
        assert_eq!(as_number(-3).as_f64(), Some(-3.0));
        assert_eq!(
            as_number(9_007_199_254_740_993).to_string(),
            "9007199254740992.0"
        );
    }

    #[test]
    fn ranges_are_aligned_and_forwards() {
        check_range(60, 120, 60, "a minute boundary").unwrap();
        assert_eq!(
            check_range(61, 120, 60, "a minute boundary")
                .unwrap_err()
                .param
                .as_deref(),
            Some("start_time")
        );
        assert_eq!(
            check_range(0, 60, 3_600, "an hour boundary")
                .unwrap_err()
                .param
                .as_deref(),
            Some("end_time")
        );
        assert!(check_range(120, 120, 60, "a minute boundary").is_err());
    }
}
