//! A replica of the version before and one of this version, side by side on one database, while callers count on both.
//!
//! `OLD_USAGE_SERVER` is the binary of the version before; `.ci/upgrade` builds it. Without it, both replicas are of this
//! version, and the migration between them gives each table a column that the first one does not know.

use std::process::Command;

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::{FakeStripe, Settings};
use usage_client::{
    Billing, CreateKey, ForceReport, Increment, KeyRole, PutAccount, Reason, UsageClient,
};
use usage_server::clock::Clock;

use crate::{
    load::{Load, terminate},
    postgres::{Cluster, Durability, StartError, execute},
    process::{Process, wait_until, within},
};

/// The binary of the version before.
const OLD: &str = "OLD_USAGE_SERVER";
/// Acknowledged units before each step.
const UNITS: i64 = 100;
const METER: &str = "api_calls";

/// What a migration of a later version does: it only adds.
const PRETENDED_MIGRATION: &str = "DO $$ DECLARE t text; BEGIN \
    FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP \
    EXECUTE format('ALTER TABLE %I ADD COLUMN later_column text', t); END LOOP; END $$";

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(Clock::system().now()).unwrap()
}

fn with_settings(mut command: Command, url: &str, stripe: &FakeStripe) -> Command {
    command
        .env("DATABASE_URL", url)
        .env("INSECURE_DURABILITY", "true")
        .env("RUST_LOG", "info")
        .env("STRIPE_SECRET_KEY", stripe.secret_key())
        .env("STRIPE_API_BASE", stripe.base_url());
    command
}

fn old_binary() -> Option<Command> {
    let path = std::env::var_os(OLD).filter(|path| !path.is_empty())?;
    let mut command = Command::new(path);
    Process::clean(&mut command);
    Some(command)
}

/// Reports all usage that can be reported, and waits for the end of the run.
async fn report(process: &Process) {
    let run = process.client().force_report(ForceReport::all()).await;
    within("a run", run.unwrap().summary()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_two_versions_share_a_database_under_load() {
    let cluster = match Cluster::start(Durability::Off) {
        Ok(cluster) => cluster,
        Err(StartError::Unavailable(missing)) => {
            let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!is_ci, "{missing}");
            return eprintln!("SKIPPED: {missing}");
        }
        Err(StartError::Failed(error)) => panic!("PostgreSQL does not start: {error}"),
    };
    let url = cluster.create_database().unwrap();
    let stripe = FakeStripe::start(Settings::default()).await.unwrap();
    let control = stripe.control();
    control.create_meter(METER).await.unwrap();
    control.create_subscribed_customer("cus").await.unwrap();
    control.create_subscribed_customer("cus2").await.unwrap();

    let has_old = old_binary().is_some();
    let binary = || old_binary().unwrap_or_else(Process::binary);
    let mut old = Process::start(with_settings(binary(), &url, &stripe), &[]).await;
    let client = old.client();
    let admin = client.create_key(CreateKey::new("admin", KeyRole::Admin));
    let admin = admin.await.unwrap().text;
    old.use_key(&admin).await;
    let bill_from = now() - TimeDelta::days(30);
    let link = PutAccount::stripe("acct", "cus").bill_from(bill_from);
    old.client().put_account(link).await.unwrap();
    let on_old = Load::start(&old, "old");
    on_old.wait_for(UNITS).await;

    // What the new version does before it serves, and what it does when it has nothing to migrate.
    let migrated = with_settings(Process::binary(), &url, &stripe)
        .arg("migrate")
        .output()
        .unwrap();
    assert!(migrated.status.success(), "{migrated:?}");
    if !has_old {
        execute(&url, PRETENDED_MIGRATION).unwrap();
    }
    let mut new = Process::start(with_settings(Process::binary(), &url, &stripe), &[]).await;
    new.use_key(&admin).await;
    let on_new = Load::start(&new, "new");
    on_new.wait_for(UNITS).await;
    on_old.wait_for(3 * UNITS).await;

    // Each reads what the other one wrote.
    for (writer, reader, account) in [(&old, &new, "first"), (&new, &old, "second")] {
        let at = now() - TimeDelta::hours(2);
        let increment = Increment::new(account).quantity(7).timestamp(at).key("k");
        writer.client().increment(increment.clone()).await.unwrap();
        let repeated = reader.client().increment(increment).await.unwrap();
        assert!(repeated.duplicate, "{account}");
        assert_eq!(reader.total(account).await, 7);
        let name = format!("limited {account}");
        let limited = CreateKey::new(name, KeyRole::Writer)
            .account(account)
            .account_prefix("team:")
            .meter(METER)
            .expires_at(now() + TimeDelta::days(1));
        let limited = writer.client().create_key(limited).await.unwrap();
        let client = UsageClient::builder(reader.endpoint()).api_key(&limited.text);
        let client = client.connect().await.unwrap();
        let again = Increment::new(account).key("k").quantity(7).timestamp(at);
        assert!(client.increment(again).await.unwrap().duplicate);
        let other = client.increment(Increment::new("acct")).await.unwrap_err();
        assert_eq!(other.reason(), Some(&Reason::PermissionDenied), "{other}");
        writer.client().revoke_key(limited.key.id).await.unwrap();
        wait_until("a revoked key", || async {
            let refused = client.increment(Increment::new(account).key("k")).await;
            refused.is_err_and(|error| error.reason() == Some(&Reason::Unauthenticated))
        })
        .await;
    }
    let link = PutAccount::stripe("first", "cus2").bill_from(bill_from);
    new.client().put_account(link).await.unwrap();
    let shown = old.client().get_account("first").await.unwrap();
    let Billing::Stripe(billing) = shown.billing else {
        panic!("not linked: {shown:?}");
    };
    assert_eq!(billing.customer, "cus2");

    // Each closes reports, and sends what the other one closed, while both count.
    for process in [&old, &new, &old, &new] {
        report(process).await;
    }
    terminate(&old);
    let (code, log) = old.ended().await;
    assert_eq!(code, Some(0), "{log}");
    let (acknowledged, unanswered) = on_old.ended().await;
    assert!(!log.contains("\"level\":\"ERROR\""), "{log}");
    for increment in &unanswered {
        new.client().increment(increment.clone()).await.unwrap();
    }
    terminate(&new);
    let (code, log) = new.ended().await;
    assert_eq!(code, Some(0), "{log}");
    let (of_new, unanswered_by_new) = on_new.ended().await;

    // The last one of the new version has all of it, and Stripe gets each unit once.
    let mut last = Process::start(with_settings(Process::binary(), &url, &stripe), &[]).await;
    last.use_key(&admin).await;
    for increment in &unanswered_by_new {
        last.client().increment(increment.clone()).await.unwrap();
    }
    let repeated = unanswered.len() + unanswered_by_new.len();
    let units = acknowledged + of_new + i64::try_from(repeated).unwrap();
    assert_eq!(last.total("acct").await, units);
    report(&last).await;
    wait_until("the totals of Stripe", || async {
        let totals = control.totals().await.unwrap();
        totals.values().sum::<i64>() == units + 7
    })
    .await;
    last.kill();
}
