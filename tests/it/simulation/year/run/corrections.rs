//! Corrections: they add and take away usage of past and present windows, of linked, free, cancelled and unlinked accounts.

use chrono::DateTime;
use usage_client::{Correct, Corrected, Error, Reason, ReportKind};

use super::{HOUR, Year};
use crate::simulation::year::plan::METERS;

const REASON: &str = "counted in another place";

/// A correction: the meter's number, the time and the quantity.
#[derive(Clone, Copy, Debug)]
struct Change {
    meter: usize,
    at: i64,
    quantity: i64,
}

impl Year<'_> {
    /// Corrects the usage of some accounts.
    pub(super) async fn correct_some(&mut self) {
        if !self.size.has("corrections") {
            return;
        }
        for account in 0..self.accounts.len() {
            match self.random.below(12) {
                0 | 1 => self.add_usage(account).await,
                2 | 3 => self.take_usage(account).await,
                4 => self.take_too_much(account).await,
                _ => {}
            }
        }
        self.world.wait_until_idle().await;
    }

    async fn add_usage(&mut self, account: usize) {
        let back = self.random.pick(&[HOUR, 24 * HOUR, 30 * 24 * HOUR]);
        let change = Change {
            meter: self.some_meter(account),
            at: self.now.timestamp_millis() - 1 - self.random.below(back),
            quantity: 1 + self.random.below(1_000),
        };
        let (name, key) = (self.accounts[account].name.clone(), self.new_key());
        let client = self.world.client();
        let added = client.correct(correction(&name, change, &key)).await;
        let added = added.expect("a correction");
        self.done.added += 1;
        self.check_entered(account, change, &key, &added).await;
    }

    /// Takes a part of some usage away, at its time.
    async fn take_usage(&mut self, account: usize) {
        let now = self.now.timestamp_millis();
        let takeable = self.accounts[account].model.takeable(now);
        if takeable.is_empty() {
            return;
        }
        let from = self.random.pick(&takeable);
        let taken = 1 + self.random.below(from.most);
        let change = Change {
            meter: from.meter,
            at: from.at,
            quantity: -taken,
        };
        let (name, key) = (self.accounts[account].name.clone(), self.new_key());
        let client = self.world.client();
        match client.correct(correction(&name, change, &key)).await {
            Ok(entered) => {
                self.done.taken += 1;
                self.accounts[account].model.take(from, taken);
                self.check_entered(account, change, &key, &entered).await;
            }
            // The service sums whole periods, and with what is negative and waits for a decision. That is not in the model:
            // without such a correction, there is always enough.
            Err(error) => {
                self.check_below_zero(&error);
                let model = &self.accounts[account].model;
                assert!(model.has_negative_apart(change.meter), "{name}: {error}");
            }
        }
    }

    /// More than there ever was is refused, and changes nothing.
    async fn take_too_much(&mut self, account: usize) {
        let meter = self.some_meter(account);
        let all = self.accounts[account].model.added(meter);
        let change = Change {
            meter,
            at: self.now.timestamp_millis() - 1 - self.random.below(30 * 24 * HOUR),
            quantity: -all - 1,
        };
        let (name, key) = (self.accounts[account].name.clone(), self.new_key());
        let client = self.world.client();
        let refused = client.correct(correction(&name, change, &key)).await;
        let error = refused.expect_err("more than there is");
        self.check_below_zero(&error);
    }

    fn check_below_zero(&mut self, error: &Error) {
        let reason = error.reason();
        assert_eq!(reason, Some(&Reason::BelowZero), "{error}");
        self.done.refused += 1;
    }

    /// Applies a correction to the model. A repeated key enters nothing.
    async fn check_entered(
        &mut self,
        account: usize,
        change: Change,
        key: &str,
        entered: &Corrected,
    ) {
        let (report, name) = (&entered.report, self.accounts[account].name.clone());
        assert!(!entered.duplicate, "{entered:?}");
        assert_eq!(report.kind, ReportKind::Correction, "{entered:?}");
        assert_eq!(report.quantity, change.quantity, "{entered:?}");
        let client = self.world.client();
        if self.random.one_in(3) {
            let again = client.correct(correction(&name, change, key)).await;
            let again = again.expect("a repeated correction");
            assert!(again.duplicate, "{again:?}");
            assert_eq!(again.report.id, report.id, "{again:?}");
        }
        if self.random.one_in(4) {
            let other = Change {
                quantity: 2 * change.quantity,
                ..change
            };
            let refused = client.correct(correction(&name, other, key)).await;
            let error = refused.expect_err("another correction");
            let reason = error.reason();
            assert_eq!(reason, Some(&Reason::KeyReused), "{error}");
        }
        let now = self.now.timestamp_millis();
        let model = &mut self.accounts[account].model;
        model.correct((change.meter, change.at), change.quantity, now);
    }

    fn some_meter(&mut self, account: usize) -> usize {
        let meter = usize::try_from(self.random.below(2)).unwrap();
        meter % self.accounts[account].meters
    }

    fn new_key(&mut self) -> String {
        format!("correction-{}", self.random.next())
    }
}

fn correction(account: &str, change: Change, key: &str) -> Correct {
    let at = DateTime::from_timestamp_millis(change.at).expect("a time");
    Correct::new(account, change.quantity, REASON)
        .meter(METERS[change.meter].0)
        .timestamp(at)
        .requested_by("finance")
        .key(key)
}
