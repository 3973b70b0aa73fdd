//! Looking before sending again: whether an event that was never answered has arrived at Stripe.

use super::reporter::Reporter;
use crate::{
    domain::stream::Stream,
    domain::{
        HOUR_MS, Millis,
        report::{MAX_GENERATION, Transition},
    },
    store::{
        reports::Report,
        send::{SendResult, minute_of},
    },
    stripe::Stripe,
};

/// How long until an event that is nowhere to be found is looked for again.
const LOOK_AGAIN_MS: Millis = HOUR_MS;

/// Looks whether an event that was never answered has arrived: its minute's total says so, and a later
/// event that Stripe shows already proves that the total is not merely behind.
pub(super) async fn check_delivery(
    reporter: &Reporter,
    stripe: &Stripe,
    stream: &Stream,
    report: Report,
) -> SendResult {
    let (event, why) = match find(reporter, stripe, stream, &report).await {
        Ok((event, why)) => (event, why),
        Err(why) => (None, why),
    };
    let error = (event != Some(Transition::Accept)).then_some(why);
    let next_attempt_at = reporter.clock.now().saturating_add(LOOK_AGAIN_MS);
    SendResult {
        report,
        event,
        is_surely_absent: false,
        error,
        next_attempt_at,
    }
}

/// What is known of the event, and why in words; an error is why nothing is known.
async fn find(
    reporter: &Reporter,
    stripe: &Stripe,
    stream: &Stream,
    report: &Report,
) -> Result<(Option<Transition>, String), String> {
    let event_name = reporter
        .options
        .meters
        .find(&stream.meter)
        .map(|meter| meter.event_name.to_string())
        .ok_or_else(|| format!("meter {:?} is not configured any more", stream.meter))?;
    let total = async |minute| {
        let answer = stripe.total(&event_name, &stream.customer, minute).await;
        answer.map_err(|failure| failure.message().to_owned())
    };
    let ours = async |minute| {
        let sum = reporter.store.minute_sum(stream, minute, report).await;
        sum.map_err(|error| error.to_string())
    };
    let minute = minute_of(report.event_timestamp.unwrap_or(report.window_start));
    let others = ours(minute).await?;
    if others.is_undecided {
        return Ok((None, "another undecided event shares its minute".to_owned()));
    }
    let held = total(minute).await?;
    if held == others.arrived.saturating_add(report.quantity) {
        return Ok((Some(Transition::Accept), "found at Stripe".to_owned()));
    }
    if held != others.arrived {
        let expected = others.arrived;
        return Ok((
            None,
            format!("Stripe holds {held} in its minute; {expected} without it were expected"),
        ));
    }
    if report.generation >= MAX_GENERATION {
        return Ok((
            None,
            "not found at Stripe, and sent anew as often as is allowed".to_owned(),
        ));
    }
    // Later than the report's last attempt, and than whatever shares its minute: while that is not shown
    // yet, it would pass for the report itself.
    let sent_at = report.last_sent_at.unwrap_or(Millis::MAX);
    let after = others
        .last_arrived_at
        .map_or(sent_at, |arrived| sent_at.max(arrived));
    let witness = reporter
        .store
        .find_witness(stream, after)
        .await
        .map_err(|error| error.to_string())?;
    let Some(stamp) = witness.and_then(|witness| witness.event_timestamp) else {
        return Ok((
            None,
            "not found at Stripe, and no later event proves that its totals are current".to_owned(),
        ));
    };
    let its_minute = minute_of(stamp);
    let expected = ours(its_minute).await?;
    // Its own minute is asked once more, after the witness has been seen: both may have come in between.
    if expected.is_undecided
        || total(its_minute).await? != expected.arrived
        || total(minute).await? != held
    {
        return Ok((
            None,
            "not found at Stripe, whose totals are behind".to_owned(),
        ));
    }
    Ok((
        Some(Transition::SendUnderNewIdentifier),
        "proven not to have arrived; sent under a new identifier".to_owned(),
    ))
}
