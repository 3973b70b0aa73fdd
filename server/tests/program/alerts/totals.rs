//! Verification that cannot read Stripe's totals, and totals that differ.

use fake_stripe::Fault;

use super::{
    history::History,
    service::{Service, now},
};
use crate::connections::exchange;

const LAST_RUN: &str = r#"usage_job_last_run_timestamp_seconds{task="verification"}"#;
const ACCEPTED: &str = r#"usage_reports{state="accepted"}"#;
const MISSING: &str = r#"usage_reports{state="missing"}"#;
const LACKING: &str = r#"usage_verification_difference_units{finding="lacking"}"#;

/// What was accepted was so three days ago, and verification last ran seven hours ago.
async fn make_old(service: &Service) {
    service
        .sql("UPDATE usage_reports SET reported_at = reported_at - 259200000, closed_at = closed_at - 259200000")
        .await;
    service
        .sql("UPDATE leases SET last_run_at = last_run_at - 25200000 WHERE name = 'verification'")
        .await;
}

/// A service with one accepted report, whose verification has begun.
async fn reported() -> Service {
    let service = Service::start(&[]).await;
    service.link().await;
    service.report_accepted(5, 1).await;
    service
        .scrape_when("verification", |scrape| {
            scrape.get(LAST_RUN) > 0.0 && scrape.get(ACCEPTED) == 1.0
        })
        .await;
    service
}

async fn fails(fault: Fault, alerts: &[&str]) {
    let service = reported().await;
    let before = service.scrape_fresh().await;
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);

    let totals = format!("/v1/billing/meters/{}/event_summaries", service.meter_id);
    let fault = fault.on_path(&totals).always();
    service.stripe().script(fault).await.unwrap();
    make_old(&service).await;
    let ok = r#"usage_stripe_requests_total{call="event_summaries",outcome="ok"}"#;
    let asked = |scrape: &super::scrape::Scrape| {
        scrape.sum("usage_stripe_requests_total", "event_summaries")
    };
    let during = service
        .scrape_when("refused requests", |scrape| asked(scrape) >= 2.0)
        .await;
    assert_eq!(during.get(ok), 0.0);
    assert!(
        during.age(LAST_RUN) > 25_000.0,
        "a run without totals is none"
    );
    assert!(during.get(r#"usage_oldest_report_seconds{state="accepted"}"#) >= 259_200.0);
    history.phase(240, &[("a", Some(&during))], alerts);

    service.stripe().clear_faults().await.unwrap();
    let after = service
        .scrape_when("verification", |scrape| {
            scrape.get(ACCEPTED) == 0.0 && scrape.age(LAST_RUN) < 600.0
        })
        .await;
    assert_eq!(
        after.get(r#"usage_reports_total{transition="confirmed"}"#),
        1.0
    );
    history.catch_up(&[("a", Some(&after))]);
    history.phase(120, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verification_whose_key_is_refused() {
    let alerts = [
        "UsageStripeRefuses",
        "UsageUnconfirmed",
        "UsageVerificationMissing",
    ];
    fails(Fault::status(403), &alerts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verification_that_stripe_does_not_answer() {
    fails(
        Fault::status(500),
        &[
            "UsageStripeFails",
            "UsageUnconfirmed",
            "UsageVerificationMissing",
        ],
    )
    .await;
}

/// Stripe accepts an event and does not count it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_that_lack_an_event() {
    let service = Service::start(&[]).await;
    service.link().await;
    let before = service
        .scrape_when("verification", |scrape| scrape.get(LAST_RUN) > 0.0)
        .await;
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    service
        .stripe()
        .script(
            Fault::lose()
                .on_method("POST")
                .on_path("/v1/billing/meter_events"),
        )
        .await
        .unwrap();
    service.count("acct", 5).await;
    service.report().await;
    service
        .scrape_when("an accepted event", |scrape| scrape.get(ACCEPTED) == 1.0)
        .await;
    make_old(&service).await;
    let during = service
        .scrape_when("a missing event", |scrape| {
            // The run that finds it is shown a moment later.
            scrape.get(MISSING) == 1.0 && scrape.age(LAST_RUN) < 600.0
        })
        .await;
    assert_eq!(
        during.get(r#"usage_reports_total{transition="missing"}"#),
        1.0
    );
    assert_eq!(
        during.get(LACKING),
        0.0,
        "the event is found, so its day is explained"
    );
    history.phase(60, &[("a", Some(&during))], &["UsageNeedsDecision"]);
    assert_eq!(service.write_off("acct").await, 1);
    let after = service
        .scrape_when("no missing event", |scrape| scrape.get(MISSING) == 0.0)
        .await;
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}

/// Something else sends to the same meter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_with_units_of_another_sender() {
    let service = reported().await;
    let before = service.scrape_fresh().await;
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    let base = service.stripe.base_url().to_owned();
    let body = format!(
        "event_name=api_calls&payload[stripe_customer_id]=cus&payload[value]=9&timestamp={}",
        now().timestamp()
    );
    let request = format!(
        "POST /v1/billing/meter_events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         authorization: Bearer {}\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\n\r\n{body}",
        service.stripe.secret_key(),
        body.len()
    );
    let sent = exchange(base.trim_start_matches("http://"), request.as_bytes()).await;
    assert!(
        sent.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&sent)
    );
    make_old(&service).await;
    let over = r#"usage_verification_difference_units{finding="over"}"#;
    let during = service
        .scrape_when("a difference", |scrape| {
            scrape.get(over) > 0.0 && scrape.age(LAST_RUN) < 600.0
        })
        .await;
    assert_eq!(during.get(over), 9.0);
    assert_eq!(during.get("usage_verification_over_total"), 1.0);
    history.phase(60, &[("a", Some(&during))], &["UsageVerificationDiffers"]);
    let days = "UPDATE verifications SET changed_at = changed_at - 345600000";
    service.sql(days).await;
    let after = service.scrape_fresh().await;
    assert_eq!(after.get(over), 0.0);
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}
