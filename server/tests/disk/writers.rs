//! The other writers during an outage of the disk: links, closing, marking and recording results.

use chrono::DateTime;
use fake_stripe::{FakeStripe, Settings};
use usage_client::{ForceReport, PutAccount, UsageClient};
use usage_server::clock::Clock;

use crate::{
    callers::{Callers, assert_retryable},
    disk::Disk,
    faults::{EIO, ENOSPC, LOG, Rule, SYNC, WRITE},
    wait_until, within,
};

/// A schedule that does not fire before 2052, in the next February with five Thursdays.
const NEVER: &str = "--report-schedule=0 0 * 2 4#5";
/// The accounts of the callers.
const ACCOUNTS: usize = 3;
const DAY_MS: i64 = 86_400_000;

async fn stripe_total(stripe: &FakeStripe) -> i64 {
    stripe.control().totals().await.unwrap().values().sum()
}

/// Forces a run, and sends it again while the disk refuses it.
async fn report_all(client: &UsageClient) -> usize {
    let mut refusals = 0;
    loop {
        match client.force_report(ForceReport::all()).await {
            Ok(_) => return refusals,
            Err(error) => assert_retryable(&error),
        }
        refusals += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_around_outages_early_in_a_run_is_billed_once() {
    bill_around_outages([0, 9]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_around_outages_within_a_run_is_billed_once() {
    bill_around_outages([18, 27]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_around_outages_late_in_a_run_is_billed_once() {
    bill_around_outages([36, 45]).await;
}

/// Counts and forces runs around short outages. Each begins after a number of writes and syncs.
async fn bill_around_outages(begins_after: [i32; 2]) {
    let stripe = FakeStripe::start(Settings::default()).await.unwrap();
    stripe.control().create_meter("api_calls").await.unwrap();
    let disk = Disk::new();
    let flags = [
        format!("--stripe-secret-key={}", stripe.secret_key()),
        format!("--stripe-api-base={}", stripe.base_url()),
        "--stripe-retry-ms=20".to_owned(),
        "--stripe-events-per-sec=1000".to_owned(),
        NEVER.to_owned(),
    ];
    let process = disk.start_with(&flags).await;
    let client = process.client();
    for number in 0..ACCOUNTS {
        let customer = format!("cus_{number}");
        stripe
            .control()
            .create_subscribed_customer(&customer)
            .await
            .unwrap();
        let from = Clock::system().now() - 20 * DAY_MS;
        let from = DateTime::from_timestamp_millis(from).unwrap();
        let put = PutAccount::stripe(format!("account-{number}"), customer).bill_from(from);
        client.put_account(put).await.unwrap();
    }
    let callers = Callers::start(&client);
    for (error, writes) in [EIO, ENOSPC].into_iter().zip(begins_after) {
        callers.wait_for_more(10).await;
        let rule = Rule::fail(LOG, WRITE | SYNC, error);
        disk.faults.set(&[rule.after(writes).times(40)]);
        report_all(&client).await;
        wait_until("the outage", || async { disk.faults.hits(0) > 0 }).await;
        disk.faults.clear();
    }
    callers.wait_for_more(10).await;
    let calls = callers.kill(process).await;
    disk.check(&calls).await;
    // What was counted by then reaches Stripe once, also what was being sent when the server was killed.
    let process = disk.start_with(&flags).await;
    let mut counted = 0;
    for number in 0..ACCOUNTS {
        counted += process.total(&format!("account-{number}")).await;
    }
    report_all(&process.client()).await;
    within("the usage at Stripe", async {
        while stripe_total(&stripe).await < counted {
            tokio::time::sleep(crate::POLL_INTERVAL).await;
        }
    })
    .await;
    let run = process
        .client()
        .force_report(ForceReport::all())
        .await
        .unwrap();
    within("a run", run.summary()).await.unwrap();
    assert_eq!(stripe_total(&stripe).await, counted);
    stripe.stop().await;
}
