//! The job for the ends of billing periods: closes their usage five minutes later by the service's clock, and warns of
//! reports that may miss their invoices.

use std::{sync::Arc, time::Duration};

use super::{
    job::{FirstRun, Job, Next, Spec, Turn},
    reporter::Reporter,
    wake::Wake,
};
use crate::{
    domain::{Millis, SECOND_MS, report::State},
    error::Result,
    metrics,
    store::Store,
};

/// The job's name in `leases`.
const NAME: &str = "period end";
/// How often the job looks for ended billing periods.
const INTERVAL_MS: Millis = 10 * SECOND_MS;
/// The number of accounts in one run for ended periods. The next run of the job finds the rest.
const ACCOUNTS_PER_RUN: u64 = 500;

/// Closes the usage of billing periods that have ended.
pub(crate) struct PeriodEnd {
    store: Store,
    reporter: Arc<Reporter>,
    interval: Duration,
    /// The reports near their deadlines that the log knows of.
    told: (u64, u64),
}

impl PeriodEnd {
    pub(crate) fn new(store: Store, reporter: Arc<Reporter>, interval: Duration) -> Self {
        Self {
            store,
            reporter,
            interval,
            told: (0, 0),
        }
    }

    /// Warns of reports that may miss their invoices, or Stripe's 35 days: when there are more than before.
    async fn warn_of_deadlines(&mut self, now: Millis) -> Result<()> {
        let drafts = self.store.near_draft_end(&State::DUE, now).await?.len();
        let drafts = u64::try_from(drafts).unwrap_or(u64::MAX);
        let old = self.store.near_age_limit(now).await?;
        metrics::near_deadline("draft_end", drafts);
        metrics::near_deadline("33_days", old);
        if drafts > self.told.0 || old > self.told.1 {
            tracing::error!(
                near_draft_end = drafts,
                near_33_days = old,
                "reports that Stripe has not accepted are near their deadline"
            );
        }
        self.told = (drafts, old);
        Ok(())
    }
}

impl Job for PeriodEnd {
    fn spec(&self) -> Spec {
        Spec {
            name: NAME,
            interval: self.interval,
            turn: Turn::Recorded {
                first: FirstRun::AtOnce,
            },
            wake: Wake::default(),
        }
    }

    fn is_due(&self, last_run_at: Millis, now: Millis) -> bool {
        now.saturating_sub(last_run_at) >= INTERVAL_MS
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        let accounts = self
            .store
            .accounts_past_period_end(now, ACCOUNTS_PER_RUN)
            .await?;
        if !accounts.is_empty() {
            let new = self.reporter.period_end_run(accounts);
            let begun = self.reporter.begin_for_job(NAME, &new, now).await?;
            if begun.is_none() {
                return Ok(Next::Wait);
            }
        }
        self.warn_of_deadlines(now).await?;
        Ok(Next::Wait)
    }
}
