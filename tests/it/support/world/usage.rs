//! Helpers that read usage from the service and the fake Stripe, and wait for a state.

use std::future::Future;

use chrono::{DateTime, Utc};
use usage_client::{ForceReport, Get, ListReports, ReportSummary, Retry, UsageReport};

use super::{World, poll, within};

impl World {
    /// Reports everything and waits for the end of the run.
    pub(crate) async fn report_all(&self) -> ReportSummary {
        within("a report", async {
            let run = self
                .client()
                .force_report(ForceReport::all())
                .await
                .expect("a run");
            run.summary().await.expect("a summary")
        })
        .await
    }

    /// An account's usage of the default meter in the last 36 days: total, reported, not yet reported, not billable.
    pub(crate) async fn usage(&self, account: &str) -> (i64, i64, i64, i64) {
        self.usage_of(account, "api_calls").await
    }

    /// The total of the default meter, as a client with its usual retries sees it.
    pub(crate) async fn usage_with_retry(&self, account: &str) -> i64 {
        let client = self.client().with_retry(Retry::default());
        let query = self.recent(account).meter("api_calls");
        let usage = client.get(query).await.expect("usage");
        usage
            .meter("api_calls")
            .expect("the meter")
            .quantities
            .total
    }

    pub(crate) async fn usage_of(&self, account: &str, meter: &str) -> (i64, i64, i64, i64) {
        let query = self.recent(account).meter(meter);
        let usage = self.client().get(query).await.expect("usage");
        let quantities = usage.meter(meter).expect("the meter").quantities;
        (
            quantities.total,
            quantities.reported,
            quantities.not_yet_reported,
            quantities.not_billable,
        )
    }

    /// An account's usage of all meters in the last 36 days.
    pub(crate) async fn total_of_all_meters(&self, account: &str) -> i64 {
        let query = self.recent(account);
        let usage = self.client().get(query).await.expect("usage");
        let meters = usage.meters.iter();
        meters.map(|meter| meter.quantities.total).sum()
    }

    /// A query with a fixed period, because the default one changes at the turn of a month.
    pub(crate) fn recent(&self, account: &str) -> Get {
        Get::account(account).period(self.day(-36), self.day(2))
    }

    fn day(&self, days: i64) -> DateTime<Utc> {
        const DAY: i64 = 86_400_000;
        let now = self.clock.now();
        DateTime::from_timestamp_millis(now - now.rem_euclid(DAY) + days * DAY).expect("a day")
    }

    /// Every report of an account, newest first.
    pub(crate) async fn reports(&self, account: &str) -> Vec<UsageReport> {
        let filter = ListReports::new().account(account);
        self.client()
            .list_all_reports(filter, 100_000)
            .await
            .expect("reports")
            .reports
    }

    /// The fake Stripe's total of a customer and event name.
    pub(crate) async fn stripe_total(&self, customer: &str, event_name: &str) -> i64 {
        let totals = self.stripe().totals().await.expect("totals");
        totals
            .get(&(customer.to_owned(), event_name.to_owned()))
            .copied()
            .unwrap_or(0)
    }

    /// Polls until a condition is met.
    pub(crate) async fn wait_until<F: Future<Output = bool>>(
        &self,
        what: &str,
        mut is_so: impl FnMut() -> F,
    ) {
        poll(what, || {
            let answer = is_so();
            async { answer.await.then_some(()) }
        })
        .await;
    }

    /// Waits until no report of an account is left to send.
    pub(crate) async fn wait_until_sent(&self, account: &str) {
        self.wait_until("every report to be sent", || async {
            let reports = self.reports(account).await;
            !reports.iter().any(|report| {
                use usage_client::ReportState::{Closed, Sending};
                matches!(report.state, Closed | Sending)
            })
        })
        .await;
    }
}
