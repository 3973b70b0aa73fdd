//! The verification of one stream: reads its totals by day, and where needed by hour and minute, and records the
//! results. The rules are in `domain::verification`.

use std::collections::BTreeMap;

use super::{Run, Stopped, Verifier};
use crate::{
    domain::{
        DAY_MS, Millis,
        period::rfc3339,
        report::{Report, Transition},
        stream::Stream,
        verification::{
            Certainty, DayResult, Finding, SentEvent, VerifiedDay, day_of, is_due,
            needs_finer_totals,
            proof::{transitions, transitions_at_once},
        },
        window::{Interval, minute_of},
    },
    metrics,
    store::verification::{DayVerification, EVENTS_READ, UnverifiedDay},
    stripe::event_summaries::{Grouping, Totals},
};

/// A stream, and its meter's event name at Stripe.
#[derive(Clone, Copy)]
struct Target<'a> {
    stream: &'a Stream,
    event_name: &'a str,
}

/// One UTC day of a stream, as it was read.
struct Day {
    /// Its first moment.
    start: Millis,
    /// The reports whose events may be at Stripe.
    reports: Vec<Report>,
    /// Their events, in the same order.
    events: Vec<SentEvent>,
    /// Stripe's total; `None` if it is not a whole number below 2^53.
    stripe_total: Option<i64>,
    /// The last verification.
    before: Option<VerifiedDay>,
}

impl Verifier {
    /// Verifies the days of a stream that are due.
    pub(super) async fn verify_stream(
        &self,
        stream: &Stream,
        days: &[UnverifiedDay],
        run: &mut Run,
    ) -> Result<(), Stopped> {
        let Some(meter) = self.meters.find(&stream.meter) else {
            // A meter that is no longer configured has no event name to query.
            return Ok(());
        };
        let event_name = meter.event_name.to_string();
        let target = Target {
            stream,
            event_name: &event_name,
        };
        let now = run.now;
        let Some(range) = days_range(days.iter().map(|day| day.day)) else {
            return Ok(());
        };
        let mut before: BTreeMap<Millis, VerifiedDay> = self
            .store
            .verifications(stream, range)
            .await?
            .into_iter()
            .map(|verified| (verified.day, verified))
            .collect();
        let mut due: Vec<Millis> = days
            .iter()
            .filter(|day| run.is_requested || is_due(day.oldest_at, before.get(&day.day), now))
            .map(|day| day.day)
            .collect();
        while let Some(range) = days_range(due.iter().copied()) {
            // Stripe's totals are read first. If an event is accepted in between, the totals lack it, and the next
            // check finds it.
            let totals = self.own_totals(target, range, run).await?;
            let reports = self.store.stream_events(stream, range).await?;
            let complete_until = complete_until(&reports, range);
            let mut by_day: BTreeMap<Millis, (Vec<Report>, Vec<SentEvent>)> = BTreeMap::new();
            for report in reports {
                if let Some(event) = SentEvent::of(&report, now) {
                    let (reports, events) = by_day.entry(day_of(event.timestamp)).or_default();
                    reports.push(report);
                    events.push(event);
                }
            }
            let is_cut_off = complete_until <= range.start;
            if is_cut_off {
                tracing::error!(
                    customer = %stream.customer,
                    meter = %stream.meter,
                    day = %rfc3339(range.start),
                    "a day with {EVENTS_READ} meter events or more is not verified"
                );
                // It delays no other day.
                due.retain(|day| *day > range.start);
                continue;
            }
            for start in due.iter().copied().filter(|day| *day < complete_until) {
                let (reports, events) = by_day.remove(&start).unwrap_or_default();
                let day = Day {
                    start,
                    reports,
                    events,
                    stripe_total: totals.get(&start).copied().unwrap_or(Some(0)),
                    before: before.remove(&start),
                };
                let verified = self.verify_day(target, day, run).await?;
                log_changes(&verified);
                self.store.record_verification(&verified, now).await?;
            }
            due.retain(|day| *day >= complete_until);
        }
        Ok(())
    }

    /// Stripe's totals of days. That of the day in which this service began to bill is without what another integration
    /// sent before: the moment is a full hour.
    async fn own_totals(
        &self,
        target: Target<'_>,
        range: Interval,
        run: &mut Run,
    ) -> Result<Totals, Stopped> {
        let Target { stream, event_name } = target;
        let customer = &stream.customer;
        let totals = self
            .stripe
            .totals(event_name, customer, range, Grouping::Day);
        let mut totals = self.read(run, totals).await?;
        let moment = run.billing_start.moment();
        let start = day_of(moment);
        if moment == start || !range.contains(start) {
            return Ok(totals);
        }
        let day = Interval {
            start,
            end: start.saturating_add(DAY_MS),
        };
        let hours = self
            .stripe
            .totals(event_name, customer, day, Grouping::Hour);
        let hours = self.read(run, hours).await?;
        let own = hours.iter().filter(|(hour, _)| **hour >= moment);
        let mut own = own.map(|(_, total)| *total);
        let own = own.try_fold(0_i64, |sum, total| sum.checked_add(total?));
        totals.insert(start, own);
        Ok(totals)
    }

    async fn verify_day(
        &self,
        target: Target<'_>,
        day: Day,
        run: &mut Run,
    ) -> Result<DayVerification, Stopped> {
        let first_result = DayResult::of(&day.events, &[], day.stripe_total);
        let transitions = match transitions_at_once(&day.events, day.stripe_total) {
            Some(transitions) => transitions,
            None if needs_finer_totals(&day.events, &first_result, day.before.as_ref()) => {
                self.compare_hours(target, &day, run).await?
            }
            None => Vec::new(),
        };
        let result = DayResult::of(&day.events, &transitions, day.stripe_total);
        let transitions = day.reports.into_iter().zip(transitions);
        Ok(DayVerification {
            stream: target.stream.clone(),
            day: day.start,
            result,
            transitions: transitions
                .filter_map(|(report, transition)| Some((report, transition?)))
                .collect(),
            before: day.before,
        })
    }

    /// Compares the totals of a day's hours. Where an hour does not decide its events, compares the totals of their
    /// minutes. Returns the transition of each event of the day, if any.
    async fn compare_hours(
        &self,
        target: Target<'_>,
        day: &Day,
        run: &mut Run,
    ) -> Result<Vec<Option<Transition>>, Stopped> {
        let Target { stream, event_name } = target;
        let range = Interval {
            start: day.start,
            end: day.start.saturating_add(DAY_MS),
        };
        let totals = self
            .stripe
            .totals(event_name, &stream.customer, range, Grouping::Hour);
        let totals = self.read(run, totals).await?;
        let mut found = Vec::new();
        for events in day
            .events
            .chunk_by(|one, other| hour_of(one) == hour_of(other))
        {
            let Some(hour) = events.first().map(hour_of) else {
                continue;
            };
            let stripe_total = totals.get(&hour).copied().unwrap_or(Some(0));
            match transitions_at_once(events, stripe_total) {
                Some(transitions) => found.extend(transitions),
                None => found.extend(self.compare_minutes(target, events, run).await?),
            }
        }
        Ok(found)
    }

    /// Compares the totals of the minutes that contain unconfirmed events.
    async fn compare_minutes(
        &self,
        target: Target<'_>,
        events: &[SentEvent],
        run: &mut Run,
    ) -> Result<Vec<Option<Transition>>, Stopped> {
        let Target { stream, event_name } = target;
        let minute = |event: &SentEvent| minute_of(event.timestamp);
        let is_confirmed = |event: &SentEvent| event.certainty == Certainty::Confirmed;
        let mut found = Vec::new();
        for events in events.chunk_by(|one, other| minute(one) == minute(other)) {
            let Some(range) = events.first().map(minute) else {
                continue;
            };
            if events.iter().all(is_confirmed) {
                found.extend(events.iter().map(|_| None));
                continue;
            }
            let total = self.stripe.total(event_name, &stream.customer, range);
            let stripe_total = self.read(run, total).await?;
            found.extend(transitions(events, stripe_total));
        }
        Ok(found)
    }
}

/// The range from the first to the last of some days; `None` if there are none.
fn days_range(mut days: impl DoubleEndedIterator<Item = Millis>) -> Option<Interval> {
    let start = days.next()?;
    let last = days.next_back().unwrap_or(start);
    Some(Interval {
        start,
        end: last.saturating_add(DAY_MS),
    })
}

/// The time before which all reports were read. The limit may have cut off the last day.
fn complete_until(reports: &[Report], range: Interval) -> Millis {
    let is_cut_off = u64::try_from(reports.len()).is_ok_and(|len| len >= EVENTS_READ);
    reports
        .last()
        .filter(|_| is_cut_off)
        .and_then(|last| last.event_timestamp)
        .map_or(range.end, day_of)
}

/// The first moment of an event's hour.
fn hour_of(event: &SentEvent) -> Millis {
    let width = Grouping::Hour.width_ms();
    event
        .timestamp
        .saturating_sub(event.timestamp.rem_euclid(width))
}

/// Logs and counts new findings that need attention, and counts the transitions.
fn log_changes(verified: &DayVerification) {
    let Stream { customer, meter } = &verified.stream;
    let DayResult {
        sent_total,
        stripe_total,
        finding,
    } = verified.result;
    if finding == Finding::Over && verified.result.is_new(verified.before.as_ref()) {
        metrics::verification_over();
        let day = rfc3339(verified.day);
        tracing::error!(%customer, %meter, %day, sent_total, stripe_total, "Stripe's total is larger than everything that was sent; nothing is corrected automatically");
    }
    for (report, transition) in &verified.transitions {
        metrics::count_transition(Some(transition));
        if *transition == Transition::MarkMissing {
            tracing::error!(report = %report.id, quantity = report.quantity, %customer, %meter, "missing: Stripe accepted the report a day ago and its totals do not include it");
        }
    }
}
