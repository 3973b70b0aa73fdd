//! `POST /v1/subscriptions/{id}`: changes items, metadata, and the time of cancellation.

use serde_json::Value;

use super::change_request::{Change, Proration, check_payment_params};
use super::{Subscription, item_changes};
use crate::billing::products::merge;
use crate::billing::state::Billing;
use crate::errors::StripeError;
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
    let metadata = params.text_map("metadata")?;
    let details = CancellationDetails::take(&mut params)?;
    params.one_of("billing_cycle_anchor", &["unchanged"])?;
    check_payment_params(&mut params)?;
    params.finish()?;

    let mut subscription = billing.subscription(id)?;
    let changes_billing = !changes.is_empty() || cancel_at.is_some() || at_period_end.is_some();
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
    if let Some(CancelAt::At(moment)) = cancel_at
        && moment <= now
    {
        return Err(StripeError::invalid("cancel_at must be in the future.").param("cancel_at"));
    }
    merge(&mut subscription.metadata, metadata);
    if let Some(text) = description {
        subscription.description = Some(text).filter(|text| !text.is_empty());
    }
    details.apply(&mut subscription);
    if !changes.is_empty() {
        let lines = item_changes::apply(billing, metering, &mut subscription, changes, proration)?;
        item_changes::bill(billing, metering, &mut subscription, lines, proration)?;
    }
    set_cancellation(&mut subscription, cancel_at, at_period_end, now);
    billing.save_subscription(subscription, "customer.subscription.updated", now)
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

/// The parameter `cancellation_details`: why the customer canceled.
#[derive(Debug, Default)]
pub(crate) struct CancellationDetails {
    comment: Option<String>,
    feedback: Option<&'static str>,
}

impl CancellationDetails {
    pub(crate) fn take(params: &mut Params) -> Result<CancellationDetails, StripeError> {
        let Some(mut details) = params.nested("cancellation_details")? else {
            return Ok(CancellationDetails::default());
        };
        let taken = CancellationDetails {
            comment: details.text("comment")?,
            feedback: details.one_of(
                "feedback",
                &[
                    "customer_service",
                    "low_quality",
                    "missing_features",
                    "other",
                    "switched_service",
                    "too_complex",
                    "too_expensive",
                    "unused",
                ],
            )?,
        };
        details.finish()?;
        Ok(taken)
    }

    pub(crate) fn apply(self, subscription: &mut Subscription) {
        subscription.comment = self.comment.or(subscription.comment.take());
        subscription.feedback = self.feedback.or(subscription.feedback);
    }
}
