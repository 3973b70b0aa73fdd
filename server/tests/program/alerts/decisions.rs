//! Reports that wait for somebody.

use fake_stripe::Fault;
use usage_client::PutAccount;

use super::{history::History, service::Service};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_stripe_rejects() {
    const REJECTED: &str = r#"usage_reports{state="rejected"}"#;
    let service = Service::start(&[]).await;
    service.link().await;
    let before = service.scrape_fresh().await;
    assert_eq!(before.get(REJECTED), 0.0);
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    let reject = Fault::status(400).on_path("/v1/billing/meter_events");
    service
        .stripe()
        .script(reject.on_method("POST"))
        .await
        .unwrap();
    service.count("acct", 5).await;
    service.report().await;
    let during = service
        .scrape_when("a rejected report", |scrape| scrape.get(REJECTED) == 1.0)
        .await;
    assert_eq!(during.get(r#"usage_report_units{state="rejected"}"#), 5.0);
    assert_eq!(
        during.get(r#"usage_reports_total{transition="rejected"}"#),
        1.0
    );
    assert_eq!(
        during.get(r#"usage_stripe_failures_total{kind="refused"}"#),
        1.0
    );
    history.phase(60, &[("a", Some(&during))], &["UsageNeedsDecision"]);
    assert_eq!(service.write_off("acct").await, 1);
    let after = service
        .scrape_when("a decision", |scrape| scrape.get(REJECTED) == 0.0)
        .await;
    assert_eq!(
        after.get(r#"usage_reports_total{transition="written_off"}"#),
        1.0
    );
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_without_a_customer() {
    const WAITING: &str = r#"usage_reports{state="no_customer"}"#;
    let service = Service::start(&[]).await;
    service.count("unlinked", 7).await;
    service.report().await;
    let before = service
        .scrape_when("a closed report", |scrape| scrape.get(WAITING) == 1.0)
        .await;
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    let week =
        "UPDATE usage_reports SET closed_at = closed_at - 691200000 WHERE state = 'no_customer'";
    service.sql(week).await;
    let during = service.scrape_fresh().await;
    assert!(during.get(r#"usage_oldest_report_seconds{state="no_customer"}"#) >= 691_200.0);
    assert_eq!(
        during.get("usage_oldest_unreported_seconds"),
        0.0,
        "it waits for a customer"
    );
    history.phase(60, &[("a", Some(&during))], &["UsageWithoutCustomer"]);
    let free = PutAccount::free("unlinked");
    service.process.client().put_account(free).await.unwrap();
    let after = service
        .scrape_when("a free account", |scrape| scrape.get(WAITING) == 0.0)
        .await;
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}

/// Stripe has a subscription that cannot be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_cannot_be_read() {
    let service = Service::start(&[("SYNC_INTERVAL_SECS", "10")]).await;
    let before = service.scrape_fresh().await;
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    let subscriptions = service.stripe().subscriptions().await.unwrap();
    let alter = Fault::alter(&subscriptions[0].id, "status", Some("7"));
    service.stripe().script(alter.always()).await.unwrap();
    let link = PutAccount::stripe("acct", "cus");
    service.process.client().put_account(link).await.unwrap();
    let unreadable = r#"usage_stripe_unreadable_objects_total{object="subscription"}"#;
    let during = service
        .scrape_when("an unreadable subscription", |scrape| {
            scrape.get(unreadable) >= 1.0
        })
        .await;
    history.phase(60, &[("a", Some(&during))], &["UsageStripeUnreadable"]);
    history.phase(90, &[("a", Some(&during))], &[]);
    history.check();
    service.process.kill();
}
