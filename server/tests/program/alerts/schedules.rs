//! Runs of the report schedule that are missing, on both engines, and usage that is counted and not reported.

use chrono::TimeDelta;
use usage_client::{ForceReport, Increment};

use super::{
    history::History,
    service::{Engine, Service, now},
};
use crate::process::{TIMEOUT, within};

const LAST_RUN: &str = r#"usage_job_last_run_timestamp_seconds{task="report schedule"}"#;
const UNREPORTED: &str = "usage_oldest_unreported_seconds";
const OPEN: &str = r#"usage_reports{state="open"}"#;
const HOURLY: &[(&str, &str)] = &[("REPORT_SCHEDULE", "0 * * * *")];

/// The job of an hourly schedule fails from now on, and has for four hours.
const FAIL_ON_SQLITE: &str =
    "CREATE TRIGGER no_runs BEFORE INSERT ON report_runs BEGIN SELECT RAISE(ABORT, 'no runs'); END";
const FAIL_ON_POSTGRES: &str = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
     $$ BEGIN RAISE EXCEPTION 'no runs'; END $$; \
     CREATE TRIGGER no_runs BEFORE INSERT ON report_runs FOR EACH ROW EXECUTE FUNCTION refuse()";
const FOUR_HOURS: [&str; 2] = [
    "UPDATE leases SET last_run_at = last_run_at - 14400000 WHERE name = 'report schedule'",
    "UPDATE open_reports SET first_at = first_at - 14400000",
];

async fn an_hourly_schedule_fails(service: Service) {
    let (fail, repair) = match service.engine {
        Engine::Sqlite(_) => (FAIL_ON_SQLITE, "DROP TRIGGER no_runs"),
        Engine::Postgres(_) => (FAIL_ON_POSTGRES, "DROP TRIGGER no_runs ON report_runs"),
    };
    service.link().await;
    let before = service
        .scrape_when("a schedule", |scrape| scrape.get(LAST_RUN) > 0.0)
        .await;
    assert_eq!(before.get("usage_report_schedule_gap_seconds"), 3_600.0);
    assert_eq!(before.get(UNREPORTED), 0.0);
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);

    service.sql(fail).await;
    service.count("acct", 5).await;
    for statement in FOUR_HOURS {
        service.sql(statement).await;
    }
    let during = service.scrape_fresh().await;
    assert!((14_400.0..14_500.0).contains(&during.get(UNREPORTED)));
    assert!(during.age(LAST_RUN) >= 14_400.0, "a run that fails is none");
    assert_eq!(during.get(OPEN), 1.0);
    assert_eq!(during.get(r#"usage_report_units{state="open"}"#), 5.0);
    history.phase(
        60,
        &[("a", Some(&during))],
        &["UsageRunMissing", "UsageUnreported"],
    );

    service.sql(repair).await;
    service.stripe().wait_for_events(1, TIMEOUT).await.unwrap();
    let after = service
        .scrape_when("a run", |scrape| {
            scrape.get(OPEN) == 0.0 && scrape.age(LAST_RUN) < 600.0 && scrape.get(UNREPORTED) == 0.0
        })
        .await;
    let totals = service.stripe().totals().await.unwrap();
    assert_eq!(totals.values().sum::<i64>(), 5);
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hourly_schedule_fails_on_sqlite() {
    an_hourly_schedule_fails(Service::start(HOURLY).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hourly_schedule_fails_on_postgres() {
    if let Some(service) = Service::start_on_postgres(HOURLY).await {
        an_hourly_schedule_fails(service).await;
    }
}

/// Runs are recorded, and do not close what is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_whose_runs_close_nothing() {
    let service = Service::start(HOURLY).await;
    service.link().await;
    service
        .scrape_when("a schedule", |scrape| scrape.get(LAST_RUN) > 0.0)
        .await;
    let fail = "CREATE TRIGGER no_reports BEFORE INSERT ON usage_reports BEGIN SELECT RAISE(ABORT, 'no reports'); END";
    service.sql(fail).await;
    service.count("acct", 5).await;
    for statement in FOUR_HOURS {
        service.sql(statement).await;
    }
    let during = service
        .scrape_when("a run", |scrape| scrape.age(LAST_RUN) < 600.0)
        .await;
    assert_eq!(during.get(OPEN), 1.0);
    assert!(during.get(UNREPORTED) >= 14_400.0);
    let mut history = History::new();
    history.phase(60, &[("a", Some(&during))], &["UsageUnreported"]);
    service.sql("DROP TRIGGER no_reports").await;
    let after = service
        .scrape_when("a report", |scrape| scrape.get(UNREPORTED) == 0.0)
        .await;
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}

/// Old usage that is counted now is not late yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_with_an_old_time_was_not_counted_then() {
    let service = Service::start(HOURLY).await;
    service.link().await;
    // The run closes everything.
    let run = service
        .process
        .client()
        .force_report(ForceReport::all())
        .await;
    within("a run", run.unwrap().summary()).await.unwrap();
    let old = Increment::new("acct").timestamp(now() - TimeDelta::days(3));
    service.process.client().increment(old).await.unwrap();
    let scrape = service
        .scrape_when("an open report", |scrape| scrape.get(OPEN) == 1.0)
        .await;
    let age = scrape.get(UNREPORTED);
    assert!(age < 600.0, "{age}");
    let mut history = History::new();
    history.phase(60, &[("a", Some(&scrape))], &[]);
    history.check();
    service.process.kill();
}

/// A restart without the key, and with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_without_a_key_of_stripe() {
    let service = Service::start(&[]).await;
    let before = service.scrape_fresh().await;
    assert_eq!(before.get("usage_reporting_enabled"), 1.0);
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    let service = service.restart(false).await;
    let during = service.scrape_fresh().await;
    assert_eq!(during.get("usage_reporting_enabled"), 0.0);
    history.phase(60, &[("a", Some(&during))], &["UsageReportingDisabled"]);
    // It is enough that one replica reports.
    history.phase(60, &[("a", Some(&during)), ("b", Some(&before))], &[]);
    let service = service.restart(true).await;
    let after = service.scrape_fresh().await;
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}
