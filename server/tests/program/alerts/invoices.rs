//! What the database says of invoices and their deadlines.

use fake_stripe::Fault;

use super::{
    history::History,
    service::{Service, now},
};
use crate::process::TIMEOUT;

/// Units that the invoice of a period does not charge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invoice_that_differs() {
    const OPEN: &str = r#"usage_invoice_differences_open{finding="differs"}"#;
    let service = Service::start(&[]).await;
    let before = service.scrape_fresh().await;
    assert_eq!(before.get(OPEN), 0.0);
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    let at = now().timestamp_millis();
    let found = format!(
        "INSERT INTO invoice_comparisons (account_id, item, period_start, period_end, subscription, customer, meter, finding, \
         reported, invoiced, changed_at) VALUES ('acct', 'si_1', 0, {at}, 'sub_1', 'cus', 'api_calls', 'differs', 7, 5, {at})"
    );
    service.sql(&found).await;
    let during = service
        .scrape_when("a difference", |scrape| scrape.get(OPEN) == 1.0)
        .await;
    history.phase(60, &[("a", Some(&during))], &["UsageInvoiceDiffers"]);
    let decided =
        format!("UPDATE invoice_comparisons SET acknowledged_at = {at}, acknowledged_by = 'ann'");
    service.sql(&decided).await;
    let after = service
        .scrape_when("no open difference", |scrape| scrape.get(OPEN) == 0.0)
        .await;
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}

/// The invoices of a period cannot be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_that_waits() {
    const WAITING: &str = "usage_invoice_comparisons_waiting";
    let service = Service::start(&[]).await;
    service.link().await;
    let before = service.scrape_fresh().await;
    assert_eq!(before.get(WAITING), 0.0);
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    let since = now().timestamp_millis() - 7_200_000;
    let fails = format!("UPDATE billing_periods SET compare_failing_since = {since}");
    service.sql(&fails).await;
    let during = service
        .scrape_when("a comparison", |scrape| scrape.get(WAITING) >= 1.0)
        .await;
    history.phase(20 * 60, &[("a", Some(&during))], &[]);
    history.phase(
        6 * 60,
        &[("a", Some(&during))],
        &["UsageComparisonsWaiting"],
    );
    service
        .sql("UPDATE billing_periods SET compare_failing_since = NULL")
        .await;
    let after = service
        .scrape_when("no comparison", |scrape| scrape.get(WAITING) == 0.0)
        .await;
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}

/// Stripe does not take usage until it is nearly too old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_that_is_nearly_too_old() {
    const NEAR: &str = r#"usage_reports_near_deadline{deadline="33_days"}"#;
    let service = Service::start(&[]).await;
    service.link().await;
    service.report_accepted(3, 1).await;
    let before = service.scrape_fresh().await;
    assert_eq!(before.get(NEAR), 0.0);
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    let hang = Fault::block_until_released("hang").on_path("/v1/billing/meter_events");
    let control = service.stripe();
    control
        .script(hang.on_method("POST").always())
        .await
        .unwrap();
    service.count("acct", 5).await;
    service.report().await;
    control.wait_for_blocked("hang", 1, TIMEOUT).await.unwrap();
    let days =
        "UPDATE usage_reports SET window_start = window_start - 2894400000 WHERE state = 'sending'";
    service.sql(days).await;
    let during = service
        .scrape_when("an old report", |scrape| scrape.get(NEAR) == 1.0)
        .await;
    history.phase(60, &[("a", Some(&during))], &["UsageNearDeadline"]);
    control.clear_faults().await.unwrap();
    control.release("hang").await.unwrap();
    let after = service
        .scrape_when("a sent report", |scrape| scrape.get(NEAR) == 0.0)
        .await;
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}
