//! Begins and ends the faults of a step.

use std::time::Duration;

use fake_stripe::WebhookOptions;

use crate::{
    disk::{DISK, Unsynced},
    faults::{self, EVENTS, Fault, Kind, StripeKind},
    random::Random,
    run::Run,
    time::MINUTE,
    world::{Outcome, text},
};

/// More requests than there are in some steps.
const MANY: u64 = 1_000_000;

impl Run {
    /// Begins the faults of a step, and ends those whose time has come.
    pub(crate) async fn begin_faults(&mut self, step: usize) -> Outcome<()> {
        DISK.begin_step(faults::of_disk(&self.faults, step, false));
        if self.outage_ends == Some(step) {
            self.outage_ends = None;
            self.world.is_wanted = true;
        }
        if self.lag_ends == Some(step) {
            self.lag_ends = None;
            let none = Duration::ZERO;
            let set = self.world.stripe.set_summary_delay(none).await;
            set.map_err(text)?;
        }
        if self.deaf_ends == Some(step) {
            self.deaf_ends = None;
            // Also other faults that are left of earlier steps.
            self.world.stripe.clear_faults().await.map_err(text)?;
        }
        if self.world.has_skew() {
            self.world.set_skew(0);
        }
        let own: Vec<(usize, Fault)> = self
            .faults
            .iter()
            .filter(|(_, fault)| fault.step == step)
            .cloned()
            .collect();
        for (number, fault) in own {
            self.begin_fault(step, number, fault.kind).await?;
        }
        Ok(())
    }

    async fn begin_fault(&mut self, step: usize, number: usize, kind: Kind) -> Outcome<()> {
        let stripe = self.world.stripe.clone();
        match kind {
            // The disk says when it is met.
            Kind::Disk { .. } => return Ok(()),
            Kind::PowerCut { unsynced, .. } => {
                self.world.unsynced = unsynced;
                return Ok(());
            }
            Kind::Kill => {
                let mut random = Random::of_part(self.seed, u64::try_from(number).unwrap_or(0));
                self.world.kill_in = u32::try_from(5 + random.below(12)).ok();
            }
            Kind::Restart => self.world.stop().await?,
            Kind::Outage { steps } => {
                self.world.is_wanted = false;
                self.outage_ends = Some(step + steps);
                self.world.kill(Some(Unsynced::Kept)).await?;
            }
            Kind::Freeze { ms } => self.world.freeze(ms).await?,
            Kind::Stripe {
                how,
                times,
                of_events,
            } => {
                self.may_refuse |= how == StripeKind::Refuses400;
                stripe
                    .script(how.script(times, of_events))
                    .await
                    .map_err(text)?;
            }
            Kind::Lag { mins, steps } => {
                self.lag_ends = Some(step + steps);
                let delay = Duration::from_secs(u64::from(mins) * 60);
                stripe.set_summary_delay(delay).await.map_err(text)?;
            }
            Kind::Deaf { steps } => {
                self.deaf_ends = Some(step + steps);
                let deaf = fake_stripe::Fault::accept_then_drop().times(MANY);
                stripe.script(deaf.on_path(EVENTS)).await.map_err(text)?;
            }
            Kind::Clock { mins } => self.world.set_skew(mins * MINUTE),
            Kind::Webhooks {
                copies,
                newest_first,
            } => {
                let options = WebhookOptions {
                    copies,
                    newest_first,
                    ..WebhookOptions::default()
                };
                stripe.set_webhook_options(&options).await.map_err(text)?;
            }
        }
        self.met.push(number);
        Ok(())
    }
}
