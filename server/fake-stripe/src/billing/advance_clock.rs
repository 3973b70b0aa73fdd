//! Due work: ends of periods, trials and pauses of collection, finalizations and cancellations. They run in the order of their due times, before the next
//! request is processed.

use super::invoices::{Status, issue};
use super::state::{Billing, Due};
use super::subscriptions::trial::{self, Phase};
use crate::errors::StripeError;
use crate::metering::Metering;

/// Does all work that is due by the clock.
pub(crate) fn run_due_work(billing: &mut Billing, metering: Metering<'_>, now: i64) {
    while let Some((at, due)) = billing.take_due(now) {
        let result = match &due {
            Due::Finalization(id) => finalize(billing, metering, id, at),
            Due::Subscription(id) => end_periods(billing, metering, id, at),
            Due::TrialWillEnd(id, end) => trial::notify(billing, id, *end, at),
        };
        if let Err(error) = result {
            tracing::error!(?due, message = error.message, "due billing work failed");
        }
    }
}

/// Finalizes a draft, unless it was finalized manually or its grace period became longer.
fn finalize(
    billing: &mut Billing,
    metering: Metering<'_>,
    id: &str,
    at: i64,
) -> Result<(), StripeError> {
    let invoice = billing.invoice(id)?;
    if invoice.status == Status::Draft && invoice.finalizes_at == Some(at) {
        issue::finalize(billing, metering, id, at)?;
    }
    Ok(())
}

/// Ends the periods that end now, and the subscription if its cancellation is due.
fn end_periods(
    billing: &mut Billing,
    metering: Metering<'_>,
    id: &str,
    at: i64,
) -> Result<(), StripeError> {
    let mut subscription = billing.subscription(id)?;
    if subscription.next_due() != Some(at) {
        return Ok(());
    }
    if subscription
        .pause_collection
        .is_some_and(|pause| pause.resumes_at == Some(at))
    {
        // Before the invoice of the same moment: what is created before `resumes_at` is paused, not what is created at it.
        subscription.pause_collection = None;
        let kind = "customer.subscription.updated";
        billing.save_subscription(subscription.clone(), kind, at)?;
        if subscription.next_invoice_at() != Some(at) {
            return Ok(());
        }
    }
    let cancels = subscription.cancel_at == Some(at);
    if subscription.phase == Phase::Trialing && !cancels {
        let kind = trial::end(billing, metering, &mut subscription, at, true)?;
        billing.save_subscription(subscription, kind, at)?;
        return Ok(());
    }
    trial::discard_usage(billing, metering, &subscription, at)?;
    let draft = subscription.next_invoice(&billing.prices, at, cancels)?;
    if cancels {
        subscription.ended_at = Some(at);
        subscription.canceled_at = subscription.canceled_at.or(Some(at));
    }
    issue::create(billing, metering, &mut subscription, draft)?;
    let kind = if cancels {
        "customer.subscription.deleted"
    } else {
        "customer.subscription.updated"
    };
    billing.save_subscription(subscription, kind, at)?;
    Ok(())
}
