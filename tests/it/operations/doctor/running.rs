//! The doctor of a running server, through `Doctor`: its own settings, the rule of `/health/ready`, and no secret.

use std::collections::BTreeMap;

use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
use usage_client::{Diagnosis, Severity as Found, proto::KeyRole};
use usage_server::commands::doctor::Severity;

use super::{examine, healthy};
use crate::{
    operations::access::{access, create, first_admin, new_key, timestamp},
    support::{
        commit_lock::CommitLock,
        world::{Engine, World, hours_ago, http::SECRET, on_both_engines, on_postgres, within},
    },
};

on_both_engines!(
    a_server_finds_what_the_command_finds,
    a_server_shows_its_own_settings,
    health_and_the_doctor_agree,
    calls_during_a_diagnosis_get_the_same,
    keys_that_expire_are_told_of,
);

on_postgres!(
    a_commit_that_hangs_is_told_by_health_and_by_the_doctor,
    no_secret_is_in_a_diagnosis,
);

async fn ask(world: &World) -> Diagnosis {
    within("a diagnosis", world.client().doctor())
        .await
        .unwrap()
}

fn health(diagnosis: &Diagnosis) -> (Found, String) {
    let mut lines = diagnosis.findings.iter();
    let line = lines.find(|one| one.check == "health").unwrap();
    (line.severity, line.fact.clone())
}

async fn a_server_finds_what_the_command_finds(world: World) {
    healthy(&world).await;
    world.count("acct", 5, hours_ago(2)).await;
    world.report_all().await;
    let by_server = ask(&world).await;
    let by_command = examine(&world).await;
    assert!(by_server.is_healthy, "{by_server:?}");
    // Of each check: how bad its lines are.
    let mut server: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in by_server.findings {
        let own = server.entry(one.check).or_default();
        own.push(one.severity.to_string());
    }
    let mut command: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in by_command.findings {
        let own = command.entry(one.check.to_owned()).or_default();
        own.push(one.severity.name().to_owned());
    }
    assert_eq!(server, command);
    for check in [
        "database",
        "schedule",
        "stripe key",
        "api keys",
        "ledger check",
    ] {
        assert!(server.contains_key(check), "{check}: {server:?}");
    }
    world.finish().await;
}

async fn a_server_shows_its_own_settings(mut world: World) {
    world.reconfigure(&["--report-schedule=0 7 * * *"]).await;
    let diagnosis = ask(&world).await;
    let value = |name: &str| {
        let found = diagnosis.settings.iter().find(|one| one.name == name);
        found.unwrap_or_else(|| panic!("no {name}")).value.clone()
    };
    assert_eq!(value("REPORT_SCHEDULE").as_deref(), Some("0 7 * * *"));
    assert_eq!(value("STRIPE_SECRET_KEY").as_deref(), Some("(set)"));
    assert_eq!(value("WEBHOOK_LISTEN"), None);
    let schedule = diagnosis
        .findings
        .iter()
        .find(|one| one.check == "schedule");
    let schedule = &schedule.unwrap().fact;
    assert!(schedule.contains("T07:00:00"), "{schedule}");
    assert_eq!(diagnosis.version, env!("CARGO_PKG_VERSION"));
    world.finish().await;
}

/// Asserts that both say the same, and returns it.
async fn assert_agree(world: &World) -> (Found, String) {
    let is_ready = world.http_get("/health/ready").await.0 == 200;
    let diagnosis = ask(world).await;
    let (severity, fact) = health(&diagnosis);
    assert_eq!(is_ready, severity == Found::Ok, "{fact}");
    assert!(is_ready || !diagnosis.is_healthy);
    (severity, fact)
}

async fn becomes_unready(world: &World) {
    let is_unready = async || world.http_get("/health/ready").await.0 == 503;
    world.wait_until("readiness to fail", is_unready).await;
}

async fn becomes_ready(world: &World) {
    let is_ready = async || world.http_get("/health/ready").await.0 == 200;
    world.wait_until("readiness", is_ready).await;
}

async fn health_and_the_doctor_agree(world: World) {
    assert_eq!(assert_agree(&world).await.0, Found::Ok);
    // A write that does not end in time.
    let database = world.connect_to_database().await;
    let lock = match world.engine {
        Engine::Sqlite => Err(CommitLock::commits_of(&world).await),
        Engine::Postgres => {
            let transaction = database.begin().await.unwrap();
            let lock = "LOCK TABLE leases IN EXCLUSIVE MODE";
            transaction.execute_unprepared(lock).await.unwrap();
            Ok(transaction)
        }
    };
    becomes_unready(&world).await;
    let (severity, fact) = assert_agree(&world).await;
    assert_eq!(severity, Found::Bad);
    assert!(fact.contains("did not respond in time"), "{fact}");
    match lock {
        Ok(transaction) => transaction.rollback().await.unwrap(),
        Err(lock) => lock.release().await,
    }
    becomes_ready(&world).await;
    assert_eq!(assert_agree(&world).await.0, Found::Ok);
    // A write that fails.
    world.execute_sql("ALTER TABLE leases RENAME TO away").await;
    becomes_unready(&world).await;
    let (severity, fact) = assert_agree(&world).await;
    assert_eq!(severity, Found::Bad);
    assert!(fact.contains("cannot be written"), "{fact}");
    // So says the command, which knows the database alone.
    let command = examine(&world).await;
    let mut lines = command.findings.iter();
    let line = lines.find(|one| one.check == "health").unwrap();
    assert_eq!(line.severity, Severity::Bad);
    assert!(line.fact.contains("cannot be written"), "{line}");
    world.execute_sql("ALTER TABLE away RENAME TO leases").await;
    becomes_ready(&world).await;
    assert_eq!(assert_agree(&world).await.0, Found::Ok);
    world.finish().await;
}

async fn a_commit_that_hangs_is_told_by_health_and_by_the_doctor(world: World) {
    let lock = CommitLock::commits_of(&world).await;
    let client = world.client();
    let waiting = tokio::spawn(async move { client.increment("acct").await });
    becomes_unready(&world).await;
    let (severity, fact) = assert_agree(&world).await;
    assert_eq!(severity, Found::Bad);
    assert!(fact.contains("15 seconds while calls wait"), "{fact}");
    lock.release().await;
    // Its deadline may have passed; then it was counted or not.
    let _ = within("the call", waiting).await.unwrap();
    becomes_ready(&world).await;
    assert_eq!(assert_agree(&world).await.0, Found::Ok);
    world.finish().await;
}

async fn calls_during_a_diagnosis_get_the_same(mut world: World) {
    // Nothing else asks for the balance.
    world.reconfigure(&["--clock-check-secs=0"]).await;
    let balances = async || {
        let requests = world.stripe().requests().await.unwrap();
        let balances = requests.iter().filter(|one| one.path == "/v1/balance");
        balances.count()
    };
    let before = balances().await;
    let client = world.client();
    let both = async { tokio::join!(client.doctor(), client.doctor()) };
    let (one, other) = within("two diagnoses", both).await;
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(balances().await - before, 1);
    world.finish().await;
}

async fn keys_that_expire_are_told_of(mut world: World) {
    let clock = world.set_time("2026-03-10T12:00:00Z").await;
    let (_, admin) = first_admin(&world).await;
    let mut access = access(&world, Some(&admin)).await;
    let mut soon = new_key("soon to end", KeyRole::Writer);
    let day = 86_400_000;
    soon.expires_at = Some(timestamp(clock.now() + 13 * day));
    create(&mut access, soon).await;
    let (severity, line) = world.doctor_says(None, "api keys").await;
    assert_eq!(severity, Severity::Warn);
    assert!(line.contains("\"soon to end\""), "{line}");
    assert!(line.contains("within 14 days"), "{line}");
    clock.advance(14 * day);
    let (severity, line) = world.doctor_says(None, "api keys").await;
    assert_eq!(severity, Severity::Warn);
    assert!(line.contains("have expired"), "{line}");
    clock.advance(14 * day);
    let (severity, line) = world.doctor_says(None, "api keys").await;
    assert_eq!(
        (severity, line.contains("1 are valid")),
        (Severity::Ok, true),
        "{line}"
    );
    world.finish().await;
}

async fn no_secret_is_in_a_diagnosis(mut world: World) {
    const MARK: &str = "RecognisablePassword";
    // The tests' PostgreSQL asks for no password, and so accepts any.
    let (scheme, rest) = world.database_url.split_once("://").unwrap();
    let (user, place) = rest.split_once('@').unwrap_or(("postgres", rest));
    let user = user.split(':').next().unwrap();
    let url = format!("--database-url={scheme}://{user}:{MARK}@{place}");
    world.reconfigure(&[&url]).await;
    let config = world.config();
    let url = config.database.url().unwrap();
    assert!(url.contains(MARK), "the password is in use");
    let key = config.stripe.key().unwrap().unwrap();
    // Also in lines that say what is wrong.
    let fault = fake_stripe::Fault::status(500)
        .always()
        .on_path("/v1/customers");
    world.stripe().script(fault).await.unwrap();
    world
        .execute_sql("ALTER TABLE commits RENAME TO away")
        .await;
    let diagnosis = ask(&world).await;
    world
        .execute_sql("ALTER TABLE away RENAME TO commits")
        .await;
    assert!(!diagnosis.is_healthy);
    let text = format!("{diagnosis:?}");
    for secret in [MARK, &url, &key, SECRET] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
    world.stripe().clear_faults().await.unwrap();
    world.finish().await;
}
