//! The job that compares the clocks of the database, this machine and Stripe, and reports what it finds.
//!
//! Every replica runs it. It also runs while the clocks disagree: only this job reads Stripe's clock.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{
    job::{Job, Next, Spec, Turn},
    wake::Wake,
};
use crate::{
    clock::Clock,
    domain::{
        MINUTE_MS, Millis, SECOND_MS,
        clock_check::{DOUBT_MS, Doubt, ahead_of, direction},
    },
    error::Result,
    metrics,
    store::Store,
    stripe::{ShownDate, Stripe},
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
    pub(crate) stripe: Stripe,
    /// How often it is asked if no other request shows it.
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
    /// When the last answer that was compared ended.
    compared: Option<Instant>,
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
            compared: None,
            logged: None,
        }
    }

    /// Compares the database's clock with Stripe's, as the last answer to any request showed it. Without a new one
    /// Stripe is asked, if that is due.
    async fn compare_with_stripe(&mut self) -> Result<()> {
        let Some(stripe) = self.stripe.clone() else {
            return Ok(());
        };
        if let Some(shown) = self.new_date(&stripe.stripe) {
            return self.compare(shown).await;
        }
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
        let answer = timeout(STRIPE_ANSWERS_WITHIN, stripe.stripe.check_key()).await;
        if let Ok(Err(failure)) = answer {
            tracing::debug!(why = failure.message(), "Stripe did not show its time");
        }
        if let Some(shown) = self.new_date(&stripe.stripe) {
            return self.compare(shown).await;
        }
        self.silent = self.silent.saturating_add(1);
        if self.silent >= MAX_SILENT {
            self.clock.compare_with_stripe(None);
        }
        Ok(())
    }

    /// Stripe's clock, if a request showed it that was not compared yet.
    fn new_date(&self, stripe: &Stripe) -> Option<ShownDate> {
        let shown = stripe.last_date()?;
        let is_new = self.compared.is_none_or(|before| before < shown.ended);
        let is_fresh = shown.begun.elapsed() < STRIPE_ANSWERS_WITHIN;
        Some(shown).filter(|_| is_new && is_fresh)
    }

    async fn compare(&mut self, shown: ShownDate) -> Result<()> {
        let now = self.store.shared_now().await?;
        // The database's clock as it goes now, when the request began and ended.
        let at = |then: Instant| {
            let age = Millis::try_from(then.elapsed().as_millis()).unwrap_or(Millis::MAX);
            now.saturating_sub(age)
        };
        let ahead = ahead_of(at(shown.begun), at(shown.ended), shown.date, SECOND_MS);
        self.clock.compare_with_stripe(Some(ahead));
        self.compared = Some(shown.ended);
        self.asked = Some(self.clock.elapsed());
        self.silent = 0;
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
        self.compare_with_stripe().await?;
        self.report();
        Ok(Next::Wait)
    }
}
