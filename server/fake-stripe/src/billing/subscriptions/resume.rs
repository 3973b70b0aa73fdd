//! `POST /v1/subscriptions/{id}/resume`: ends the pause after a trial without a payment method.
//!
//! A resumption that has to be paid first is refused: payment is not modelled. Whether Stripe charges usage of the time
//! that a subscription was paused is not documented; here it is on no invoice, since a paused subscription makes none.

use serde_json::Value;

use super::change_request::take_anchor;
use super::trial::{self, Phase};
use crate::api_version::ApiVersion;
use crate::billing::prices::price_of;
use crate::billing::state::Billing;
use crate::errors::StripeError;
use crate::metering::Metering;
use crate::params::Params;

pub(crate) fn resume(
    billing: &mut Billing,
    metering: Metering<'_>,
    now: i64,
    id: &str,
    version: ApiVersion,
    mut params: Params,
) -> Result<Value, StripeError> {
    let anchor = take_anchor(&mut params, version)?;
    // Without fees there is nothing to prorate.
    params.one_of(
        "proration_behavior",
        &["always_invoice", "create_prorations", "none"],
    )?;
    // Nor is there a payment to wait for.
    params.one_of(
        "payment_behavior",
        &["resume_on_payment_attempt", "resume_on_payment_success"],
    )?;
    params.finish()?;
    let mut subscription = billing.subscription(id)?;
    if subscription.phase != Phase::Paused || subscription.is_canceled() {
        let status = subscription.status();
        return Err(StripeError::refused(format!(
            "You can only resume a subscription whose status is paused; that of {id} is {status}."
        )));
    }
    for item in &subscription.items {
        let price = price_of(&billing.prices, &item.price)?;
        if price.meter().is_none() && item.fee(&price) != 0 {
            return Err(StripeError::unsupported(
                "resuming a subscription whose resumption invoice has to be paid",
            ));
        }
    }
    trial::discard_usage(billing, metering, &subscription, now)?;
    let fixed = subscription.anchor_is_fixed;
    subscription.anchor_is_fixed = anchor == Some("unchanged");
    trial::start_period(billing, metering, &mut subscription, now, false)?;
    subscription.anchor_is_fixed = fixed;
    if anchor == Some("unchanged") {
        // The period that surrounds now, though usage is charged from now on.
        for item in &mut subscription.items {
            let price = price_of(&billing.prices, &item.price)?;
            item.period = price.recurrence().period_at(subscription.anchor, now);
        }
    }
    let body = billing.save_subscription(subscription, "customer.subscription.updated", now)?;
    billing.record_event("customer.subscription.resumed", now, &body, None);
    Ok(body)
}
