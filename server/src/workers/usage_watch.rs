//! The job of every replica that shows in the metrics what waits in the database, and when jobs last ran.

use std::time::Duration;

use super::{
    job::{Job, Next, Spec, Turn},
    schedule::Schedule,
    wake::Wake,
};
use crate::{
    domain::{
        DAY_MS, HOUR_MS, Millis, billing_start::BillingStart, report::State, verification::Finding,
    },
    error::Result,
    metrics::{self, PausedBy, StateFigures},
    store::{
        Store,
        watched_reports::{MAX_REPORTS, WatchedState},
    },
    stripe::{Failure, Stripe},
};

/// The states of reports on their way to Stripe.
const ON_THEIR_WAY: [State; 4] = [State::Open, State::Closed, State::Sending, State::Unknown];
/// Differences that were found this lately are shown: a day of which all is confirmed is not verified again.
const DIFFERENCES_SHOWN_MS: Millis = 3 * DAY_MS;
/// How long the longest time between two scheduled runs is kept. It changes with the time of year.
const GAP_KEPT_MS: Millis = HOUR_MS;

/// Reads what waits, and shows it.
pub(crate) struct UsageWatch {
    store: Store,
    /// Absent without a Stripe key.
    stripe: Option<Stripe>,
    schedule: Schedule,
    /// How often it reads.
    every: Duration,
    /// The longest time between two scheduled runs, and when that was computed.
    gap: Option<(Millis, Millis)>,
}

/// What the ages of reports depend on.
#[derive(Clone, Copy, Debug)]
struct Times {
    now: Millis,
    /// When the last run began that closed every open report.
    full_run: Option<Millis>,
    /// The longest time between two scheduled runs.
    gap: Millis,
}

impl Times {
    /// How long the oldest report of a state waits: since it was closed, or, if it is open, since it was counted.
    fn waiting(self, found: &WatchedState) -> Millis {
        match found.closed_at {
            Some(closed_at) => self.age(closed_at),
            None => self.unreported(found),
        }
    }

    /// How long ago the oldest usage of a state was counted, at most. Usage can be older than that: callers state its time.
    ///
    /// What is open was counted after the last run that closed all. What is closed was counted after the run before.
    fn unreported(self, found: &WatchedState) -> Millis {
        let Some(first_at) = found.first_at else {
            return 0;
        };
        let of_usage = self.age(first_at);
        match (found.closed_at, self.full_run) {
            (Some(closed_at), _) => of_usage.min(self.age(closed_at).saturating_add(self.gap)),
            // Of more reports than are read, another one may be the oldest.
            (None, Some(run)) if found.reports >= i64::from(MAX_REPORTS) => self.age(run),
            (None, Some(run)) => of_usage.min(self.age(run)),
            (None, None) => of_usage,
        }
    }

    fn age(self, at: Millis) -> Millis {
        self.now.saturating_sub(at).max(0)
    }
}

/// How long ago the oldest usage on its way to Stripe was counted, at most; absent if there is none. `gap` is the longest time
/// between two scheduled runs.
pub(crate) async fn oldest_unreported(
    store: &Store,
    gap: Millis,
    now: Millis,
) -> Result<Option<Millis>> {
    let times = Times {
        now,
        full_run: store.last_full_run().await?,
        gap,
    };
    let states = store.watched_states(&ON_THEIR_WAY).await?;
    let waiting = states.iter().filter(|found| found.first_at.is_some());
    Ok(waiting.map(|found| times.unreported(found)).max())
}

impl UsageWatch {
    pub(crate) fn new(
        store: Store,
        stripe: Option<Stripe>,
        schedule: Schedule,
        every: Duration,
    ) -> Self {
        Self {
            store,
            stripe,
            schedule,
            every,
            gap: None,
        }
    }

    /// The longest time between two scheduled runs.
    fn gap(&mut self, now: Millis) -> Millis {
        let kept = self
            .gap
            .filter(|(_, at)| now.saturating_sub(*at).saturating_abs() < GAP_KEPT_MS);
        let (gap, at) = kept.unwrap_or_else(|| (self.schedule.longest_gap_around(now), now));
        self.gap = Some((gap, at));
        metrics::report_schedule_gap(gap);
        gap
    }

    async fn show_states(&self, now: Millis, gap: Millis) -> Result<()> {
        let times = Times {
            now,
            full_run: self.store.last_full_run().await?,
            gap,
        };
        let states = self.store.watched_states(&metrics::STATES).await?;
        let mut unreported = 0;
        for found in &states {
            let state = found.state();
            if ON_THEIR_WAY.contains(&state) {
                unreported = times.unreported(found).max(unreported);
            }
            metrics::reports_in_state(&StateFigures {
                state,
                reports: u32::try_from(found.reports).unwrap_or(u32::MAX),
                units: found.units,
                oldest_ms: times.waiting(found),
            });
        }
        metrics::oldest_unreported(unreported);
        Ok(())
    }

    async fn show_deadlines(&self, now: Millis) -> Result<()> {
        let near = self.store.near_draft_end(&State::DUE, now).await?.len();
        let [draft_end, age_limit] = metrics::DEADLINES;
        metrics::reports_near_deadline(draft_end, u64::try_from(near).unwrap_or(u64::MAX));
        let near = self.store.near_age_limit(now).await?;
        metrics::reports_near_deadline(age_limit, near);
        Ok(())
    }

    async fn show_differences(&self, now: Millis) -> Result<()> {
        let since = now.saturating_sub(DIFFERENCES_SHOWN_MS);
        let found = self.store.verification_differences(since).await?;
        for finding in Finding::ALL {
            let of_finding = found.iter().find(|(of, _)| *of == finding);
            metrics::verification_difference(finding, of_finding.map_or(0.0, |(_, units)| *units));
        }
        Ok(())
    }

    async fn show_jobs(&self) -> Result<()> {
        for (job, at) in self.store.last_job_runs().await? {
            metrics::job_ran(&job, at);
        }
        Ok(())
    }

    /// A key of another account pauses only this replica.
    async fn show_sending(&self) -> Result<()> {
        let refusal = self.stripe.as_ref().and_then(Stripe::refusal);
        let is_other = matches!(refusal, Some(Failure::Denied(_)));
        metrics::sending_paused(PausedBy::OtherAccount, is_other);
        let sending = self.store.sending().await?;
        metrics::sending_paused(PausedBy::Database, sending.paused.is_some());
        // A server in shadow mode sends nothing on purpose.
        let is_to_send = self
            .stripe
            .as_ref()
            .is_some_and(|stripe| !stripe.is_read_only());
        let lacks_moment = is_to_send && sending.billing_start == BillingStart::NotNamed;
        metrics::sending_paused(PausedBy::NoMoment, lacks_moment);
        if let Some(at) = sending.last_accepted_at {
            metrics::accepted_at(at);
        }
        Ok(())
    }

    async fn show_deletions(&self) -> Result<()> {
        metrics::unfinished_deletions(self.store.count_unfinished_deletions().await?);
        Ok(())
    }

    async fn show_size(&self) -> Result<()> {
        metrics::database_size(self.store.database_bytes().await?);
        Ok(())
    }
}

impl Job for UsageWatch {
    fn spec(&self) -> Spec {
        Spec {
            name: "usage watch",
            interval: self.every,
            turn: Turn::EveryReplica,
            wake: Wake::default(),
        }
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        let gap = self.gap(now);
        // Each is shown whatever becomes of the others.
        let shown = [
            self.show_states(now, gap).await,
            self.show_deadlines(now).await,
            self.show_differences(now).await,
            self.show_jobs().await,
            self.show_sending().await,
            self.show_deletions().await,
            self.show_size().await,
        ];
        for part in shown {
            part?;
        }
        metrics::watched_at(now);
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_800_000_000_000;

    /// Reports in a state: how long ago their oldest usage was, and when they were closed.
    fn found(state: State, usage: Millis, closed: Option<Millis>) -> WatchedState {
        WatchedState::new(state, 1, NOW - usage, closed.map(|ago| NOW - ago))
    }

    fn times(full_run: Option<Millis>) -> Times {
        Times {
            now: NOW,
            full_run: full_run.map(|ago| NOW - ago),
            gap: HOUR_MS,
        }
    }

    #[test]
    fn open_usage_was_counted_after_the_last_run_that_closed_all() {
        let late = found(State::Open, 3 * DAY_MS, None);
        assert_eq!(times(None).unreported(&late), 3 * DAY_MS);
        assert_eq!(times(Some(HOUR_MS)).unreported(&late), HOUR_MS);
        let new = found(State::Open, 7, None);
        assert_eq!(times(Some(HOUR_MS)).unreported(&new), 7);
        assert_eq!(times(Some(HOUR_MS)).waiting(&new), 7);
        let none = WatchedState::none(State::Open);
        assert_eq!(times(Some(HOUR_MS)).unreported(&none), 0);
    }

    #[test]
    fn of_more_open_reports_than_are_read_the_oldest_is_as_old_as_the_last_run() {
        let many = WatchedState::new(State::Open, i64::from(MAX_REPORTS), NOW - 7, None);
        assert_eq!(times(Some(HOUR_MS)).unreported(&many), HOUR_MS);
        assert_eq!(times(None).unreported(&many), 7);
    }

    #[test]
    fn closed_usage_was_counted_at_most_a_run_before_it_was_closed() {
        let late = found(State::Closed, 3 * DAY_MS, Some(2 * HOUR_MS));
        assert_eq!(times(None).unreported(&late), 3 * HOUR_MS);
        assert_eq!(times(None).waiting(&late), 2 * HOUR_MS);
        let new = found(State::Sending, 8, Some(7));
        assert_eq!(times(Some(1)).unreported(&new), 8);
        assert_eq!(times(Some(1)).waiting(&new), 7);
    }
}
