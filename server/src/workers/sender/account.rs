//! What the sender does before it sends: it remembers the Stripe account of the first report, checks the mark, and holds
//! the reports while sending is paused or the account is not the right one.

use std::time::Duration;

use tokio::time::Instant;

use super::Sender;
use crate::{
    account_check::identify,
    domain::{Millis, pause::PauseReason},
    error::Result,
    metrics::{self, PausedBy},
    store::sending_state::Sending,
    stripe::Failure,
    workers::{
        backoff::{backoff_ms, duration},
        job::Next,
        send_event::Pause,
        sender_mark::Checked,
    },
};

/// How often new reports get the reason of a pause in the database: the query reads all that wait.
const EXPLAIN_INTERVAL: Duration = Duration::from_secs(2);

impl Sender {
    /// Whether the account is known to be the right one, and no check that failed has to wait.
    pub(super) fn is_account_compared(&self, sending: &Sending) -> bool {
        let stripe = &self.requests.stripe;
        let account = sending.account.as_ref();
        let is_waiting = self.check_again.is_some_and(|(at, _)| Instant::now() < at);
        !is_waiting && account.is_none_or(|account| stripe.is_known_by(&account.meter))
    }

    /// Remembers the Stripe account before the first report, and checks the mark. Returns whether reports may be sent.
    pub(super) async fn check_account(
        &mut self,
        sending: &Sending,
        now: Millis,
        sends: bool,
    ) -> Result<bool> {
        let requests = self.requests.clone();
        let mut is_remembered = sending.account.is_some();
        if !is_remembered && sends {
            match identify(&requests.stripe, &requests.meters).await {
                // There is no meter, so Stripe accepts no event.
                Ok(None) => return Ok(true),
                Ok(Some(account)) => {
                    let remembered = requests.store.remember_account(&account).await?;
                    if remembered.as_ref() != Some(&account) {
                        // Another replica was first. Its account has to be compared.
                        return Ok(false);
                    }
                    requests.stripe.allow_requests(Some(&account.meter));
                    is_remembered = true;
                }
                Err(failure) => return self.check_failed(&failure).await,
            }
        }
        if self.mark.is_due(now, sends) {
            match self.mark.check(&requests, now, is_remembered).await? {
                Checked::Ours => {}
                Checked::NotOurs => {
                    requests
                        .store
                        .pause_sending(PauseReason::ForeignMark, now)
                        .await?;
                    return Ok(false);
                }
                Checked::Failed(failure) => return self.check_failed(&failure).await,
            }
        }
        if self.check_again.take().is_some() {
            // The check may have failed because of the key.
            metrics::sending_paused(PausedBy::RefusedKey, false);
        }
        Ok(true)
    }

    async fn check_failed(&mut self, failure: &Failure) -> Result<bool> {
        let failures = self.check_again.map_or(0, |(_, failures)| failures);
        let wait = duration(backoff_ms(failures, self.requests.retry_ms));
        let now = Instant::now();
        let at = now.checked_add(wait).unwrap_or(now);
        self.check_again = Some((at, failures.saturating_add(1)));
        let why = failure.message();
        if failures == 0 {
            tracing::warn!(
                why,
                "the Stripe account could not be checked: nothing is sent until it is"
            );
        }
        self.explain(why).await?;
        if matches!(failure, Failure::Denied(_)) {
            self.pause(Pause::KeyRefused);
        }
        Ok(false)
    }

    /// Gives a reason to the reports that wait, so that a run does not wait for them.
    async fn explain(&mut self, why: &str) -> Result<()> {
        self.requests.store.explain_pause(why).await?;
        self.explained = Some(Instant::now());
        self.signals.progress.notify_waiters();
        Ok(())
    }

    /// The same, unless it was done a moment ago.
    pub(super) async fn explain_at_times(&mut self, why: &str) -> Result<()> {
        if self
            .explained
            .is_some_and(|at| at.elapsed() < EXPLAIN_INTERVAL)
        {
            return Ok(());
        }
        self.explain(why).await
    }

    /// What to do instead of sending, if sending is paused in the database or Stripe's account is not the right one.
    pub(super) async fn hold(&mut self, sending: &Sending) -> Result<Option<Next>> {
        let refusal = self.requests.stripe.refusal();
        let is_other = matches!(refusal, Some(Failure::Denied(_)));
        let why = sending.paused.map(|why| why.to_string());
        metrics::sending_paused(PausedBy::Database, why.is_some());
        metrics::sending_paused(PausedBy::OtherAccount, is_other);
        let Some(why) = why.or_else(|| refusal.map(|failure| failure.message().to_owned())) else {
            self.has_logged_pause = false;
            return Ok(None);
        };
        if !self.has_logged_pause {
            tracing::error!(why, "sending is paused: nothing reaches Stripe");
            self.has_logged_pause = true;
        }
        self.explain_at_times(&why).await?;
        // Another replica may have a key of the right account.
        let hands_over = is_other && sending.paused.is_none() && self.in_progress.is_empty();
        Ok(Some(if hands_over {
            Next::HandOver
        } else {
            Next::Wait
        }))
    }
}
