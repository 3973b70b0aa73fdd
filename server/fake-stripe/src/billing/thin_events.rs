//! Thin events, by which Stripe reports errors of its asynchronous validation of meter events. They contain the meter's
//! id and no object.

use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

use super::webhooks::Webhooks;
use crate::clock::Clock;
use crate::ids;

const ERROR_REPORT: &str = "v1.billing.meter.error_report_triggered";
const NO_METER: &str = "v1.billing.meter.no_meter_found";

/// Queues a thin event for the webhooks and returns it; `None` for an unsupported type.
pub(crate) fn send(
    webhooks: &mut Webhooks,
    clock: &Clock,
    kind: &str,
    meter: Option<&str>,
) -> Option<Value> {
    if ![ERROR_REPORT, NO_METER].contains(&kind) {
        return None;
    }
    let id = ids::billing("evt_test_");
    let created = DateTime::from_timestamp_millis(clock.now_ms())
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Millis, true);
    let mut body = json!({
        "id": id,
        "object": "v2.core.event",
        "created": created,
        "livemode": false,
        "type": kind,
    });
    // The event for a missing meter has no related object.
    if let (ERROR_REPORT, Some(body)) = (kind, body.as_object_mut()) {
        let meter = meter.unwrap_or_default();
        let related = json!({
            "id": meter,
            "type": "billing.meter",
            "url": format!("/v1/billing/meters/{meter}"),
        });
        body.insert("related_object".to_owned(), related);
    }
    let text = body.to_string();
    webhooks.enqueue(&id, kind, &text);
    Some(body)
}
