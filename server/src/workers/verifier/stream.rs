//! One customer and meter: its days compared, and where they differ its hours and minutes.

use std::collections::BTreeMap;

use super::{MIN_AGE_MS, Run, Stopped, UNCHANGED_MS, Verifier};
use crate::{
    domain::{
        DAY_MS, Millis,
        report::{Report, State, Transition},
        stream::Stream,
        verification::{
            Certainty, Finding, MAX_EXACT, Part, VerifiedDay, find, lacks_since, taken, tell,
        },
        window::Interval,
    },
    metrics,
    store::{
        send::minute_of,
        verification::{DayVerification, EVENTS_READ, UnverifiedDay},
    },
    stripe::event_summaries::Grouping,
};

/// An event, and how surely it is there.
type Known = (Report, Part);

impl Verifier {
    pub(super) async fn verify_stream(
        &self,
        stream: &Stream,
        days: &[UnverifiedDay],
        run: &mut Run,
    ) -> Result<(), Stopped> {
        let Some(meter) = self.meters.find(&stream.meter) else {
            // A meter that is configured no longer has no event name to ask for.
            return Ok(());
        };
        let event_name = meter.event_name.to_string();
        let now = run.now;
        let (Some(first), Some(last)) = (days.first(), days.last()) else {
            return Ok(());
        };
        let range = Interval {
            start: first.day,
            end: last.day.saturating_add(DAY_MS),
        };
        let mut before: BTreeMap<Millis, VerifiedDay> = self
            .store
            .verifications(stream, range)
            .await?
            .into_iter()
            .map(|verified| (verified.day, verified))
            .collect();
        let due: Vec<Millis> = days
            .iter()
            .filter(|day| run.is_requested || is_due(day, before.get(&day.day), now))
            .map(|day| day.day)
            .collect();
        let (Some(start), Some(last)) = (due.first().copied(), due.last().copied()) else {
            return Ok(());
        };
        let range = Interval {
            start,
            end: last.saturating_add(DAY_MS),
        };
        // First what Stripe holds, then what we know: what arrives in between is known and not yet held.
        let totals = self
            .stripe
            .totals(&event_name, &stream.customer, range, Grouping::Day);
        let totals = self.read(run, totals).await?;
        let mut events = self.store.stream_events(stream, range).await?;
        let whole_until = whole_until(&events, range);
        if whole_until <= start {
            tracing::error!(customer = %stream.customer, meter = %stream.meter, "a day has too many events to be verified");
        }
        let mut by_day: BTreeMap<Millis, Vec<Known>> = BTreeMap::new();
        for report in events.drain(..) {
            let Some(stamp) = report.event_timestamp else {
                continue;
            };
            if let Some(part) = part(&report, now) {
                by_day
                    .entry(day_of(stamp))
                    .or_default()
                    .push((report, part));
            }
        }
        for day in due.into_iter().filter(|day| *day < whole_until) {
            let known = by_day.remove(&day).unwrap_or_default();
            let stripes = totals.get(&day).copied().unwrap_or(Some(0));
            let earlier = before.remove(&day);
            let found = self
                .verify_day(stream, &event_name, day, known, stripes, earlier, run)
                .await?;
            tell_news(&found);
            self.store.record_verification(&found, now).await?;
        }
        Ok(())
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one day, and all that is known of it"
    )]
    async fn verify_day(
        &self,
        stream: &Stream,
        event_name: &str,
        day: Millis,
        known: Vec<Known>,
        stripes: Option<i64>,
        before: Option<VerifiedDay>,
        run: &mut Run,
    ) -> Result<DayVerification, Stopped> {
        let parts: Vec<Part> = known.iter().map(|(_, part)| *part).collect();
        let ours = taken(&parts);
        let finding = stripes.map_or(Finding::Behind, |stripes| find(&parts, stripes));
        let happened = if let Some(happened) = verify_whole(&known, stripes) {
            happened
        } else if is_worth_a_look(&known, stripes, finding, before.as_ref()) {
            self.look_closer(stream, event_name, day, &known, run)
                .await?
        } else {
            Vec::new()
        };
        // What was just found short is no part of what Stripe is said to hold.
        let lost: i128 = happened
            .iter()
            .filter(|(_, event)| *event == Transition::MarkMissing)
            .map(|(report, _)| i128::from(report.quantity))
            .sum();
        let found_again: i128 = happened
            .iter()
            .filter(|(report, event)| {
                *event == Transition::Confirm && report.state == State::Missing
            })
            .map(|(report, _)| i128::from(report.quantity))
            .sum();
        let ours = ours.saturating_sub(lost).saturating_add(found_again);
        let finding = match stripes {
            Some(stripes) if i128::from(stripes) == ours => Finding::Equal,
            _ => finding,
        };
        Ok(DayVerification {
            stream: stream.clone(),
            day,
            sent_total: i64::try_from(ours).unwrap_or(i64::MAX),
            stripe_total: stripes,
            finding,
            happened,
            before,
        })
    }

    /// Compares the day's hours, and of the hours that differ the minutes of our events.
    async fn look_closer(
        &self,
        stream: &Stream,
        event_name: &str,
        day: Millis,
        known: &[Known],
        run: &mut Run,
    ) -> Result<Vec<(Report, Transition)>, Stopped> {
        let range = Interval {
            start: day,
            end: day.saturating_add(DAY_MS),
        };
        let hours = self
            .stripe
            .totals(event_name, &stream.customer, range, Grouping::Hour);
        let hours = self.read(run, hours).await?;
        let mut happened = Vec::new();
        let width = Grouping::Hour.width_ms();
        for own in known.chunk_by(|one, other| hour_of(one, width) == hour_of(other, width)) {
            let Some(first) = own.first() else { continue };
            let stripes = hours
                .get(&hour_of(first, width))
                .copied()
                .unwrap_or(Some(0));
            if let Some(whole) = verify_whole(own, stripes) {
                happened.extend(whole);
                continue;
            }
            for own in own.chunk_by(|one, other| minute(one) == minute(other)) {
                let Some(range) = own.first().map(minute) else {
                    continue;
                };
                if own
                    .iter()
                    .all(|(_, part)| part.certainty == Certainty::Confirmed)
                {
                    continue;
                }
                let total = self.stripe.total(event_name, &stream.customer, range);
                let stripes = self.read(run, total).await?;
                happened.extend(told(own, stripes));
            }
        }
        Ok(happened)
    }
}

/// Up to when the events that were read are all there are.
fn whole_until(events: &[Report], range: Interval) -> Millis {
    match events.last().and_then(|last| last.event_timestamp) {
        Some(stamp) if u64::try_from(events.len()).is_ok_and(|len| len >= EVENTS_READ) => {
            day_of(stamp)
        }
        _ => range.end,
    }
}

/// A stream's day is looked at when something new was taken, not too lately, and where a difference is no news any
/// more only once a day.
fn is_due(day: &UnverifiedDay, before: Option<&VerifiedDay>, now: Millis) -> bool {
    let Some(before) = before else {
        return day
            .oldest_at
            .is_none_or(|at| at <= now.saturating_sub(MIN_AGE_MS));
    };
    let Some(oldest_at) = day.oldest_at else {
        // All that is left is short: it may appear late.
        return now.saturating_sub(before.verified_at) >= DAY_MS;
    };
    if oldest_at > now.saturating_sub(MIN_AGE_MS) {
        return false;
    }
    let is_new = oldest_at > before.verified_at;
    let has_become_owed =
        lacks_since(oldest_at) > before.verified_at && lacks_since(oldest_at) <= now;
    let is_old_news = now.saturating_sub(before.changed_at) >= UNCHANGED_MS;
    is_new || has_become_owed || !is_old_news || now.saturating_sub(before.verified_at) >= DAY_MS
}

fn day_of(stamp: Millis) -> Millis {
    stamp.saturating_sub(stamp.rem_euclid(DAY_MS))
}

fn stamp(known: &Known) -> Millis {
    known.0.event_timestamp.unwrap_or_default()
}

fn hour_of(known: &Known, width: Millis) -> Millis {
    stamp(known).saturating_sub(stamp(known).rem_euclid(width))
}

fn minute(known: &Known) -> Interval {
    minute_of(stamp(known))
}

fn part(report: &Report, now: Millis) -> Option<Part> {
    let was_sent = report.first_sent_at.is_some();
    Certainty::of(report.state, report.reported_at, was_sent, now).map(|certainty| Part {
        quantity: report.quantity,
        certainty,
    })
}

/// What a total over many events verifies at once: all that was accepted is there, where that and nothing else
/// was sent and the total is exact.
fn verify_whole(known: &[Known], stripes: Option<i64>) -> Option<Vec<(Report, Transition)>> {
    let parts: Vec<Part> = known.iter().map(|(_, part)| *part).collect();
    let stripes = stripes.filter(|stripes| i128::from(*stripes).abs() < MAX_EXACT)?;
    let is_taken = |part: &Part| {
        matches!(
            part.certainty,
            Certainty::Confirmed | Certainty::Overdue | Certainty::Pending
        )
    };
    let lost_or_taken = parts
        .iter()
        .all(|part| is_taken(part) || part.certainty == Certainty::Missing);
    let all: i128 = parts.iter().map(|part| i128::from(part.quantity)).sum();
    let has_lost = parts
        .iter()
        .any(|part| part.certainty == Certainty::Missing);
    // With what was lost it is all there; without it, whatever else was sent may have taken its place.
    let is_all_there = lost_or_taken && all == i128::from(stripes);
    let is_as_before = lost_or_taken && has_lost && taken(&parts) == i128::from(stripes);
    let has_accepted = parts
        .iter()
        .any(|part| matches!(part.certainty, Certainty::Overdue | Certainty::Pending));
    if is_all_there {
        return Some(told(known, stripes));
    }
    (is_as_before && !has_accepted).then(Vec::new)
}

/// What a total of some events says of each of them.
fn told(known: &[Known], stripes: i64) -> Vec<(Report, Transition)> {
    let parts: Vec<Part> = known.iter().map(|(_, part)| *part).collect();
    let all: i128 = parts.iter().map(|part| i128::from(part.quantity)).sum();
    let all_there = parts
        .iter()
        .all(|part| part.certainty != Certainty::Unknown)
        && all == i128::from(stripes);
    let verdicts = if all_there {
        vec![Some(true); parts.len()]
    } else {
        tell(&parts, stripes)
    };
    known
        .iter()
        .zip(verdicts)
        .filter_map(|((report, part), is_there)| {
            let event = match (part.certainty, is_there?) {
                (Certainty::Overdue | Certainty::Pending | Certainty::Missing, true) => {
                    Transition::Confirm
                }
                (Certainty::Overdue, false) => Transition::MarkMissing,
                _ => return None,
            };
            Some((report.clone(), event))
        })
        .collect()
}

/// Looking closer costs reads: it is worth them where something can be blamed or told apart that could not
/// be before.
fn is_worth_a_look(
    known: &[Known],
    stripes: Option<i64>,
    finding: Finding,
    before: Option<&VerifiedDay>,
) -> bool {
    let parts: Vec<Part> = known.iter().map(|(_, part)| *part).collect();
    let is_news = before.is_none_or(|before| {
        before.stripe_total != stripes
            || i128::from(before.sent_total) != taken(&parts)
            || before.finding != finding
    });
    let has_become_owed = known.iter().any(|(report, part)| {
        part.certainty == Certainty::Overdue
            && before.is_none_or(|before| {
                report
                    .reported_at
                    .is_none_or(|at| lacks_since(at) > before.verified_at)
            })
    });
    has_become_owed || (is_news && finding != Finding::Behind) || (is_news && stripes.is_none())
}

/// Logs and counts what is new and not as it should be.
fn tell_news(found: &DayVerification) {
    let Stream { customer, meter } = &found.stream;
    let day = crate::domain::period::rfc3339(found.day);
    let (sent_total, stripe_total) = (found.sent_total, found.stripe_total);
    if found.finding == Finding::Over && found.is_news() {
        metrics::verification_over();
        tracing::error!(%customer, %meter, %day, sent_total, stripe_total, "Stripe holds more than was ever sent; nothing is corrected by itself");
    }
    for (report, event) in &found.happened {
        metrics::count_transition(Some(event));
        if *event == Transition::MarkMissing {
            tracing::error!(report = %report.id, quantity = report.quantity, %customer, %meter, "short: Stripe took it a day ago and its totals lack it");
        }
    }
}
