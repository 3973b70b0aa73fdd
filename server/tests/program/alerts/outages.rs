//! Stripe fails, refuses the key, and shows another time.

use std::time::Duration;

use fake_stripe::Fault;

use super::{history::History, service::Service};
use crate::{
    connections::exchange,
    process::{TIMEOUT, within},
};

const EVENTS: &str = "/v1/billing/meter_events";
const PAUSED: &str = r#"usage_sending_paused{reason="refused_key"}"#;

fn requests(outcome: &str) -> String {
    format!("usage_stripe_requests_total{{call=\"meter_event\",outcome=\"{outcome}\"}}")
}

/// A normal outage of Stripe's: it answers 503.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_stripe() {
    let service = Service::start(&[]).await;
    service.link().await;
    service.report_accepted(3, 1).await;
    let before = service.scrape_fresh().await;
    assert_eq!(before.get(&requests("ok")), 1.0);
    assert_eq!(before.get(&requests("no_answer")), 0.0);
    assert!(before.age("usage_last_accepted_timestamp_seconds") < 60.0);
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);

    service
        .stripe()
        .script(Fault::status(503).always())
        .await
        .unwrap();
    service.count("acct", 5).await;
    service.report().await;
    let no_answer = requests("no_answer");
    service
        .scrape_when("failed requests", |scrape| scrape.get(&no_answer) >= 3.0)
        .await;
    // Three hours later.
    let since = "UPDATE usage_reports SET closed_at = closed_at - 10800000 WHERE state IN ('closed', 'sending')";
    service.sql(since).await;
    let oldest = r#"usage_oldest_report_seconds{state="sending"}"#;
    let closed = r#"usage_oldest_report_seconds{state="closed"}"#;
    let during = service
        .scrape_when("an old report", |scrape| {
            scrape.get(oldest).max(scrape.get(closed)) >= 10_800.0
        })
        .await;
    assert_eq!(during.get(&requests("ok")), 1.0);
    assert_eq!(
        during.get(&requests("error")),
        0.0,
        "an outage is no refusal"
    );
    let units = during.sum("usage_report_units", "") as i64;
    assert_eq!(units, 3 + 5, "accepted, and on its way");
    history.phase(
        240,
        &[("a", Some(&during))],
        &["UsageNotReported", "UsageStripeFails"],
    );

    service.stripe().clear_faults().await.unwrap();
    service.report().await;
    service.stripe().wait_for_events(2, TIMEOUT).await.unwrap();
    let over = service
        .scrape_when("a sent report", |scrape| {
            scrape.get(oldest) == 0.0 && scrape.get(closed) == 0.0
        })
        .await;
    // What failed until the end of the outage.
    let mut after = over.clone();
    for events in 3..8 {
        service.report_accepted(1, events).await;
        after = service.scrape().await;
    }
    history.catch_up(&[("a", Some(&over))]);
    history.phase(120, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}

/// A restricted key that may read and not write events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_refused_for_events() {
    let service = Service::start(&[]).await;
    service.link().await;
    service.report_accepted(3, 1).await;
    let before = service.scrape_fresh().await;
    assert_eq!(before.get(PAUSED), 0.0);
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);

    let refuse = Fault::status(403).on_path(EVENTS).on_method("POST");
    service.stripe().script(refuse.always()).await.unwrap();
    service.count("acct", 5).await;
    service.report().await;
    let during = service
        .scrape_when("a pause", |scrape| scrape.get(PAUSED) == 1.0)
        .await;
    // Each reading of the database leaves it as it is.
    let during_too = service.scrape_fresh().await;
    assert_eq!(during_too.get(PAUSED), 1.0);
    assert_eq!(
        during.get(r#"usage_sending_paused{reason="database"}"#),
        0.0
    );
    assert_eq!(
        during.get(r#"usage_sending_paused{reason="other_account"}"#),
        0.0
    );
    assert!(during.get(r#"usage_stripe_failures_total{kind="denied"}"#) >= 1.0);
    history.phase(
        60,
        &[("a", Some(&during_too))],
        &["UsageSendingPaused", "UsageStripeRefuses"],
    );
    // Another replica sends with a key that is accepted.
    history.phase(60, &[("a", Some(&during_too)), ("b", Some(&before))], &[]);

    service.stripe().clear_faults().await.unwrap();
    service.report().await;
    let after = service
        .scrape_when("the end of the pause", |scrape| scrape.get(PAUSED) == 0.0)
        .await;
    service.stripe().wait_for_events(2, TIMEOUT).await.unwrap();
    history.catch_up(&[("a", Some(&after))]);
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}

/// No active meter has the event name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_meter_that_stripe_does_not_know() {
    let service = Service::start(&[]).await;
    service.link().await;
    service.report_accepted(3, 1).await;
    let before = service.scrape_fresh().await;
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    service
        .stripe()
        .deactivate_meter("api_calls")
        .await
        .unwrap();
    service.count("acct", 5).await;
    service.report().await;
    let unknown = r#"usage_stripe_failures_total{kind="no_meter"}"#;
    let during = service
        .scrape_when("a failure", |scrape| scrape.get(unknown) >= 1.0)
        .await;
    assert_eq!(during.get(PAUSED), 0.0, "other meters are sent");
    history.phase(60, &[("a", Some(&during))], &["UsageStripeRefuses"]);
    history.phase(60, &[("a", Some(&during))], &[]);
    history.check();
    service.process.kill();
}

/// Stripe's clock is an hour ahead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_contradict_each_other() {
    let service = Service::start(&[]).await;
    let before = service.scrape_fresh().await;
    let ahead = r#"usage_clock_ahead_seconds{clocks="database_stripe"}"#;
    assert!(before.get(ahead).abs() <= 5.0);
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    let hour = Duration::from_hours(1);
    service.stripe().advance_clock(hour).await.unwrap();
    let during = service
        .scrape_at_once_when("a doubt", |scrape| {
            scrape.get("usage_clock_in_doubt") == 1.0
        })
        .await;
    let behind = during.get(ahead);
    assert!((-3_610.0..=-3_590.0).contains(&behind), "{behind}");
    // What is read each second stands still.
    let first = service
        .scrape_at_once_when("a second", |scrape| scrape.at > during.at + 1.0)
        .await;
    let later = service
        .scrape_at_once_when("some seconds", |scrape| scrape.at > first.at + 2.5)
        .await;
    let watched = "usage_watch_last_success_timestamp_seconds";
    assert_eq!(later.get(watched), first.get(watched));
    history.stalled_phase(
        60,
        &[("a", Some(&later))],
        &[watched],
        &["UsageClockInDoubt", "UsageClockSkew", "UsageFiguresOld"],
    );
    service.stripe().use_real_clock().await.unwrap();
    let after = service
        .scrape_when("clocks that agree", |scrape| {
            scrape.get("usage_clock_in_doubt") == 0.0
        })
        .await;
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}

/// There is no secret, and then a wrong one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_that_are_refused() {
    let service = Service::start(&[]).await;
    let before = service.scrape_fresh().await;
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    let address = service.process.http_address().unwrap();
    let body = "{}";
    let request = format!(
        "POST /webhooks/stripe HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nstripe-signature: t=1,v1=00\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let sent = (0..30).map(|_| exchange(&address, request.as_bytes()));
    within("answers", futures_util::future::join_all(sent)).await;
    let during = service.scrape_fresh().await;
    assert_eq!(
        during.get(r#"usage_webhooks_total{outcome="no_secrets"}"#),
        30.0
    );
    history.phase(30, &[("a", Some(&during))], &["UsageWebhooksRefused"]);
    history.phase(60, &[("a", Some(&during))], &[]);
    history.check();
    service.process.kill();
}

/// Stripe knows the identifier of the first attempt with other contents.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identifier_that_stripe_knows() {
    let service = Service::start(&[]).await;
    service.link().await;
    service.report_accepted(3, 1).await;
    let before = service.scrape_fresh().await;
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    let reused = "Keys for idempotent requests can only be used with the same parameters they were first used with";
    let reused = Fault::status(400).with_error("idempotency_error", reused);
    let reused = reused.on_path(EVENTS).on_method("POST");
    service.stripe().script(reused).await.unwrap();
    service.count("acct", 5).await;
    service.report().await;
    let paused = r#"usage_sending_paused{reason="database"}"#;
    let during = service
        .scrape_when("a pause", |scrape| {
            scrape.get(paused) == 1.0 && scrape.get(r#"usage_reports{state="unknown"}"#) == 1.0
        })
        .await;
    assert_eq!(during.get(PAUSED), 0.0);
    assert_eq!(
        during.get(r#"usage_stripe_failures_total{kind="key_reused"}"#),
        1.0
    );
    history.phase(
        50,
        &[("a", Some(&during))],
        &[
            "UsageIdentifierReused",
            "UsageNeedsDecision",
            "UsageSendingPaused",
        ],
    );
    // As the end of a restore does.
    let resume = "UPDATE sending SET paused_at = NULL, paused_why = NULL";
    service.sql(resume).await;
    assert_eq!(service.write_off("acct").await, 1);
    let after = service
        .scrape_when("a decision", |scrape| {
            scrape.get(paused) == 0.0 && scrape.get(r#"usage_reports{state="unknown"}"#) == 0.0
        })
        .await;
    history.phase(70, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}

/// The lists of subscriptions cannot be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_that_stripe_does_not_show() {
    let last_run = r#"usage_job_last_run_timestamp_seconds{task="subscriptions poll"}"#;
    let service = Service::start(&[("SYNC_INTERVAL_SECS", "10")]).await;
    service.link().await;
    let before = service
        .scrape_when("a poll", |scrape| scrape.get(last_run) > 0.0)
        .await;
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    let refuse = Fault::status(403).on_path("/v1/subscriptions");
    service.stripe().script(refuse.always()).await.unwrap();
    let hours =
        "UPDATE leases SET last_run_at = last_run_at - 10800000 WHERE name = 'subscriptions poll'";
    service.sql(hours).await;
    let during = service
        .scrape_when("refused lists", |scrape| {
            scrape.get(r#"usage_stripe_requests_total{call="subscriptions",outcome="error"}"#)
                >= 2.0
        })
        .await;
    assert!(
        during.age(last_run) >= 10_800.0,
        "a poll that reads nothing is none"
    );
    history.phase(
        60,
        &[("a", Some(&during))],
        &["UsageStripeRefuses", "UsageSyncMissing"],
    );
    service.stripe().clear_faults().await.unwrap();
    let after = service
        .scrape_when("a poll", |scrape| scrape.age(last_run) < 600.0)
        .await;
    history.catch_up(&[("a", Some(&after))]);
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}
