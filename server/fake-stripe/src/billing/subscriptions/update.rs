//! `POST /v1/subscriptions/{id}`: changes items, metadata, the end of a trial, the pause of collection, and the time of
//! cancellation.

use serde_json::Value;

use super::change_request::{Change, Proration, check_payment_params, take_anchor};
use super::pause_collection::PauseChange;
use super::trial::{self, AtEnd, Phase, TrialEnd};
use super::{Subscription, item_changes};
use crate::api_version::ApiVersion;
use crate::billing::state::Billing;
use crate::errors::StripeError;
use crate::metadata::MetadataChange;
use crate::metering::Metering;
use crate::params::Params;

/// The new value of `cancel_at`.
enum CancelAt {
    At(i64),
    FirstPeriodEnd,
    LastPeriodEnd,
    Never,
}

impl CancelAt {
    fn take(params: &mut Params) -> Result<Option<CancelAt>, StripeError> {
        let Some(text) = params.text_or_empty("cancel_at")? else {
            return Ok(None);
        };
        Ok(Some(match text.as_str() {
            "" => CancelAt::Never,
            "min_period_end" => CancelAt::FirstPeriodEnd,
            "max_period_end" => CancelAt::LastPeriodEnd,
            "max_billed_until" => {
                return Err(
                    StripeError::unsupported("cancel_at=max_billed_until").param("cancel_at")
                );
            }
            moment => CancelAt::At(moment.parse().map_err(|_| {
                StripeError::invalid(format!("Invalid integer: {moment}"))
                    .code("parameter_invalid_integer")
                    .param("cancel_at")
            })?),
        }))
    }
}

pub(crate) fn update(
    billing: &mut Billing,
    metering: Metering<'_>,
    now: i64,
    id: &str,
    version: ApiVersion,
    mut params: Params,
) -> Result<Value, StripeError> {
    let changes = params
        .nested_list("items")?
        .into_iter()
        .map(Change::of_update)
        .collect::<Result<Vec<Change>, StripeError>>()?;
    let proration = Proration::take(&mut params, now)?;
    let cancel_at = CancelAt::take(&mut params)?;
    let at_period_end = params.boolean("cancel_at_period_end")?;
    let description = params.text_or_empty("description")?;
    let metadata = MetadataChange::take(&mut params)?;
    let details = CancellationDetails::take(&mut params)?;
    let trial_end = TrialEnd::take(&mut params, now)?;
    let at_trial_end = AtEnd::take(&mut params)?;
    let pause = PauseChange::take(&mut params, now)?;
    check_anchor(&mut params, version)?;
    check_payment_params(&mut params)?;
    params.finish()?;

    let mut subscription = billing.subscription(id)?;
    let changes_billing = !changes.is_empty()
        || cancel_at.is_some()
        || at_period_end.is_some()
        || trial_end.is_some()
        || at_trial_end.is_some()
        || pause != PauseChange::Keep;
    if subscription.is_canceled() && changes_billing {
        return Err(StripeError::refused(
            "A canceled subscription can only update its cancellation_details and metadata.",
        ));
    }
    if cancel_at.is_some() && at_period_end == Some(true) {
        return Err(StripeError::invalid(
            "You may only specify one of these parameters: cancel_at, cancel_at_period_end.",
        )
        .param("cancel_at"));
    }
    let at_an_end = at_period_end == Some(true)
        || matches!(
            cancel_at,
            Some(CancelAt::FirstPeriodEnd | CancelAt::LastPeriodEnd)
        );
    if subscription.phase == Phase::Paused && at_an_end {
        // Its period is over, and no other begins.
        return Err(StripeError::unsupported(
            "a cancellation at the period end of a paused subscription",
        ));
    }
    if let Some(CancelAt::At(moment)) = cancel_at
        && moment <= now
    {
        return Err(StripeError::invalid("cancel_at must be in the future.").param("cancel_at"));
    }
    subscription.metadata = metadata.applied_to(&subscription.metadata)?;
    if let Some(text) = description {
        subscription.description = Some(text).filter(|text| !text.is_empty());
    }
    details.apply(&mut subscription);
    subscription.at_trial_end = at_trial_end.unwrap_or(subscription.at_trial_end);
    subscription.pause_collection = pause.applied_to(subscription.pause_collection);
    if !changes.is_empty() {
        let lines = item_changes::apply(billing, metering, &mut subscription, changes, proration)?;
        item_changes::bill(billing, metering, &mut subscription, lines, proration)?;
    }
    let kind = match trial_end {
        None => "customer.subscription.updated",
        Some(end) => change_trial(billing, metering, &mut subscription, end, now)?,
    };
    set_cancellation(&mut subscription, cancel_at, at_period_end, now);
    billing.save_subscription(subscription, kind, now)
}

/// A moved anchor would end the present period early, and bill it.
fn check_anchor(params: &mut Params, version: ApiVersion) -> Result<(), StripeError> {
    match take_anchor(params, version)? {
        Some("now") => {
            Err(StripeError::unsupported("billing_cycle_anchor=now").param("billing_cycle_anchor"))
        }
        _ => Ok(()),
    }
}

/// Ends a trial now, or moves its end; returns the type of the event.
fn change_trial(
    billing: &mut Billing,
    metering: Metering<'_>,
    subscription: &mut Subscription,
    new: TrialEnd,
    now: i64,
) -> Result<&'static str, StripeError> {
    if subscription.phase != Phase::Trialing {
        // What Stripe does with the usage and fees of the period that a trial interrupts is not documented.
        return Err(StripeError::unsupported(format!(
            "trial_end on a subscription whose status is {}",
            subscription.status()
        ))
        .param("trial_end"));
    }
    let TrialEnd::At(end) = new else {
        return trial::end(billing, metering, subscription, now, false);
    };
    if subscription.anchor_is_fixed && end > subscription.anchor {
        return Err(
            StripeError::unsupported("a trial_end after the billing_cycle_anchor")
                .param("trial_end"),
        );
    }
    let before = subscription.trial.map(|trial| trial.end);
    if let Some(trial) = &mut subscription.trial {
        trial.end = end;
    }
    for item in &mut subscription.items {
        item.period.end = end;
    }
    if !subscription.anchor_is_fixed {
        subscription.anchor = end;
    }
    if subscription.cancel_at_period_end && subscription.cancel_at == before {
        subscription.cancel_at = Some(end);
    }
    trial::schedule_notice(billing, subscription, now);
    Ok("customer.subscription.updated")
}

fn set_cancellation(
    subscription: &mut Subscription,
    cancel_at: Option<CancelAt>,
    at_period_end: Option<bool>,
    now: i64,
) {
    let first = subscription.items.iter().map(|item| item.period.end).min();
    let moment = match (cancel_at, at_period_end) {
        (Some(CancelAt::At(moment)), _) => Some(moment),
        (Some(CancelAt::FirstPeriodEnd), _) => first,
        (Some(CancelAt::LastPeriodEnd), _) | (None, Some(true)) => subscription.last_period_end(),
        (Some(CancelAt::Never), _) => None,
        (None, Some(false)) if subscription.cancel_at_period_end => None,
        (None, _) => return,
    };
    subscription.cancel_at = moment;
    subscription.cancel_at_period_end = at_period_end == Some(true);
    subscription.canceled_at = moment.map(|_| now);
}

/// The values of `feedback`; the empty one unsets it.
const FEEDBACK: [&str; 9] = [
    "",
    "customer_service",
    "low_quality",
    "missing_features",
    "other",
    "switched_service",
    "too_complex",
    "too_expensive",
    "unused",
];

/// The parameter `cancellation_details`: why the customer canceled.
#[derive(Debug, Default)]
pub(crate) struct CancellationDetails {
    /// An empty text unsets a value.
    comment: Option<String>,
    feedback: Option<&'static str>,
}

impl CancellationDetails {
    pub(crate) fn take(params: &mut Params) -> Result<CancellationDetails, StripeError> {
        let Some(mut details) = params.nested("cancellation_details")? else {
            return Ok(CancellationDetails::default());
        };
        let taken = CancellationDetails {
            comment: details.text_or_empty("comment")?,
            feedback: match details.text_or_empty("feedback")? {
                None => None,
                Some(text) => {
                    let known = FEEDBACK.into_iter().find(|known| *known == text);
                    Some(known.ok_or_else(|| {
                        StripeError::invalid(format!("Invalid feedback: {text}"))
                            .param(details.name("feedback"))
                    })?)
                }
            },
        };
        details.finish()?;
        Ok(taken)
    }

    pub(crate) fn apply(self, subscription: &mut Subscription) {
        if let Some(comment) = self.comment {
            subscription.comment = Some(comment).filter(|text| !text.is_empty());
        }
        if let Some(feedback) = self.feedback {
            subscription.feedback = Some(feedback).filter(|text| !text.is_empty());
        }
    }
}
