//! The delivery check: whether an event arrived at Stripe although its request failed. It runs before the event is sent
//! again.

use super::send_event::Requests;
use crate::{
    domain::{
        HOUR_MS, Millis,
        report::{MAX_GENERATION, Report, Transition},
        stream::Stream,
        window::{Interval, minute_of},
    },
    restore_look_up::LookUp,
    store::send_queue::SendResult,
};

/// How long until an event that was not found is checked again.
const CHECK_INTERVAL_MS: Millis = HOUR_MS;

impl Requests {
    /// Checks whether a report's event has arrived, by Stripe's total of its minute. A later event that Stripe's totals
    /// include proves that this total is current. The result's `next_attempt_at` is relative to now.
    pub(super) async fn check_delivery(&self, stream: &Stream, report: Report) -> SendResult {
        let (transition, why) = match self.find(stream, &report).await {
            Ok(found) => found,
            Err(why) => (None, why),
        };
        let error = (transition != Some(Transition::Accept)).then_some(why);
        SendResult {
            report,
            transition,
            cannot_have_arrived: false,
            error,
            next_attempt_at: CHECK_INTERVAL_MS,
        }
    }

    /// Looks up whether Stripe has a report from before a restore, together with the other such reports of its hour. The
    /// results are recorded here; the returned result changes only a report that could not be looked up.
    pub(super) async fn look_up(
        &self,
        stream: &Stream,
        report: Report,
        restored_at: Millis,
    ) -> SendResult {
        let error = match self.look_up_hour(stream, &report, restored_at).await {
            Ok(undecided) => undecided,
            Err(why) => Some(format!("could not be looked up at Stripe: {why}")),
        };
        SendResult {
            error,
            report,
            transition: None,
            cannot_have_arrived: false,
            next_attempt_at: CHECK_INTERVAL_MS,
        }
    }

    /// Returns why reports of the hour stay undecided, if some do.
    async fn look_up_hour(
        &self,
        stream: &Stream,
        report: &Report,
        restored_at: Millis,
    ) -> Result<Option<String>, String> {
        let event_name = self
            .event_name(&stream.meter)
            .ok_or_else(|| format!("meter {:?} is no longer configured", stream.meter))?;
        let now = self.store.now().await.map_err(|error| error.to_string())?;
        let hour = report.event_hour();
        let look_up = LookUp {
            store: &self.store,
            stripe: &self.stripe,
            stream,
            event_name: &event_name,
            range: Interval {
                start: hour,
                end: hour.saturating_add(HOUR_MS),
            },
            restored_at: Some(restored_at),
            records: true,
        };
        let compared = look_up.compare(now).await;
        let compared = compared.map_err(|error| error.to_string())?;
        let undecided = compared.into_iter().find(|one| one.undecided.0 > 0);
        Ok(undecided.map(|one| one.why))
    }

    /// The transition of the report, if the check decides it, and the reason. The error is why the check failed.
    async fn find(
        &self,
        stream: &Stream,
        report: &Report,
    ) -> Result<(Option<Transition>, String), String> {
        let event_name = self
            .event_name(&stream.meter)
            .ok_or_else(|| format!("meter {:?} is no longer configured", stream.meter))?;
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
        let minute = minute_of(report.event_at());
        let others = ours(minute).await?;
        if others.has_uncertain {
            return Ok(still_unknown(
                "another event of the same minute may or may not have arrived",
            ));
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
                "not found at Stripe, and already sent under the maximum number of new identifiers",
            ));
        }
        // Later than the report's last attempt, and than every other event of its minute: one of those that the total
        // does not include yet could be mistaken for the report.
        let sent_at = report.last_sent_at.unwrap_or(Millis::MAX);
        let after = others
            .last_arrived_at
            .map_or(sent_at, |arrived| sent_at.max(arrived));
        let later = self
            .store
            .find_later_report(stream, after)
            .await
            .map_err(|error| error.to_string())?;
        let Some(stamp) = later.and_then(|later| later.event_timestamp) else {
            return Ok(still_unknown(
                "not found at Stripe, and no later event proves that its totals are current",
            ));
        };
        let its_minute = minute_of(stamp);
        let expected = ours(its_minute).await?;
        // The report's minute is read again after the later event was found: both may have arrived in between.
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
            "did not arrive; sent again under a new identifier".to_owned(),
        ))
    }
}

/// The check does not decide; the reason.
fn still_unknown(why: impl Into<String>) -> (Option<Transition>, String) {
    (None, why.into())
}
