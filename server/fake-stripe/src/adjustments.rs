//! `/v1/billing/meter_event_adjustments`: cancels one event within 24 hours of its receipt.

use serde_json::{Value, json};

use crate::clock::Clock;
use crate::errors::StripeError;
use crate::meter_events::{EventStore, UNIQUE_FOR_MS};
use crate::params::Params;

/// Cancels an event. Stripe returns `pending` and cancels soon after; the fake Stripe cancels at once.
pub(crate) fn create(
    events: &mut EventStore,
    clock: &Clock,
    mut params: Params,
) -> Result<Value, StripeError> {
    let event_name = params.required("event_name")?;
    params
        .one_of("type", &["cancel"])?
        .ok_or_else(|| StripeError::missing_param("type"))?;
    let mut cancel = params
        .nested("cancel")?
        .ok_or_else(|| StripeError::missing_param("cancel"))?;
    let identifier = cancel.required("identifier")?;
    cancel.finish()?;
    params.finish()?;

    let now_ms = clock.now_ms();
    let event = events
        .find_mut(&identifier)
        .filter(|event| event.event_name == event_name)
        .ok_or_else(|| {
            StripeError::refused(format!("No such meter event: '{identifier}'"))
                .code("resource_missing")
                .param("cancel[identifier]")
        })?;
    if now_ms.saturating_sub(event.received_at_ms) >= UNIQUE_FOR_MS {
        return Err(StripeError::refused(format!(
            "The meter event {identifier} was received more than 24 hours ago and can no longer be cancelled."
        ))
        .param("cancel[identifier]"));
    }
    if event.cancelled {
        return Err(StripeError::refused(format!(
            "The meter event {identifier} is already cancelled."
        ))
        .param("cancel[identifier]"));
    }
    event.cancelled = true;
    Ok(json!({
        "object": "billing.meter_event_adjustment",
        "cancel": { "identifier": identifier },
        "event_name": event_name,
        "livemode": false,
        "status": "pending",
        "type": "cancel",
    }))
}
