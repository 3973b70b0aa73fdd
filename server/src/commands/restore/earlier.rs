//! The time before the backup: late usage, whose time is before the backup, may have been counted and sent after it.
//!
//! Stripe takes no event that is older than 35 days, so these days are compared. One request reads Stripe's totals of all
//! of them; only days whose total is not that of the database are compared by hour.

use std::collections::{BTreeMap, BTreeSet};

use super::Restore;
use crate::{
    domain::{
        DAY_MS, Millis, report::MAX_EVENT_AGE_MS, sender_mark::Mark, start_of, stream::Stream,
        verification::Finding, window::Interval,
    },
    restore_look_up::{ComparedHour, LookUp, LookUpError},
    stripe::{Failure, event_summaries::Grouping},
};

/// Reports of longer ago may be folded, and would be missed in the sums. The shortest age of folding is a day more.
const NOT_FOLDED_MS: Millis = 59 * DAY_MS;

/// The marks at Stripe.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Those of copies of this database.
    pub(super) own: Vec<Mark>,
    /// When another database last left one.
    pub(super) last_other: Option<Millis>,
}

impl Marks {
    /// Whether another database may have sent usage of the days before a backup: then Stripe's totals do not show what
    /// copies of this one sent.
    pub(super) fn has_others(&self, backup_at: Millis) -> bool {
        let oldest = backup_at.saturating_sub(MAX_EVENT_AGE_MS);
        self.last_other.is_some_and(|at| at >= oldest)
    }
}

/// What was found of a stream.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub(super) hours: Vec<ComparedHour>,
    /// Days of which Stripe had more before the backup, for another reason: they are left out.
    pub(super) left_out: usize,
}

impl Compared {
    /// Adds the hours from the first midnight after the days that were compared as a whole. Of that day, those before a time
    /// are left out too, if so.
    fn add(&mut self, hours: Vec<ComparedHour>, left_out_before: Option<Millis>) {
        let all = hours.len();
        let hours = hours.into_iter();
        let kept = hours.filter(|one| left_out_before.is_none_or(|until| one.hour >= until));
        let before = self.hours.len();
        self.hours.extend(kept);
        if self.hours.len().saturating_sub(before) < all {
            self.left_out = self.left_out.saturating_add(1);
        }
    }
}

/// The days before a midnight that are compared, from the first to the last.
fn days_before(midnight: Millis, backup_at: Millis, now: Millis) -> Option<Interval> {
    let first = start_of(DAY_MS, backup_at.saturating_sub(MAX_EVENT_AGE_MS));
    let not_folded = start_of(DAY_MS, now.saturating_sub(NOT_FOLDED_MS));
    let start = first.max(not_folded);
    (start < midnight).then_some(Interval {
        start,
        end: midnight,
    })
}

/// The parts of some days from a moment on: the rest of its day, if it is in one, and the whole days after that.
fn parts_since(days: Interval, moment: Millis) -> (Option<Interval>, Option<Interval>) {
    if moment <= days.start {
        return (None, Some(days));
    }
    let midnight = start_of(DAY_MS, moment.saturating_add(DAY_MS).saturating_sub(1));
    let part = |start: Millis, end: Millis| (start < end).then_some(Interval { start, end });
    (
        part(moment, midnight.min(days.end)),
        part(midnight, days.end),
    )
}

impl Restore<'_> {
    /// Compares the range of a look-up, and the days before it that may have late usage.
    pub(super) async fn compare_with_earlier(
        &self,
        look_up: LookUp<'_>,
        now: Millis,
    ) -> Result<Compared, LookUpError> {
        let mut compared = Compared::default();
        if self.has_other_databases {
            compared.add(look_up.compare(now).await?, None);
            return Ok(compared);
        }
        // Days are compared from midnight to midnight, so the hours begin at one.
        let until = look_up.range.start;
        let midnight = start_of(DAY_MS, until);
        let over = self.days_over(look_up.stream, midnight).await?;
        if let Some(days) = days_before(midnight, self.backup_at, now) {
            // Before the moment Stripe has what another integration sent.
            let (part, whole) = parts_since(days, self.bills_since);
            if let Some(part) = part {
                self.compare_part_of_day(look_up, part, &over, &mut compared, now)
                    .await?;
            }
            if let Some(whole) = whole {
                self.compare_days(look_up, whole, &over, &mut compared, now)
                    .await?;
            }
        }
        let from_midnight = LookUp {
            range: Interval {
                start: midnight.max(self.bills_since),
                end: look_up.range.end,
            },
            ..look_up
        };
        let left_out_before = over.contains(&midnight).then_some(until);
        compared.add(from_midnight.compare(now).await?, left_out_before);
        Ok(compared)
    }

    /// The days until one of which Stripe had more than the database when the backup was made. Something else sends there,
    /// so the totals do not show what this database sent.
    async fn days_over(
        &self,
        stream: &Stream,
        last: Millis,
    ) -> Result<BTreeSet<Millis>, LookUpError> {
        let days = Interval {
            start: last.saturating_sub(NOT_FOLDED_MS),
            end: last.saturating_add(DAY_MS),
        };
        let verified = self.store.verifications(stream, days).await?;
        let over = verified
            .iter()
            .filter(|day| day.result.finding == Finding::Over);
        Ok(over.map(|day| day.day).collect())
    }

    /// Compares the hours of a day from the moment on from which this service bills.
    async fn compare_part_of_day(
        &self,
        look_up: LookUp<'_>,
        part: Interval,
        over: &BTreeSet<Millis>,
        compared: &mut Compared,
        now: Millis,
    ) -> Result<(), LookUpError> {
        if over.contains(&start_of(DAY_MS, part.start)) {
            compared.left_out = compared.left_out.saturating_add(1);
            return Ok(());
        }
        self.rate.turn().await;
        let hours = LookUp {
            range: part,
            ..look_up
        };
        compared.add(hours.compare(now).await?, None);
        Ok(())
    }

    /// Compares whole days.
    async fn compare_days(
        &self,
        look_up: LookUp<'_>,
        days: Interval,
        over: &BTreeSet<Millis>,
        compared: &mut Compared,
        now: Millis,
    ) -> Result<(), LookUpError> {
        let stream = look_up.stream;
        let known = self.known_by_day(look_up, days).await?;
        self.rate.turn().await;
        let totals = self
            .stripe
            .totals(look_up.event_name, &stream.customer, days, Grouping::Day)
            .await
            .map_err(LookUpError::Stripe)?;
        let starts: BTreeSet<Millis> = known.keys().chain(totals.keys()).copied().collect();
        for start in starts {
            let known = known.get(&start).copied().unwrap_or(Some(0));
            let Some(stripe_total) = totals.get(&start).copied().unwrap_or(Some(0)) else {
                return Err(LookUpError::Stripe(Failure::NoAnswer(
                    "Stripe's total of a day is not a whole number below 2^53".to_owned(),
                )));
            };
            if known == Some(i128::from(stripe_total)) {
                continue;
            }
            if over.contains(&start) {
                compared.left_out = compared.left_out.saturating_add(1);
                continue;
            }
            self.rate.turn().await;
            let day = LookUp {
                range: Interval {
                    start,
                    end: start.saturating_add(DAY_MS),
                },
                ..look_up
            };
            compared.add(day.compare(now).await?, None);
        }
        Ok(())
    }

    /// What the database has of each day that Stripe has too; absent of a day of which that is not certain.
    async fn known_by_day(
        &self,
        look_up: LookUp<'_>,
        days: Interval,
    ) -> Result<BTreeMap<Millis, Option<i128>>, LookUpError> {
        let hours = self
            .store
            .hours_of(look_up.stream, days, look_up.restored_at)
            .await?;
        let mut known: BTreeMap<Millis, Option<i128>> = BTreeMap::new();
        for (hour, reports) in hours {
            let of_day = known.entry(start_of(DAY_MS, hour)).or_insert(Some(0));
            let of_hour = i128::from(reports.accepted).saturating_add(reports.already_sent.into());
            *of_day = of_day
                .filter(|_| !reports.has_uncertain && reports.given_up == 0)
                .map(|sum| sum.saturating_add(of_hour));
        }
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_compared_of_which_stripe_takes_events_and_no_report_is_folded() {
        let midnight = 100 * DAY_MS;
        let backup_at = midnight + 1;
        let days = |now| days_before(midnight, backup_at, now).map(|days| days.start / DAY_MS);
        assert_eq!(days(backup_at), Some(65));
        assert_eq!(days(backup_at + 30 * DAY_MS), Some(71));
        assert_eq!(days(backup_at + 60 * DAY_MS), None);
    }

    #[test]
    fn days_are_compared_from_the_moment_on_from_which_this_service_bills() {
        let interval = |start, end| Interval { start, end };
        let (first, last) = (10 * DAY_MS, 20 * DAY_MS);
        let days = interval(first, last);
        let parts = |moment| parts_since(days, moment);
        assert_eq!(parts(Millis::MIN), (None, Some(days)));
        assert_eq!(parts(first), (None, Some(days)));
        let noon = first + DAY_MS / 2;
        let next = first + DAY_MS;
        assert_eq!(
            parts(noon),
            (Some(interval(noon, next)), Some(interval(next, last)))
        );
        assert_eq!(parts(next), (None, Some(interval(next, last))));
        let on_last = last - 1;
        assert_eq!(parts(on_last), (Some(interval(on_last, last)), None));
        assert_eq!(parts(last), (None, None));
        assert_eq!(parts(last + 1), (None, None));
    }

    #[test]
    fn an_old_mark_of_another_database_says_nothing() {
        let marks = |last_other| Marks {
            own: Vec::new(),
            last_other,
        };
        let backup_at = 100 * DAY_MS;
        assert!(!marks(None).has_others(backup_at));
        assert!(!marks(Some(64 * DAY_MS)).has_others(backup_at));
        assert!(marks(Some(65 * DAY_MS)).has_others(backup_at));
    }
}
