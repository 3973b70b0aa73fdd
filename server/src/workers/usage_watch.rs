//! The job of every replica that shows in the metrics what waits in the database, and when jobs last ran.

use std::time::Duration;

use super::{
    job::{Job, Next, Spec, Turn},
    wake::Wake,
};
use crate::{
    domain::{DAY_MS, Millis, report::State, verification::Finding},
    error::Result,
    metrics::{self, StateFigures},
    store::Store,
    stripe::{Failure, Stripe},
};

/// The states of reports on their way to Stripe.
const ON_THEIR_WAY: [State; 4] = [State::Open, State::Closed, State::Sending, State::Unknown];
/// Differences that were found this lately are shown: a day of which all is confirmed is not verified again.
const DIFFERENCES_SHOWN_MS: Millis = 3 * DAY_MS;

/// How old the figures may be.
const INTERVAL: Duration = Duration::from_mins(1);

/// Reads what waits, and shows it.
pub(crate) struct UsageWatch {
    store: Store,
    /// Absent without a Stripe key.
    stripe: Option<Stripe>,
}

impl UsageWatch {
    pub(crate) fn new(store: Store, stripe: Option<Stripe>) -> Self {
        Self { store, stripe }
    }

    async fn show_states(&self, now: Millis) -> Result<()> {
        let states = self.store.watched_states(&metrics::STATES).await?;
        let age = |at: Option<Millis>| at.map_or(0, |at| now.saturating_sub(at).max(0));
        let mut unreported = 0;
        for found in &states {
            let state = found.state();
            if ON_THEIR_WAY.contains(&state) {
                unreported = age(found.first_at).max(unreported);
            }
            metrics::reports_in_state(&StateFigures {
                state,
                reports: u32::try_from(found.reports).unwrap_or(u32::MAX),
                units: found.units,
                oldest_ms: age(found.closed_at.or(found.first_at)),
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

    /// A key that is refused pauses only this replica.
    async fn show_pause(&self) -> Result<()> {
        let refusal = self.stripe.as_ref().and_then(Stripe::refusal);
        let is_refused = matches!(refusal, Some(Failure::Denied(_)));
        let is_paused = self.store.sending().await?.paused.is_some();
        metrics::sending_paused(is_paused || is_refused);
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
            interval: INTERVAL,
            turn: Turn::EveryReplica,
            wake: Wake::default(),
        }
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        // Each is shown whatever becomes of the others.
        let shown = [
            self.show_states(now).await,
            self.show_deadlines(now).await,
            self.show_differences(now).await,
            self.show_jobs().await,
            self.show_pause().await,
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
