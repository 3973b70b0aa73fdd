//! The job of every replica that shows in the metrics what waits in the database, and when jobs last ran.

use std::time::Duration;

use super::{
    job::{Job, Next, Spec, Turn},
    wake::Wake,
};
use crate::{
    domain::{Millis, report::State, verification::Finding},
    error::Result,
    metrics::{self, StateFigures},
    store::Store,
};

/// How old the figures may be.
const INTERVAL: Duration = Duration::from_mins(1);

/// Reads what waits, and shows it.
pub(crate) struct UsageWatch {
    store: Store,
}

impl UsageWatch {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    async fn show_states(&self, now: Millis) -> Result<()> {
        let states = self.store.watched_states(&metrics::STATES).await?;
        let age = |at: Option<Millis>| at.map_or(0, |at| now.saturating_sub(at).max(0));
        let mut unreported = 0;
        for found in &states {
            let state = found.state();
            if State::NOT_SENT.contains(&state) {
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

    async fn show_differences(&self) -> Result<()> {
        let found = self.store.verification_differences().await?;
        for finding in Finding::ALL {
            let of_finding = found.iter().find(|(of, _)| *of == finding);
            metrics::verification_difference(finding, of_finding.map_or(0.0, |(_, units)| *units));
        }
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
        self.show_states(now).await?;
        self.show_deadlines(now).await?;
        self.show_differences().await?;
        for (job, at) in self.store.last_job_runs().await? {
            metrics::job_ran(&job, at);
        }
        metrics::database_size(self.store.database_bytes().await?);
        Ok(Next::Wait)
    }
}
