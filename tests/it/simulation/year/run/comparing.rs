//! The comparison at the end: invoices, discarded usage and the reports of the service, against the model.

use std::{collections::BTreeMap, ops::Range};

use fake_stripe::InvoiceSnapshot;
use usage_client::ReportState;

use super::{SimulatedAccount, Year};
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
        let (mut lines, mut too_late, mut free) = (0, 0, 0);
        for account in &self.accounts {
            let charged = charged(&invoices, account);
            lines += charged.len();
            let name = &account.name;
            if charged != account.model.charged(now) {
                eprintln!(
                    "{:#?}\n{:#?}",
                    account.model,
                    self.world.reports(name).await
                );
                eprintln!("{:#?}", self.world.stripe().discarded_usage().await);
            }
            assert_eq!(
                charged,
                account.model.charged(now),
                "the invoices of {name}, seed {seed}",
            );
            too_late += usize::from(self.compare_reports(account, Fate::TooLate).await != 0);
            free += usize::from(self.compare_reports(account, Fate::NotBillable).await != 0);
        }
        let discarded = self.world.stripe().discarded_usage().await.expect("usage");
        assert_eq!(discarded, [], "nothing is lost, seed {seed}");
        self.compare_with_service(lines).await;
        self.compare_sign_offs().await;
        self.check_done();
        eprintln!(
            "seed {seed}: {lines} lines of invoices are as they must be; {too_late} accounts had some too late, {free} had some free"
        );
        assert!(lines > self.accounts.len(), "hardly anything was charged");
    }

    /// What admins do was done, if there were enough accounts and months for it.
    fn check_done(&self) {
        eprintln!("seed {}: {:?}", self.seed, self.done);
        let is_large = self.size.accounts >= 10 && self.size.months >= 3;
        if is_large && self.size.has("corrections") {
            let done = (self.done.added, self.done.taken, self.done.refused);
            let is_each_done = done.0 > 0 && done.1 > 0 && done.2 > 0;
            assert!(is_each_done, "{:?}, seed {}", self.done, self.seed);
        }
        if is_large && self.size.has("decisions") {
            let is_none_decided = self.done.decided.is_empty();
            assert!(!is_none_decided, "{:?}, seed {}", self.done, self.seed);
        }
    }

    /// The service has read the invoices itself, and found the same.
    async fn compare_with_service(&self, lines: usize) {
        self.world.wait_until_compared().await;
        let found = "invoice_comparisons WHERE finding";
        let differences = self.world.count_rows(&format!("{found} <> 'equal'")).await;
        let equal = self.world.count_rows(&format!("{found} = 'equal'")).await;
        assert_eq!(differences, 0, "seed {}", self.seed);
        let lines = i64::try_from(lines).expect("few lines");
        assert!(
            equal >= lines / 2,
            "only {equal} of {lines} lines were compared"
        );
    }

    /// How many reports the service lists whose windows start in a time, by account, customer and meter.
    pub(super) async fn listed(
        &self,
        time: &Range<i64>,
    ) -> BTreeMap<(String, Option<String>, String), i64> {
        let mut listed = BTreeMap::new();
        for account in &self.accounts {
            for report in self.world.reports(&account.name).await {
                if !time.contains(&report.window.start.timestamp_millis()) {
                    continue;
                }
                // Whom an open one will be billed to is not decided.
                let is_open = report.state == ReportState::Open;
                let customer = report.stripe_customer.filter(|_| !is_open);
                let key = (report.account_id, customer, report.meter);
                *listed.entry(key).or_default() += 1;
            }
        }
        listed
    }

    /// Compares the sums of an account's reports in each state. Returns the sum of one fate.
    async fn compare_reports(&self, account: &SimulatedAccount, asked: Fate) -> i64 {
        let reports = self.world.reports(&account.name).await;
        let mut answer = 0;
        for (meter, (in_service, _)) in METERS.iter().enumerate() {
            let sum = |state: ReportState| -> i64 {
                let own = reports.iter();
                own.filter(|report| report.meter == *in_service && report.state == state)
                    .map(|report| report.quantity)
                    .sum()
            };
            let of = |fate: Fate| account.model.sum(meter, |own| own == fate);
            answer += of(asked);
            let is_getting_too_old = account
                .model
                .is_getting_too_old(self.now.timestamp_millis());
            assert_eq!(
                sum(ReportState::TooLate) + sum(ReportState::Uncharged),
                of(Fate::TooLate) + of(Fate::Uncharged),
                "held usage of {} and {in_service}, seed {}: {:#?}\n{reports:#?}",
                account.name,
                self.seed,
                account.model
            );
            if !is_getting_too_old {
                assert_eq!(sum(ReportState::Uncharged), of(Fate::Uncharged));
            }
            for (state, fate) in [
                (ReportState::NotBillable, Fate::NotBillable),
                (ReportState::NoCustomer, Fate::NoCustomer),
                (ReportState::Closed, Fate::Closed),
                (ReportState::Open, Fate::Open),
                (ReportState::WrittenOff, Fate::WrittenOff),
            ] {
                assert_eq!(
                    sum(state),
                    of(fate),
                    "{state:?} of {} and {in_service}, seed {}: {:#?}\n{reports:#?}",
                    account.name,
                    self.seed,
                    account.model
                );
            }
            let sent = sum(ReportState::Accepted)
                + sum(ReportState::Confirmed)
                + sum(ReportState::Invoiced);
            let fated = account
                .model
                .sum(meter, |fate| matches!(fate, Fate::Sent(_)));
            assert_eq!(
                sent, fated,
                "{} at Stripe, seed {}",
                account.name, self.seed
            );
        }
        answer
    }
}

/// The quantities that an account's final invoices charge.
fn charged(invoices: &[InvoiceSnapshot], account: &SimulatedAccount) -> BTreeMap<LineKey, i64> {
    let mut charged = BTreeMap::new();
    let own = invoices
        .iter()
        .filter(|invoice| invoice.customer == account.customer() && invoice.finalized_at.is_some());
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
