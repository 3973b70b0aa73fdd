//! Trials: a subscription is `trialing` until `trial_end`, its items have the trial as their period, and fees and usage of
//! that time are not charged. Then the first real period begins, or the subscription is paused or canceled, as
//! `trial_settings` says: customers of the fake Stripe have no payment method.
//!
//! Documented is that usage of a trial "doesn't count toward the total". Whether the invoice at its end has a line for it
//! is not; here it has none. An invoice over nothing at the start has a line for each fee; for a metered item, only in
//! the classic mode, as without a trial.

use super::Subscription;
use crate::billing::calendar::Period;
use crate::billing::invoices::issue;
use crate::billing::prices::price_of;
use crate::billing::state::{Billing, Due};
use crate::billing::usage::Visibility;
use crate::errors::StripeError;
use crate::metering::Metering;
use crate::params::Params;

const DAY_SECS: i64 = 86_400;
/// Stripe's longest trial: two years.
const MAX_SECS: i64 = 730 * DAY_SECS;
/// How long before its end `customer.subscription.trial_will_end` is sent.
const NOTICE_SECS: i64 = 3 * DAY_SECS;

/// Whether a subscription charges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Active,
    Trialing,
    /// Its trial ended without a payment method.
    Paused,
}

/// What happens at the end of a trial without a payment method.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum AtEnd {
    #[default]
    CreateInvoice,
    Cancel,
    Pause,
}

impl AtEnd {
    const NAMES: [&'static str; 3] = ["create_invoice", "cancel", "pause"];

    pub(crate) fn name(self) -> &'static str {
        match self {
            AtEnd::CreateInvoice => "create_invoice",
            AtEnd::Cancel => "cancel",
            AtEnd::Pause => "pause",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<AtEnd> {
        [AtEnd::CreateInvoice, AtEnd::Cancel, AtEnd::Pause]
            .into_iter()
            .find(|one| one.name() == name)
    }

    /// Takes `trial_settings`.
    pub(crate) fn take(params: &mut Params) -> Result<Option<AtEnd>, StripeError> {
        let Some(mut settings) = params.nested("trial_settings")? else {
            return Ok(None);
        };
        let mut behavior = settings
            .nested("end_behavior")?
            .ok_or_else(|| StripeError::missing_param("trial_settings[end_behavior]"))?;
        let name = behavior.name("missing_payment_method");
        let at_end = behavior
            .one_of("missing_payment_method", &AtEnd::NAMES)?
            .and_then(AtEnd::parse)
            .ok_or_else(|| StripeError::missing_param(&name))?;
        behavior.finish()?;
        settings.finish()?;
        Ok(Some(at_end))
    }
}

/// The parameter `trial_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TrialEnd {
    Now,
    At(i64),
}

impl TrialEnd {
    /// Takes `trial_end`.
    pub(crate) fn take(params: &mut Params, now: i64) -> Result<Option<TrialEnd>, StripeError> {
        let Some(text) = params.text("trial_end")? else {
            return Ok(None);
        };
        if text == "now" {
            return Ok(Some(TrialEnd::Now));
        }
        let at = text.parse().map_err(|_| {
            StripeError::invalid(format!("Invalid integer: {text}"))
                .code("parameter_invalid_integer")
                .param("trial_end")
        })?;
        check_end(at, now).map(|()| Some(TrialEnd::At(at)))
    }

    /// Takes `trial_end` or `trial_period_days` of a new subscription.
    pub(crate) fn take_new(params: &mut Params, now: i64) -> Result<Option<i64>, StripeError> {
        let end = TrialEnd::take(params, now)?;
        let days = params.integer("trial_period_days")?;
        match (end, days) {
            (Some(_), Some(_)) => Err(StripeError::invalid(
                "You may only specify one of these parameters: trial_end, trial_period_days.",
            )
            .param("trial_end")),
            (Some(TrialEnd::At(at)), None) => Ok(Some(at)),
            (None, Some(days)) if days > 0 => {
                let end = now.saturating_add(days.saturating_mul(DAY_SECS));
                check_end(end, now)
                    .map(|()| Some(end))
                    .map_err(|error| error.param("trial_period_days"))
            }
            // No days are no trial.
            (None, Some(0)) | (Some(TrialEnd::Now) | None, None) => Ok(None),
            (None, Some(days)) => Err(StripeError::invalid(format!(
                "Invalid non-negative integer: {days}"
            ))
            .param("trial_period_days")),
        }
    }
}

pub(crate) fn check_end(end: i64, now: i64) -> Result<(), StripeError> {
    let message = if end <= now {
        "Invalid timestamp: must be an integer Unix timestamp in the future."
    } else if end > now.saturating_add(MAX_SECS) {
        "Invalid timestamp: a trial can last at most 2 years (730 days)."
    } else {
        return Ok(());
    };
    Err(StripeError::invalid(message).param("trial_end"))
}

/// Schedules the notice of a trial's end.
pub(crate) fn schedule_notice(billing: &mut Billing, subscription: &Subscription, now: i64) {
    if let Some(trial) = subscription.trial {
        let at = trial.end.saturating_sub(NOTICE_SECS).max(now);
        let notice = Due::TrialWillEnd(subscription.id.clone(), trial.end);
        billing.schedule.insert((at, notice));
    }
}

/// Sends the notice, unless the trial ended or its end was moved.
pub(crate) fn notify(
    billing: &mut Billing,
    id: &str,
    end: i64,
    at: i64,
) -> Result<(), StripeError> {
    let subscription = billing.subscription(id)?;
    let is_current = subscription.trial.is_some_and(|trial| trial.end == end);
    if subscription.phase == Phase::Trialing && !subscription.is_canceled() && is_current {
        let body = subscription.json(&billing.prices)?;
        billing.record_event("customer.subscription.trial_will_end", at, &body, None);
    }
    Ok(())
}

/// Makes usage final that a subscription does not charge: of its trial, or of the time that it was paused.
pub(crate) fn discard_usage(
    billing: &mut Billing,
    metering: Metering<'_>,
    subscription: &Subscription,
    at: i64,
) -> Result<(), StripeError> {
    let Some(reason) = subscription.free_reason() else {
        return Ok(());
    };
    for item in &subscription.items {
        let price = price_of(&billing.prices, &item.price)?;
        if let Some(usage) = subscription.usage(item, &price, at) {
            let visibility = Visibility::received(metering);
            billing.make_final(usage, metering, visibility, Some(reason), at);
        }
    }
    Ok(())
}

/// Ends a trial that is due, as its settings say. `grace`: whether the first invoice stays a draft for a while.
pub(crate) fn end(
    billing: &mut Billing,
    metering: Metering<'_>,
    subscription: &mut Subscription,
    at: i64,
    grace: bool,
) -> Result<&'static str, StripeError> {
    // Stripe does not pause a subscription whose collection is paused.
    let at_end =
        if subscription.pause_collection.is_some() && subscription.at_trial_end == AtEnd::Pause {
            AtEnd::CreateInvoice
        } else {
            subscription.at_trial_end
        };
    discard_usage(billing, metering, subscription, at)?;
    if let Some(trial) = &mut subscription.trial {
        trial.end = at;
    }
    match at_end {
        AtEnd::CreateInvoice => {
            start_period(billing, metering, subscription, at, grace)?;
            Ok("customer.subscription.updated")
        }
        AtEnd::Cancel => {
            subscription.ended_at = Some(at);
            subscription.canceled_at = Some(at);
            Ok("customer.subscription.deleted")
        }
        AtEnd::Pause => {
            subscription.phase = Phase::Paused;
            for item in &mut subscription.items {
                item.period.end = at;
                item.used_from = at;
            }
            Ok("customer.subscription.paused")
        }
    }
}

/// Starts charging: the first period begins now, and its fees are invoiced.
pub(crate) fn start_period(
    billing: &mut Billing,
    metering: Metering<'_>,
    subscription: &mut Subscription,
    at: i64,
    grace: bool,
) -> Result<(), StripeError> {
    let billed = match (subscription.phase, subscription.trial) {
        (Phase::Trialing, Some(trial)) => trial,
        _ => Period { start: at, end: at },
    };
    subscription.phase = Phase::Active;
    if !subscription.anchor_is_fixed {
        subscription.anchor = at;
    }
    for item in &mut subscription.items {
        item.used_from = at;
        // Over: the next invoice moves it to the period that begins now.
        item.period = Period { start: at, end: at };
    }
    let mut draft = subscription.next_invoice(&billing.prices, at, false)?;
    // Usage from now to now is no line.
    draft.lines.retain(|line| line.usage.is_none());
    draft.period = billed;
    if !grace {
        draft.grace = false;
        draft.reason = "subscription_update";
    }
    issue::create(billing, metering, subscription, draft)
}
