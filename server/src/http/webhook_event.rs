//! Parses the body of a webhook. Pure. Stripe sends snapshot events (`event`) and thin events (`v2.core.event`) to the
//! same endpoint.

use chrono::DateTime;
use serde_json::Value;

use crate::{
    domain::{Millis, SECOND_MS, webhook::WebhookKind},
    store::webhooks::NewWebhookEvent,
};

/// The longest accepted id or name; Stripe's are far shorter.
const MAX_NAME_BYTES: usize = 255;

/// Parses the body of an event; `None` if its kind is not relevant.
///
/// # Errors
/// What is wrong, in one sentence.
pub(crate) fn parse(body: &[u8]) -> Result<Option<NewWebhookEvent>, String> {
    let event: Value =
        serde_json::from_slice(body).map_err(|error| format!("body is not valid JSON: {error}"))?;
    let kind = WebhookKind::parse(&required(&event, "/type")?);
    if !kind.is_relevant() {
        return Ok(None);
    }
    let is_thin = match event.get("object").and_then(Value::as_str) {
        Some("event") => false,
        Some("v2.core.event") => true,
        _ => {
            return Err("body field \"object\" must be \"event\" or \"v2.core.event\"".to_owned());
        }
    };
    let (created_at, object) = if is_thin {
        let at = event.get("created").and_then(Value::as_str);
        let at = at.and_then(|text| DateTime::parse_from_rfc3339(text).ok());
        let object = name(&event, "/related_object/id")?;
        (at.map(|at| at.timestamp_millis()), object)
    } else {
        let secs = event.get("created").and_then(Value::as_i64);
        let object = name(&event, "/data/object/id")?;
        (
            secs.and_then(|secs| Millis::checked_mul(secs, SECOND_MS)),
            object,
        )
    };
    let customer = match (is_thin, &kind) {
        (true, _) => None,
        (false, WebhookKind::CustomerDeleted) => object.clone(),
        // An id, or the whole object if it is expanded.
        (false, _) => match name(&event, "/data/object/customer")? {
            None => name(&event, "/data/object/customer/id")?,
            id => id,
        },
    };
    Ok(Some(NewWebhookEvent {
        id: required(&event, "/id")?,
        kind,
        customer,
        object,
        livemode: event
            .get("livemode")
            .and_then(Value::as_bool)
            .unwrap_or(false),
        created_at: created_at.ok_or("body field \"created\" is not a time")?,
    }))
}

fn required(event: &Value, path: &str) -> Result<String, String> {
    name(event, path)?.ok_or_else(|| format!("body has no text at {path}"))
}

/// An id or a name; `None` if it is absent.
fn name(event: &Value, path: &str) -> Result<Option<String>, String> {
    let Some(text) = event.pointer(path).and_then(Value::as_str) else {
        return Ok(None);
    };
    let is_name = (1..=MAX_NAME_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_name {
        Ok(Some(text.to_owned()))
    } else {
        Err(format!(
            "body field {path} must be 1 to {MAX_NAME_BYTES} visible ASCII characters"
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn snapshot(kind: &str, object: &Value) -> Value {
        json!({
            "id": "evt_1", "object": "event", "created": 1_700_000_000, "livemode": true, "type": kind,
            "data": { "object": object },
        })
    }

    #[test]
    fn a_snapshot_names_its_object_and_its_customer() {
        let event = |kind, object| {
            let body = snapshot(kind, &object).to_string();
            parse(body.as_bytes()).unwrap().unwrap()
        };
        let invoice = event(
            "invoice.created",
            json!({ "id": "in_1", "customer": "cus_1" }),
        );
        assert_eq!(
            invoice,
            NewWebhookEvent {
                id: "evt_1".to_owned(),
                kind: WebhookKind::InvoiceCreated,
                customer: Some("cus_1".to_owned()),
                object: Some("in_1".to_owned()),
                livemode: true,
                created_at: 1_700_000_000_000,
            }
        );
        let expanded = event(
            "customer.subscription.updated",
            json!({ "id": "sub_1", "customer": { "id": "cus_2" } }),
        );
        assert_eq!(expanded.customer.as_deref(), Some("cus_2"));
        let deleted = event("customer.deleted", json!({ "id": "cus_3" }));
        assert_eq!(deleted.customer.as_deref(), Some("cus_3"));
    }

    #[test]
    fn a_thin_event_names_its_meter() {
        let body = json!({
            "id": "evt_test_1", "object": "v2.core.event", "created": "2026-11-22T10:00:00.123Z",
            "livemode": false, "type": "v1.billing.meter.error_report_triggered",
            "related_object": { "id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1" },
        });
        let event = parse(body.to_string().as_bytes()).unwrap().unwrap();
        assert_eq!(event.object.as_deref(), Some("mtr_1"));
        assert_eq!(event.customer, None);
        assert_eq!(event.created_at.rem_euclid(SECOND_MS), 123);
    }

    #[test]
    fn an_invalid_body_is_refused() {
        let mut bodies = vec![json!([]), json!({}), json!("event")];
        for (field, value) in [
            ("id", json!("")),
            ("id", json!("a\0b")),
            ("id", json!("x".repeat(256))),
            ("object", json!("customer")),
            ("created", json!("yesterday")),
            ("created", json!(i64::MAX)),
            ("type", json!(7)),
        ] {
            let mut body = snapshot("invoice.paid", &json!({}));
            body[field] = value;
            bodies.push(body);
        }
        for body in bodies {
            assert!(parse(body.to_string().as_bytes()).is_err(), "{body}");
        }
        assert!(parse(b"{").is_err());
    }

    #[test]
    fn an_event_that_is_not_needed_is_ignored_even_if_its_names_are_invalid() {
        let body = snapshot("charge.failed", &json!({ "id": "a price" })).to_string();
        assert_eq!(parse(body.as_bytes()), Ok(None));
    }

    proptest! {
        #[test]
        fn an_arbitrary_body_is_refused_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(parse(&body).is_err());
        }
    }
}
