//! Verification: the comparison of Stripe's totals with the meter events that Stripe accepted, one stream and UTC day
//! at a time.
//!
//! Totals are compared by day first. Where they differ, and an event may be missing, they are compared by hour and then
//! by minute; most minutes contain one event. What a total proves is in [`proof`]. Reading totals and recording results
//! belong to the verifier job.

pub mod proof;
#[cfg(test)]
mod tests;

use self::proof::{accepted_total, compare};
use super::{
    DAY_MS, MINUTE_MS, Millis,
    clock_check::is_ahead,
    names::names,
    report::{Report, State, Transition},
    start_of,
};

/// How long after acceptance Stripe's totals may omit an event before it counts as missing.
pub const OVERDUE_AFTER_MS: Millis = DAY_MS;
/// How long after acceptance an event is first verified, unless verification was requested.
pub const MIN_AGE_MS: Millis = 10 * MINUTE_MS;
/// A day whose result has not changed for this long is verified once a day.
pub const UNCHANGED_MS: Millis = 2 * DAY_MS;
/// How often such a day is verified.
const REPEAT_MS: Millis = DAY_MS;

/// How certain it is that Stripe's totals include an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Certainty {
    /// An earlier comparison proved it.
    Confirmed,
    /// Stripe accepted it more than a day ago, so its totals must include it.
    Overdue,
    /// Stripe accepted it less than a day ago. Its totals may be behind.
    Pending,
    /// It was overdue, and Stripe's totals did not include it.
    Missing,
    /// It was sent, and it is unknown whether Stripe accepted it.
    Unknown,
}

impl Certainty {
    /// The certainty of a report that has an event timestamp; `None` if its event cannot be at Stripe.
    pub fn of(
        state: State,
        reported_at: Option<Millis>,
        was_sent: bool,
        now: Millis,
    ) -> Option<Self> {
        match state {
            State::Confirmed | State::Invoiced => Some(Self::Confirmed),
            State::Accepted if reported_at.is_some_and(|at| overdue_at(at) <= now) => {
                Some(Self::Overdue)
            }
            State::Accepted => Some(Self::Pending),
            State::Missing => Some(Self::Missing),
            State::Rejected | State::CustomerDeleted => None,
            _ if was_sent => Some(Self::Unknown),
            _ => None,
        }
    }

    /// Whether Stripe accepted the event, and nothing suggests that it was lost.
    pub fn is_accepted(self) -> bool {
        matches!(self, Self::Confirmed | Self::Overdue | Self::Pending)
    }
}

/// When an event that Stripe accepted at `reported_at` becomes overdue.
pub fn overdue_at(reported_at: Millis) -> Millis {
    reported_at.saturating_add(OVERDUE_AFTER_MS)
}

/// A meter event that was sent to Stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentEvent {
    /// Its timestamp.
    pub timestamp: Millis,
    /// Its value.
    pub quantity: i64,
    /// When Stripe accepted it, if it did.
    pub reported_at: Option<Millis>,
    /// How certain it is that Stripe's totals include it.
    pub certainty: Certainty,
}

impl SentEvent {
    /// The event of a report; `None` if there is none or it cannot be at Stripe.
    pub fn of(report: &Report, now: Millis) -> Option<Self> {
        let was_sent = report.first_sent_at.is_some();
        Some(Self {
            timestamp: report.event_timestamp?,
            quantity: report.quantity,
            reported_at: report.reported_at,
            certainty: Certainty::of(report.state, report.reported_at, was_sent, now)?,
        })
    }
}

/// What a comparison of totals found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Stripe's total equals the total of the accepted events.
    Equal,
    /// The difference is explained by events that are pending, missing or unknown.
    Behind,
    /// Stripe's total omits an event that is overdue.
    Lacking,
    /// Stripe's total is larger than the total of everything that was ever sent.
    Over,
}

names!(Finding {
    Equal = "equal",
    Behind = "behind",
    Lacking = "lacking",
    Over = "over",
});

/// The two totals of a stream on one UTC day, compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayResult {
    /// The total of the events that Stripe accepted.
    pub sent_total: i64,
    /// Stripe's total; `None` if it is not a whole number below 2^53.
    pub stripe_total: Option<i64>,
    /// What their difference means.
    pub finding: Finding,
}

impl DayResult {
    /// The result of a day: its events, and the transition of each that the comparison led to, if any.
    ///
    /// An event that just became missing no longer counts as accepted. A missing event that was just confirmed does.
    pub fn of(
        events: &[SentEvent],
        transitions: &[Option<Transition>],
        stripe_total: Option<i64>,
    ) -> Self {
        let mut sent_total = accepted_total(events);
        for (event, transition) in events.iter().zip(transitions) {
            let quantity = i128::from(event.quantity);
            match transition {
                Some(Transition::MarkMissing) => sent_total = sent_total.saturating_sub(quantity),
                Some(Transition::Confirm) if event.certainty == Certainty::Missing => {
                    sent_total = sent_total.saturating_add(quantity);
                }
                _ => {}
            }
        }
        let finding = match stripe_total {
            None => Finding::Behind,
            Some(total) if i128::from(total) == sent_total => Finding::Equal,
            Some(total) => compare(events, total),
        };
        Self {
            sent_total: i64::try_from(sent_total).unwrap_or(i64::MAX),
            stripe_total,
            finding,
        }
    }

    /// Whether it differs from the result of the last verification.
    pub fn is_new(&self, before: Option<&VerifiedDay>) -> bool {
        before.is_none_or(|before| before.result != *self)
    }
}

/// The last verification of a stream's UTC day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifiedDay {
    /// The day's first moment.
    pub day: Millis,
    /// What it found.
    pub result: DayResult,
    /// When the result last changed.
    pub changed_at: Millis,
    /// When the totals were last compared.
    pub verified_at: Millis,
}

/// The first moment of the UTC day that contains `at`.
pub fn day_of(at: Millis) -> Millis {
    start_of(DAY_MS, at)
}

/// Whether a day with unconfirmed events is to be verified now. `oldest_reported_at` is when Stripe accepted the first
/// of its accepted events; `None` if all are missing.
///
/// A day is due when an event was accepted or became overdue since the last verification. While its result keeps
/// changing it is always due, and after that once a day.
pub fn is_due(
    oldest_reported_at: Option<Millis>,
    before: Option<&VerifiedDay>,
    now: Millis,
) -> bool {
    let is_recent = oldest_reported_at
        .is_some_and(|at| at > now.saturating_sub(MIN_AGE_MS) && !is_ahead(at, now));
    if is_recent {
        return false;
    }
    let Some(before) = before else {
        return true;
    };
    let is_old = now.saturating_sub(before.verified_at) >= REPEAT_MS;
    if is_old || is_ahead(before.verified_at, now) {
        return true;
    }
    // If all events are missing, one may still appear late: the daily verification is enough.
    oldest_reported_at.is_some_and(|at| {
        let is_new = at > before.verified_at;
        let is_newly_overdue = overdue_at(at) > before.verified_at && overdue_at(at) <= now;
        let is_changing = now.saturating_sub(before.changed_at) < UNCHANGED_MS;
        is_new || is_newly_overdue || is_changing
    })
}

/// Whether a day that its own total does not decide is worth the requests for totals of hours and minutes: an event
/// became overdue, or the result is new and finer totals may explain it.
pub fn needs_finer_totals(
    events: &[SentEvent],
    result: &DayResult,
    before: Option<&VerifiedDay>,
) -> bool {
    let is_newly_overdue = |event: &SentEvent| {
        event.certainty == Certainty::Overdue
            && before.is_none_or(|before| {
                event
                    .reported_at
                    .is_none_or(|at| overdue_at(at) > before.verified_at)
            })
    };
    let is_unexplained = result.finding != Finding::Behind || result.stripe_total.is_none();
    events.iter().any(is_newly_overdue) || (is_unexplained && result.is_new(before))
}
