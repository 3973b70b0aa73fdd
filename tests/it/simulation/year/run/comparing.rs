//! The end of a year: the invoices, what was thrown away and the reports of the service, beside the model's.

use std::collections::BTreeMap;

use fake_stripe::InvoiceSnapshot;
use usage_client::ReportState;

use super::{Life, Year};
use crate::simulation::year::{
    oracle::{Fate, LineKey},
    plan::METERS,
};

impl Year<'_> {
    /// Compares everything.
    pub(super) async fn compare(&mut self) {
        self.report().await;
        self.step(self.now + chrono::TimeDelta::seconds(20)).await;
        let (now, seed) = (self.now.timestamp_millis(), self.seed);
        let invoices = self.world.stripe().invoices().await.expect("invoices");
        let (mut lines, mut missed, mut free) = (0, 0, 0);
        for life in &self.lives {
            let charged = charged(&invoices, life);
            lines += charged.len();
            let name = &life.name;
            if charged != life.model.charged(now) {
                eprintln!("{:#?}\n{:#?}", life.model, self.world.reports(name).await);
                eprintln!("{:#?}", self.world.stripe().discarded_usage().await);
            }
            assert_eq!(
                charged,
                life.model.charged(now),
                "the invoices of {name}, seed {seed}",
            );
            missed += usize::from(self.compare_reports(life, Fate::Missed).await > 0);
            free += usize::from(self.compare_reports(life, Fate::NotBillable).await > 0);
        }
        let thrown = self.world.stripe().discarded_usage().await.expect("usage");
        assert_eq!(thrown, [], "nothing is lost, seed {seed}");
        eprintln!(
            "seed {seed}: {lines} lines of invoices are as they must be; {missed} accounts missed some, {free} had some free"
        );
        assert!(lines > self.lives.len(), "hardly anything was charged");
    }

    /// Compares the sums of an account's reports in each state; answers that of one fate.
    async fn compare_reports(&self, life: &Life, asked: Fate) -> i64 {
        let reports = self.world.reports(&life.name).await;
        let mut answer = 0;
        for (meter, (in_service, _)) in METERS.iter().enumerate() {
            let sum = |state: ReportState| -> i64 {
                let own = reports.iter();
                own.filter(|report| report.meter == *in_service && report.state == state)
                    .map(|report| report.quantity)
                    .sum()
            };
            let of = |fate: Fate| life.model.sum(meter, |own| own == fate);
            answer += of(asked);
            for (state, fate) in [
                (ReportState::TooLate, Fate::Missed),
                (ReportState::NotBillable, Fate::NotBillable),
                (ReportState::NoCustomer, Fate::NoCustomer),
                (ReportState::Closed, Fate::Closed),
                (ReportState::Open, Fate::Open),
            ] {
                assert_eq!(
                    sum(state),
                    of(fate),
                    "{state:?} of {} and {in_service}, seed {}: {:#?}\n{reports:#?}",
                    life.name,
                    self.seed,
                    life.model
                );
            }
            let sent = sum(ReportState::Accepted) + sum(ReportState::Confirmed);
            let fated = life.model.sum(meter, |fate| matches!(fate, Fate::Sent(_)));
            assert_eq!(sent, fated, "{} at Stripe, seed {}", life.name, self.seed);
        }
        answer
    }
}

/// What the final invoices of an account charge.
fn charged(invoices: &[InvoiceSnapshot], life: &Life) -> BTreeMap<LineKey, i64> {
    let mut charged = BTreeMap::new();
    let own = invoices
        .iter()
        .filter(|invoice| invoice.customer == life.customer() && invoice.finalized_at.is_some());
    for invoice in own {
        for line in invoice.lines.iter().filter(|line| line.quantity != 0) {
            let meter = METERS
                .iter()
                .position(|(_, event_name)| line.event_name.as_deref() == Some(event_name));
            if let Some(meter) = meter {
                let key = (invoice.subscription.clone(), meter, line.period_start);
                *charged.entry(key).or_default() += line.quantity;
            }
        }
    }
    charged
}
