//! The delivery check: whether an event that Stripe did not answer for has arrived, before it is sent again.

use super::send_event::Requests;
use crate::{
    domain::{
        HOUR_MS, Millis,
        report::{MAX_GENERATION, Report, Transition},
        stream::Stream,
    },
    store::send::{SendResult, minute_of},
};

/// How long until an event that was not found is checked again.
const CHECK_INTERVAL_MS: Millis = HOUR_MS;

impl Requests {
    /// Checks whether an event that Stripe never answered for has arrived: its minute's total says so, and a later event
    /// that Stripe shows already proves that the total is current. The result's `next_attempt_at` counts from now.
    pub(super) async fn check_delivery(&self, stream: &Stream, report: Report) -> SendResult {
        let (event, why) = match self.find(stream, &report).await {
            Ok((event, why)) => (event, why),
            Err(why) => (None, why),
        };
        let error = (event != Some(Transition::Accept)).then_some(why);
        SendResult {
            report,
            event,
            is_surely_absent: false,
            error,
            next_attempt_at: CHECK_INTERVAL_MS,
        }
    }

    /// What is known of the event, and why in words; an error is why nothing is known.
    async fn find(
        &self,
        stream: &Stream,
        report: &Report,
    ) -> Result<(Option<Transition>, String), String> {
        let event_name = self
            .event_name(&stream.meter)
            .ok_or_else(|| format!("meter {:?} is not configured any more", stream.meter))?;
        let total = async |minute| {
            let answer = self
                .stripe
                .total(&event_name, &stream.customer, minute)
                .await;
            answer.map_err(|failure| failure.message().to_owned())
        };
        let ours = async |minute| {
            let sum = self.store.minute_sum(stream, minute, report).await;
            sum.map_err(|error| error.to_string())
        };
        let minute = minute_of(report.event_timestamp.unwrap_or(report.window_start));
        let others = ours(minute).await?;
        if others.has_uncertain {
            return Ok(still_unknown("another event of the same minute may or may not have arrived"));
        }
        let at_stripe = total(minute).await?;
        if at_stripe == others.arrived.saturating_add(report.quantity) {
            return Ok((Some(Transition::Accept), "found at Stripe".to_owned()));
        }
        if at_stripe != others.arrived {
            let expected = others.arrived;
            return Ok(still_unknown(format!(
                "Stripe's total of its minute is {at_stripe}; {expected} was expected without it"
            )));
        }
        if report.generation >= MAX_GENERATION {
            return Ok(still_unknown(
                "not found at Stripe, and sent under new identifiers as often as is allowed",
            ));
        }
        // Later than the report's last attempt, and than whatever shares its minute: while that is not shown
        // yet, it would pass for the report itself.
        let sent_at = report.last_sent_at.unwrap_or(Millis::MAX);
        let after = others
            .last_arrived_at
            .map_or(sent_at, |arrived| sent_at.max(arrived));
        let witness = self
            .store
            .find_witness(stream, after)
            .await
            .map_err(|error| error.to_string())?;
        let Some(stamp) = witness.and_then(|witness| witness.event_timestamp) else {
            return Ok(still_unknown(
                "not found at Stripe, and no later event proves that its totals are current",
            ));
        };
        let its_minute = minute_of(stamp);
        let expected = ours(its_minute).await?;
        // Its own minute is read once more, after the witness has been seen: both may have come in between.
        if expected.has_uncertain
            || total(its_minute).await? != expected.arrived
            || total(minute).await? != at_stripe
        {
            return Ok(still_unknown(
                "not found at Stripe, whose totals are behind",
            ));
        }
        Ok((
            Some(Transition::SendUnderNewIdentifier),
            "proved not to have arrived; sent under a new identifier".to_owned(),
        ))
    }
}

/// Nothing is decided about the event yet, and why.
fn still_unknown(why: impl Into<String>) -> (Option<Transition>, String) {
    (None, why.into())
}
