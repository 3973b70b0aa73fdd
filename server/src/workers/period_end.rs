//! The ends of billing periods: what was used is closed five minutes later by our own clock, and what may not
//! reach its invoice in time is said before it is too late.

use std::sync::Arc;

use super::reporter::Reporter;
use crate::{
    domain::{Millis, SECOND_MS},
    error::Result,
    metrics,
    store::{close::Scope, runs::NewRun},
};

/// The job's name in `leases`.
const PERIOD_END_JOB: &str = "period end";
/// How often is looked for billing periods that ended.
const PERIOD_END_EVERY_MS: Millis = 10 * SECOND_MS;
/// How many accounts one run of ended periods closes; the next look finds the rest.
const ACCOUNTS_PER_RUN: u64 = 500;

impl Reporter {
    /// Starts watching the ends of billing periods, where there is a Stripe account that charges for them.
    pub(crate) fn start_watching_periods(self: &Arc<Self>) {
        if self.stripe.is_none() {
            return;
        }
        let reporter = Arc::clone(self);
        self.tasks.spawn(async move {
            while !reporter.shutdown.is_cancelled() {
                let now = reporter.clock.now();
                if let Err(error) = reporter.close_ended_periods(now).await {
                    tracing::warn!(%error, "ended billing periods could not be looked at");
                }
                tokio::select! {
                    () = tokio::time::sleep(reporter.options.idle) => {}
                    () = reporter.shutdown.cancelled() => {}
                }
            }
        });
    }

    /// Closes what was used in billing periods that ended, by our own clock: their invoices take it only for
    /// a while.
    async fn close_ended_periods(self: &Arc<Self>, now: Millis) -> Result<()> {
        let last = self.store.last_run_at(PERIOD_END_JOB, 0).await?;
        if now.saturating_sub(last) < PERIOD_END_EVERY_MS {
            return Ok(());
        }
        let accounts = self
            .store
            .accounts_past_period_end(now, ACCOUNTS_PER_RUN)
            .await?;
        let new = NewRun {
            trigger: "period end",
            requested_by: self.replica.clone(),
            scope: Scope::Accounts(accounts.clone()),
        };
        let is_ours = if accounts.is_empty() {
            self.store.claim_job(PERIOD_END_JOB, last, now).await?
        } else {
            let run = self
                .store
                .claim_scheduled_run(PERIOD_END_JOB, last, &new, now)
                .await?;
            let is_ours = run.is_some();
            if let Some(run) = run {
                tracing::info!(run = %run.id, accounts = accounts.len(), "billing periods ended");
                self.spawn_closing(run);
            }
            is_ours
        };
        if is_ours {
            self.warn_of_deadlines(now).await?;
        }
        Ok(())
    }

    /// Says which reports may miss their invoices, or Stripe's 35 days, while there is time.
    async fn warn_of_deadlines(&self, now: Millis) -> Result<()> {
        let near = self.store.near_deadlines(now).await?;
        metrics::near_deadline("draft_end", near.drafts);
        metrics::near_deadline("33_days", near.old);
        if near.drafts > 0 || near.old > 0 {
            tracing::error!(
                near_draft_end = near.drafts,
                near_33_days = near.old,
                "reports that Stripe has not taken are near their deadline"
            );
        }
        Ok(())
    }
}
