//! The usage of a cell: some accounts, each with many windows, and what Stripe must have of it in the end.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::{Control, StoredEvent};
use futures_util::{StreamExt as _, stream};
use usage_client::{Batch, Increment, IncrementResult, PutAccount, UsageClient};
use usage_server::clock::Clock;

/// The service's default meter, and its event name at Stripe.
pub(crate) const METER: &str = "api_calls";
/// Accounts with a Stripe customer, or more if each would have too many reports. More than the concurrent requests, so that
/// no request waits for a customer's last.
const ACCOUNTS: u32 = 250;
/// The most reports of an account: hours.
const MAX_HOURS: u32 = 200;
/// Concurrent calls that link accounts.
const CONCURRENT: usize = 16;

/// One increment for each report: an account and an hour.
#[derive(Debug)]
pub(crate) struct Usage {
    accounts: u32,
    hours: u32,
    now: DateTime<Utc>,
}

impl Usage {
    /// Usage of this many reports, less what does not fill an hour of all accounts.
    pub(crate) fn of(reports: u32) -> Self {
        let accounts = ACCOUNTS.max(reports.div_ceil(MAX_HOURS));
        Self {
            accounts,
            hours: reports / accounts,
            now: DateTime::from_timestamp_millis(Clock::system().now()).expect("a date"),
        }
    }

    /// How many reports it makes.
    pub(crate) fn reports(&self) -> usize {
        usize::try_from(self.hours * self.accounts).expect("a number of reports")
    }

    /// The total of all reports.
    pub(crate) fn total(&self) -> i64 {
        self.increments().map(|(_, _, quantity)| quantity).sum()
    }

    /// The accounts, the times and the quantities. No two reports of an account are equal.
    fn increments(&self) -> impl Iterator<Item = (u32, DateTime<Utc>, i64)> + '_ {
        (1..=self.hours).flat_map(move |hour| {
            let at = self.now - TimeDelta::hours(i64::from(hour));
            (0..self.accounts).map(move |account| (account, at, i64::from(hour * 10_000 + account)))
        })
    }

    /// Creates a customer for each account, and links it.
    pub(crate) async fn link(&self, client: &UsageClient, control: &Control) {
        let from = self.now - TimeDelta::days(30);
        stream::iter(0..self.accounts)
            .for_each_concurrent(CONCURRENT, |number| async move {
                let customer = customer(number);
                control
                    .create_subscribed_customer(&customer)
                    .await
                    .expect("a customer");
                let put = PutAccount::stripe(account(number), customer).bill_from(from);
                client.put_account(put).await.expect("a link");
            })
            .await;
    }

    /// Counts everything, in batches.
    pub(crate) async fn count(&self, client: &UsageClient) {
        let increments: Vec<_> = self.increments().collect();
        for part in increments.chunks(Batch::MAX_LEN) {
            let batch: Batch = part
                .iter()
                .map(|&(number, at, quantity)| {
                    Increment::new(account(number))
                        .quantity(quantity)
                        .timestamp(at)
                })
                .collect();
            let answer = client.increment_batch(batch).await.expect("a batch");
            let are_counted = answer
                .results
                .iter()
                .all(|result| *result == IncrementResult::Counted);
            assert!(are_counted, "not everything was counted: {answer:?}");
        }
    }

    /// Stripe must have one event for each report, and the counted total of each customer.
    pub(crate) fn assert_sent(
        &self,
        events: &[StoredEvent],
        totals: &BTreeMap<(String, String), i64>,
    ) {
        assert_eq!(events.len(), self.reports(), "Stripe's number of events");
        let identifiers: HashSet<&str> = events
            .iter()
            .map(|event| event.identifier.as_str())
            .collect();
        assert_eq!(
            identifiers.len(),
            events.len(),
            "an identifier is used twice"
        );
        let mut counted: BTreeMap<(String, String), i64> = BTreeMap::new();
        for (number, _, quantity) in self.increments() {
            *counted
                .entry((customer(number), METER.to_owned()))
                .or_default() += quantity;
        }
        assert_eq!(
            *totals, counted,
            "Stripe's totals and what was counted differ"
        );
    }
}

fn account(number: u32) -> String {
    format!("account-{number:04}")
}

fn customer(number: u32) -> String {
    format!("cus_{number:04}")
}
