//! The job that finds out whether the key belongs to the Stripe account that usage is reported to. Until it knows, and if
//! it does not, no other request to Stripe is sent: no event, and no sync that would believe another account.
//!
//! Every replica runs it, because each could have another key. It asks Stripe once, and again when another account is
//! remembered. While nothing was reported, there is nothing to compare.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use super::{
    job::{Job, Next, Spec, Turn},
    wake::Signals,
};
use crate::{
    account_check::find_difference,
    domain::{Millis, stripe_account::StripeAccount},
    error::Result,
    store::Store,
    stripe::{Failure, Stripe},
};

/// How long an answer may take. Others start after the first comparison, and must not wait for long.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// How long after a comparison without an answer Stripe is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// The same after a refusal, or an answer that shows another account.
const ASK_REFUSED_AGAIN: Duration = Duration::from_mins(1);

/// Compares the key's account with the remembered one.
pub(crate) struct AccountCheck {
    store: Store,
    stripe: Stripe,
    interval: Duration,
    signals: Arc<Signals>,
    /// When Stripe was last asked without finding the right account, and how long to wait.
    asked: Option<(Instant, Duration)>,
    /// What was logged last.
    logged: Option<String>,
}

impl AccountCheck {
    pub(crate) fn new(
        store: Store,
        stripe: Stripe,
        interval: Duration,
        signals: Arc<Signals>,
    ) -> Self {
        stripe.refuse_requests(Failure::NoAnswer(
            "the Stripe account is not compared yet".to_owned(),
        ));
        Self {
            store,
            stripe,
            interval,
            signals,
            asked: None,
            logged: None,
        }
    }

    async fn compare(&mut self, remembered: &StripeAccount) {
        if self.asked.is_some_and(|(at, wait)| at.elapsed() < wait) {
            return;
        }
        let answer = timeout(ANSWERS_WITHIN, find_difference(&self.stripe, remembered)).await;
        let failure = match answer {
            Ok(Ok(None)) => {
                tracing::info!("usage is reported to {remembered}");
                self.stripe.allow_requests(Some(&remembered.meter));
                self.signals.send.wake();
                self.asked = None;
                self.logged = None;
                return;
            }
            Ok(Ok(Some(why))) => Failure::Denied(why),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::NoAnswer(format!(
                "Stripe did not show within {} s which account the key belongs to",
                ANSWERS_WITHIN.as_secs()
            )),
        };
        let wait = if failure.is_undecided() {
            ASK_AGAIN
        } else {
            ASK_REFUSED_AGAIN
        };
        self.asked = Some((Instant::now(), wait));
        let why = failure.message().to_owned();
        if self.logged.as_ref() != Some(&why) {
            tracing::error!(
                %why,
                "nothing is sent to Stripe, because its account is not known to be the right one; usage is counted"
            );
        }
        self.logged = Some(why);
        self.stripe.refuse_requests(failure);
    }
}

impl Job for AccountCheck {
    fn spec(&self) -> Spec {
        Spec {
            name: "account check",
            interval: self.interval,
            turn: Turn::EveryReplica,
            wake: super::wake::Wake::default(),
        }
    }

    fn runs_in_doubt(&self) -> bool {
        true
    }

    async fn run(&mut self, _now: Millis) -> Result<Next> {
        match self.store.sending().await?.account {
            None => self.stripe.allow_requests(None),
            Some(account) if self.stripe.is_known_by(&account.meter) => {}
            Some(account) => self.compare(&account).await,
        }
        Ok(Next::Wait)
    }
}
