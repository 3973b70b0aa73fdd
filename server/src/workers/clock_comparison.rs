//! The job that compares the clocks of the database, this machine and Stripe, and reports what it finds.
//!
//! Every replica runs it. It also runs while the clocks disagree: only this job reads Stripe's clock.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    job::{Job, Next, Spec, Turn},
    wake::Wake,
};
use crate::{
    clock::Clock,
    domain::{
        MINUTE_MS, Millis, SECOND_MS,
        clock_check::{DOUBT_MS, Doubt, ahead_of, direction, is_steady},
    },
    error::Result,
    metrics,
    store::Store,
    stripe::key_check::{KeyCheck, check_key},
};

/// How often Stripe is asked while the time is in doubt.
const IN_DOUBT_MS: Millis = 5 * SECOND_MS;
/// How often the log repeats what is wrong.
const REPEAT_MS: Millis = MINUTE_MS;
/// How long an answer of Stripe may take to say something about the present moment.
const STRIPE_ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// How many times in a row Stripe may show no time before its last answer is forgotten.
const MAX_SILENT: u32 = 3;

/// Where Stripe's time is read.
#[derive(Clone)]
pub(crate) struct StripeClock {
    pub(crate) secret_key: String,
    pub(crate) api_base: Option<String>,
    /// How often.
    pub(crate) every: Millis,
}

/// Compares clocks.
pub(crate) struct ClockComparison {
    store: Store,
    clock: Clock,
    stripe: Option<StripeClock>,
    interval: Duration,
    /// When Stripe was last asked, by the monotonic clock.
    asked: Option<Millis>,
    silent: u32,
    /// What was logged last, and when.
    logged: Option<(Option<Doubt>, Millis)>,
}

impl ClockComparison {
    pub(crate) fn new(
        store: Store,
        clock: Clock,
        stripe: Option<StripeClock>,
        interval: Duration,
    ) -> Self {
        Self {
            store,
            clock,
            stripe,
            interval,
            asked: None,
            silent: 0,
            logged: None,
        }
    }

    /// Compares the database's clock with Stripe's, if that is due.
    async fn ask_stripe(&mut self) -> Result<()> {
        let Some(stripe) = &self.stripe else {
            return Ok(());
        };
        let elapsed = self.clock.elapsed();
        let wait = if self.clock.doubt().is_some() {
            stripe.every.min(IN_DOUBT_MS)
        } else {
            stripe.every
        };
        if self
            .asked
            .is_some_and(|asked| elapsed < asked.saturating_add(wait))
        {
            return Ok(());
        }
        self.asked = Some(elapsed);
        let begun = self.clock.elapsed();
        let before = self.store.shared_now().await?;
        let answer = timeout(
            STRIPE_ANSWERS_WITHIN,
            check_key(&stripe.secret_key, stripe.api_base.as_deref()),
        );
        let date = match answer.await {
            Ok(Ok(KeyCheck { date, .. })) => date,
            Ok(Err(error)) => {
                tracing::debug!(%error, "Stripe did not show its time");
                None
            }
            Err(_) => None,
        };
        let after = self.store.shared_now().await?;
        let passed = self.clock.elapsed().saturating_sub(begun);
        if !is_steady(before, after, passed) {
            // A clock that jumped meanwhile agrees with any time between: Stripe is asked again at the next turn.
            return Ok(());
        }
        if let Some(date) = date {
            self.silent = 0;
            let ahead = ahead_of(before, after, date, SECOND_MS);
            self.clock.compare_with_stripe(Some(ahead));
        } else {
            self.silent = self.silent.saturating_add(1);
            if self.silent >= MAX_SILENT {
                self.clock.compare_with_stripe(None);
            }
        }
        Ok(())
    }

    fn report(&mut self) {
        let check = self.clock.check();
        let doubt = check.doubt();
        metrics::clocks(
            check.machine_ahead(),
            check.ahead_of_stripe(),
            doubt.is_some(),
        );
        let elapsed = self.clock.elapsed();
        let last = self
            .logged
            .filter(|(_, at)| elapsed < at.saturating_add(REPEAT_MS));
        let was_in_doubt = self.logged.is_some_and(|(doubt, _)| doubt.is_some());
        let is_known = last.is_some_and(|(known, _)| known.is_some() == doubt.is_some());
        if is_known {
            return;
        }
        self.logged = Some((doubt, elapsed));
        match doubt {
            Some(doubt) => tracing::error!(
                "{doubt}: usage is counted, but nothing is closed, sent, expired or deleted until the clocks agree"
            ),
            None if was_in_doubt => tracing::info!("the clocks agree again"),
            None => {
                let ahead = check.machine_ahead();
                if ahead.saturating_abs() >= DOUBT_MS {
                    let direction = direction(ahead);
                    tracing::warn!("the clock of this machine is {direction} the database's");
                }
            }
        }
    }
}

impl Job for ClockComparison {
    fn spec(&self) -> Spec {
        Spec {
            name: "clock comparison",
            interval: self.interval,
            turn: Turn::EveryReplica,
            wake: Wake::default(),
        }
    }

    fn runs_in_doubt(&self) -> bool {
        true
    }

    async fn run(&mut self, _now: Millis) -> Result<Next> {
        self.ask_stripe().await?;
        self.report();
        Ok(Next::Wait)
    }
}
