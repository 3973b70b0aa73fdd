//! `usage-server doctor`: each test causes a real problem and checks its line in the diagnosis.

mod running;
mod stripe;
mod usage;

use std::time::SystemTime;

use chrono::{DateTime, Utc};
use fake_stripe::{FakeStripe, Fault, NewPrice, NewSubscription, Settings};
use usage_client::{Increment, PutAccount};
use usage_server::{
    clock::Clock,
    commands::doctor::{Diagnosis, DoctorConfig, Severity, diagnose},
    store::Store,
};

use crate::support::{
    commit_lock::CommitLock,
    world::{
        Engine, Server, World, hours_ago, on_both_engines, on_postgres, on_sqlite, poll, within,
    },
};

on_both_engines!(
    doctor_finds_no_fault_in_a_healthy_setup,
    doctor_reports_a_missing_or_unmigrated_database,
    doctor_reports_a_missing_wrong_or_other_mode_key,
    doctor_fails_each_check_that_stripe_does_not_answer,
    doctor_reports_a_failed_ledger_check,
    doctor_reports_clocks_that_disagree,
    doctor_reports_a_schedule_that_never_fires_or_is_overdue,
);

on_sqlite!(
    doctor_reports_a_log_that_is_not_copied_into_the_file,
    doctor_tells_a_busy_file_from_a_locked_one,
    doctor_warns_of_webhooks_that_share_an_exposed_address,
    doctor_names_the_rights_that_a_restricted_key_lacks,
);
on_postgres!(a_postgresql_without_fsync_is_refused_and_reported);

async fn examine_with(config: &DoctorConfig, clock: &Clock) -> Diagnosis {
    within("a diagnosis", diagnose(config, clock))
        .await
        .unwrap()
}

pub(super) async fn examine(world: &World) -> Diagnosis {
    examine_with(&world.doctor_config(), &Clock::system()).await
}

/// Asserts that a line of this check has this severity and contains all these words.
#[track_caller]
fn assert_finding(diagnosis: &Diagnosis, severity: Severity, check: &str, words: &[&str]) {
    let is_found = diagnosis.findings.iter().any(|finding| {
        finding.check == check
            && finding.severity == severity
            && words.iter().all(|word| finding.fact.contains(word))
            && (severity == Severity::Ok) == finding.advice.is_none()
    });
    assert!(
        is_found,
        "no line {severity:?} {check} {words:?} in\n{diagnosis}"
    );
}

/// The same, with severity `bad`.
#[track_caller]
pub(super) fn assert_bad(diagnosis: &Diagnosis, check: &str, words: &[&str]) {
    assert_finding(diagnosis, Severity::Bad, check, words);
    assert!(!diagnosis.is_healthy());
}

/// Asserts that this is the only bad line: a problem is reported once.
#[track_caller]
fn assert_only_bad(diagnosis: &Diagnosis, check: &str, words: &[&str]) {
    assert_bad(diagnosis, check, words);
    let all = diagnosis.findings.iter();
    let number = all
        .filter(|finding| finding.severity == Severity::Bad)
        .count();
    assert_eq!(number, 1, "{diagnosis}");
}

async fn meter_id(world: &World, event_name: &str) -> String {
    let meters = world.stripe().meters().await.unwrap();
    let found = meters
        .into_iter()
        .find(|meter| meter.event_name == event_name);
    found.expect("a meter").id
}

/// The volume price `price_calls` of the product `prod_calls`.
async fn volume_price(world: &World) {
    let meter = meter_id(world, "api_calls").await;
    let price = NewPrice::volume("price_calls", "prod_calls", &meter, &[(None, "1")]);
    world.stripe().create_price(&price).await.unwrap();
}

async fn subscribe(world: &World, customer: &str, subscription: &str, prices: &[&str]) {
    subscribe_in(world, customer, subscription, prices, false).await;
}

async fn subscribe_in(
    world: &World,
    customer: &str,
    subscription: &str,
    prices: &[&str],
    classic: bool,
) {
    let new = NewSubscription {
        id: subscription.to_owned(),
        customer: customer.to_owned(),
        prices: prices.iter().map(|price| (*price).to_owned()).collect(),
        classic,
        // The service may or may not have synced it yet. The usage of these tests is billed either way.
        anchor: Some(hours_ago(240).timestamp()),
        ..NewSubscription::default()
    };
    world.stripe().create_subscription(&new).await.unwrap();
}

/// Links an account to a customer with a subscription to a volume price.
pub(crate) async fn healthy(world: &World) {
    volume_price(world).await;
    world.stripe().create_customer("cus_acct").await.unwrap();
    subscribe(world, "cus_acct", "sub_acct", &["price_calls"]).await;
    world.link_to("acct", "cus_acct").await;
}

async fn a_postgresql_without_fsync_is_refused_and_reported(world: World) {
    let accepted = examine(&world).await;
    let settings = ["fsync", "full_page_writes"];
    assert_finding(&accepted, Severity::Warn, "durability", &settings);
    let mut config = world.config();
    config.database.insecure_durability = false;
    let mut doctor = world.doctor_config();
    doctor.shared.database.insecure_durability = false;
    let reported = examine_with(&doctor, &Clock::system()).await;
    assert_finding(&reported, Severity::Bad, "durability", &settings);
    let server = Server::start(config, Clock::system()).await;
    let refused = server.ended().await.unwrap_err().to_string();
    assert!(refused.contains("--insecure-durability"), "{refused}");
    world.finish().await;
}

async fn doctor_finds_no_fault_in_a_healthy_setup(mut world: World) {
    healthy(&world).await;
    world.count("acct", 5, hours_ago(2)).await;
    world.report_all().await;
    world.count("acct", 3, hours_ago(1)).await;
    let running = examine(&world).await;
    assert!(running.is_healthy(), "{running}");
    for (check, words) in [
        ("database", "up to date"),
        ("stripe key", "test mode"),
        ("stripe account", "acct_fake in test mode"),
        ("copies", "1 products"),
        ("stripe clock", "agrees"),
        ("database clock", "agrees"),
        ("meter", "api_calls"),
        ("meter", "tokens"),
        ("customers", "1 are linked"),
        ("subscriptions", "one item"),
        ("prices", "volume"),
        ("accounts", "linked or free"),
        ("reports", "none"),
        ("ledger check", "8 units"),
        ("schedule", "no scheduled run"),
    ] {
        assert_finding(&running, Severity::Ok, check, &[words]);
    }
    let json = running.to_json();
    let objects = json.as_array().unwrap();
    assert_eq!(objects.len(), running.findings.len());
    // The tests' PostgreSQL does not wait for the disk.
    let mut others = objects
        .iter()
        .filter(|object| object["check"] != "durability");
    assert!(others.all(|object| object["severity"] == "ok" && object["advice"].is_null()));
    let writes = |requests: Vec<fake_stripe::LoggedRequest>| {
        requests
            .iter()
            .filter(|request| request.method != "GET")
            .count()
    };
    let before = writes(world.stripe().requests().await.unwrap());
    world.stop().await;
    let alone = examine(&world).await;
    assert!(alone.is_healthy(), "{alone}");
    let after = writes(world.stripe().requests().await.unwrap());
    assert_eq!(before, after, "it only reads");
    world.finish().await;
}

async fn doctor_reports_a_missing_or_unmigrated_database(world: World) {
    let (empty, missing) = match world.engine {
        Engine::Sqlite => {
            let folder = world.database_url.replace("/usage.db", "");
            let empty = format!("{folder}/empty.db");
            let store = Store::open(&empty, 4).await.unwrap();
            store.close().await.unwrap();
            (empty, format!("{folder}/none.db"))
        }
        Engine::Postgres => {
            let cluster = crate::support::postgres::cluster().unwrap();
            let empty = cluster.create_database().unwrap();
            (empty, format!("{}_none", world.database_url))
        }
    };
    let mut config = world.doctor_config();
    config.shared.database.database_url = Some(empty.into());
    let unmigrated = examine_with(&config, &Clock::system()).await;
    assert_only_bad(
        &unmigrated,
        "database",
        &["lacks", "migrations", "not checked"],
    );
    config.shared.database.database_url = Some(missing.into());
    for _ in 0..2 {
        // The check does not create it.
        let gone = examine_with(&config, &Clock::system()).await;
        assert_only_bad(&gone, "database", &["cannot be opened", "not checked"]);
    }
    world.finish().await;
}

async fn doctor_tells_a_busy_file_from_a_locked_one(mut world: World) {
    world.stop().await;
    let lock = CommitLock::commits_of(&world).await;
    let (severity, why) = world.doctor_says(None, "health").await;
    assert_eq!(severity, Severity::Bad, "{why}");
    assert!(why.contains("did not respond in time"), "{why}");
    let mut log = world.sqlite_file().into_os_string();
    log.push("-wal");
    let log = std::fs::File::options().write(true).open(log).unwrap();
    // As a server that begins the next transaction as soon as one has ended.
    let writing = poll("the end of the diagnosis", async || {
        log.set_modified(SystemTime::now()).unwrap();
        None::<()>
    });
    let (severity, why) = tokio::select! {
        said = world.doctor_says(None, "health") => said,
        () = writing => unreachable!("there is no value"),
    };
    assert_eq!(severity, Severity::Warn, "{why}");
    assert!(why.contains("without a pause"), "{why}");
    lock.release().await;
    world.finish().await;
}

async fn doctor_warns_of_webhooks_that_share_an_exposed_address(world: World) {
    let mut config = world.doctor_config();
    let warns = async |config: &DoctorConfig| {
        let diagnosis = examine_with(config, &Clock::system()).await;
        let mut findings = diagnosis.findings.iter();
        findings
            .any(|finding| finding.check == "webhook address" && finding.severity == Severity::Warn)
    };
    assert!(!warns(&config).await);
    config.addresses.http_listen = "0.0.0.0:8080".parse().unwrap();
    assert!(warns(&config).await);
    config.addresses.webhook_listen = Some("0.0.0.0:8081".parse().unwrap());
    assert!(!warns(&config).await);
    world.finish().await;
}

async fn doctor_names_the_rights_that_a_restricted_key_lacks(world: World) {
    let settings = Settings {
        secret_key: "rk_test_restricted".to_owned(),
        ..Settings::default()
    };
    let restricted = FakeStripe::start(settings).await.unwrap();
    let mut config = world.doctor_config();
    let stripe = &mut config.shared.stripe;
    stripe.stripe_secret_key = Some(restricted.secret_key().to_owned().into());
    stripe.stripe_api_base = Some(restricted.base_url().to_owned());
    let diagnosis = examine_with(&config, &Clock::system()).await;
    assert_finding(
        &diagnosis,
        Severity::Ok,
        "stripe rights",
        &["refuses nothing"],
    );
    for path in ["/v1/invoices", "/v1/prices"] {
        let refusal = Fault::status(403).on_path(path).times(1);
        restricted.control().script(refusal).await.unwrap();
    }
    let diagnosis = examine_with(&config, &Clock::system()).await;
    assert_bad(
        &diagnosis,
        "stripe rights",
        &["Invoices: read, Prices: read"],
    );
    // Plain events, and changes of subscriptions, are refused to a key that may only read.
    for path in ["/v1/billing/meter_events", "/v1/subscriptions/"] {
        let refusal = Fault::status(403).on_method("POST").on_path(path).times(1);
        restricted.control().script(refusal).await.unwrap();
    }
    let diagnosis = examine_with(&config, &Clock::system()).await;
    let missing = "Billing Meter Events: write, Subscriptions: write";
    assert_bad(&diagnosis, "stripe rights", &[missing]);
    let events = restricted.control().events().await.unwrap();
    assert!(events.is_empty(), "trying changes nothing");
    world.finish().await;
}

async fn doctor_reports_a_missing_wrong_or_other_mode_key(world: World) {
    let mut config = world.doctor_config();
    for (key, words) in [
        (None, "there is none"),
        (Some("sk_test_other"), "Invalid API Key"),
        (Some("pk_test_x"), "is a publishable key"),
    ] {
        config.shared.stripe.stripe_secret_key = key.map(|key| key.to_owned().into());
        let diagnosis = examine_with(&config, &Clock::system()).await;
        assert_only_bad(
            &diagnosis,
            "stripe key",
            &[words, "nothing at Stripe was checked"],
        );
    }
    let settings = Settings {
        secret_key: "sk_live_looks".to_owned(),
        ..Settings::default()
    };
    let live = FakeStripe::start(settings).await.unwrap();
    config.shared.stripe.stripe_secret_key = Some(live.secret_key().to_owned().into());
    config.shared.stripe.stripe_api_base = Some(live.base_url().to_owned());
    let diagnosis = examine_with(&config, &Clock::system()).await;
    assert_bad(
        &diagnosis,
        "stripe key",
        &["live mode", "answers in test mode"],
    );
    world.finish().await;
}

async fn doctor_fails_each_check_that_stripe_does_not_answer(world: World) {
    healthy(&world).await;
    world
        .link_to_unsubscribed_customer("other", "cus_other")
        .await;
    for (path, check) in [
        ("/v1/balance", "stripe key"),
        ("/v1/billing/meters", "meter"),
        ("/v1/subscriptions", "subscriptions"),
        ("/v1/customers", "customers"),
        ("/v1/prices", "prices"),
    ] {
        for fault in [
            Fault::status(500),
            Fault::drop_connection(),
            Fault::undecodable_error(),
        ] {
            let fault = fault.always().on_path(path);
            world.stripe().script(fault).await.unwrap();
            let diagnosis = examine(&world).await;
            assert_bad(&diagnosis, check, &["could not be checked"]);
            world.stripe().clear_faults().await.unwrap();
        }
    }
    let mut config = world.doctor_config();
    config.shared.stripe.stripe_api_base = Some("http://127.0.0.1:9".to_owned());
    let diagnosis = examine_with(&config, &Clock::system()).await;
    assert_only_bad(&diagnosis, "stripe key", &["cannot be reached", "refused"]);
    world.finish().await;
}

async fn doctor_reports_a_failed_ledger_check(world: World) {
    world
        .client()
        .put_account(PutAccount::free("acct"))
        .await
        .unwrap();
    world.count("acct", 6, hours_ago(3)).await;
    world
        .execute_sql("UPDATE open_reports SET quantity = 7")
        .await;
    assert_only_bad(
        &examine(&world).await,
        "ledger check",
        &["6 units", "7 in reports", "difference 1"],
    );
    world
        .execute_sql("UPDATE open_reports SET quantity = 6")
        .await;
    assert!(examine(&world).await.is_healthy());
    world.finish().await;
}

async fn doctor_reports_clocks_that_disagree(world: World) {
    let now = Clock::system().now();
    let ahead = Clock::manual(now + 90_000);
    let diagnosis = examine_with(&world.doctor_config(), &ahead).await;
    assert_bad(&diagnosis, "stripe clock", &["ahead of Stripe's"]);
    assert_bad(&diagnosis, "database clock", &["ahead of the database's"]);

    world.stripe().set_clock(now + 600_000).await.unwrap();
    let diagnosis = examine(&world).await;
    assert_only_bad(&diagnosis, "stripe clock", &["behind Stripe's", "59"]);
    world.finish().await;
}

async fn doctor_reports_a_schedule_that_never_fires_or_is_overdue(mut world: World) {
    world.reconfigure(&["--report-schedule=0 0 * * *"]).await;
    world
        .client()
        .increment(Increment::new("free"))
        .await
        .unwrap();
    world
        .client()
        .put_account(PutAccount::free("free"))
        .await
        .unwrap();
    world.stop().await;
    world.execute_sql("DELETE FROM leases").await;
    let never = examine(&world).await;
    assert_finding(&never, Severity::Warn, "schedule", &["never run"]);
    assert!(never.is_healthy(), "{never}");
    assert_eq!(world.count_rows("leases").await, 0, "doctor begins no run");

    let last: DateTime<Utc> = hours_ago(50);
    let at = last.timestamp_millis();
    let lease = format!(
        "INSERT INTO leases (name, holder, held_until, last_run_at) VALUES ('report schedule', '', 0, {at})"
    );
    world.execute_sql(&lease).await;
    assert_only_bad(&examine(&world).await, "schedule", &["overdue since"]);

    world.execute_sql("DELETE FROM leases").await;
    let id = match world.engine {
        Engine::Sqlite => "randomblob(16)",
        Engine::Postgres => "gen_random_uuid()",
    };
    let run = format!(
        "INSERT INTO report_runs (id, trigger, requested_by, started_at, heartbeat_at, closed_reports, \
         closed_quantity) VALUES ({id}, 'schedule', 'x', {at}, {at}, 0, 0)"
    );
    world.execute_sql(&run).await;
    assert_only_bad(
        &examine(&world).await,
        "schedule",
        &["1 runs", "unfinished"],
    );
    world.finish().await;
}

async fn doctor_reports_a_log_that_is_not_copied_into_the_file(world: World) {
    world.count("acct", 1, hours_ago(1)).await;
    let mut log = world.sqlite_file().into_os_string();
    log.push("-wal");
    // As long as a log that was not copied. SQLite ignores what it has not written.
    let log = std::fs::File::options().write(true).open(log).unwrap();
    log.set_len(300 * 1024 * 1024).unwrap();
    assert_bad(&examine(&world).await, "log", &["314572800 bytes"]);
    world.finish().await;
}
