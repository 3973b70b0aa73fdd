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
    own_cluster::own_cluster,
    postgres::{Durability, execute},
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

/// What the new version does before it serves.
fn migrate(url: &str, stripe: &FakeStripe) {
    let mut command = with_settings(Process::binary(), url, stripe);
    let migrated = command.arg("migrate").output().unwrap();
    assert!(migrated.status.success(), "{migrated:?}");
    if old_binary().is_none() {
        execute(url, PRETENDED_MIGRATION).unwrap();
    }
}

/// Usage, keys and their ends that one replica writes are known to the other one.
async fn assert_reads_what_is_written(writer: &Process, reader: &Process, account: &str) {
    let at = now() - TimeDelta::hours(2);
    let increment = Increment::new(account).quantity(7).timestamp(at).key("k");
    writer.client().increment(increment.clone()).await.unwrap();
    let repeated = reader.client().increment(increment.clone()).await.unwrap();
    assert!(repeated.duplicate, "{account}");
    assert_eq!(reader.total(account).await, 7);
    let limited = CreateKey::new(format!("limited {account}"), KeyRole::Writer)
        .account(account)
        .account_prefix("team:")
        .meter(METER)
        .expires_at(now() + TimeDelta::days(1));
    let limited = writer.client().create_key(limited).await.unwrap();
    let client = UsageClient::builder(reader.endpoint()).api_key(&limited.text);
    let client = client.connect().await.unwrap();
    let repeated = client.increment(increment.clone()).await.unwrap();
    assert!(repeated.duplicate, "{account}");
    let other = client.increment(Increment::new("acct")).await.unwrap_err();
    assert_eq!(other.reason(), Some(&Reason::PermissionDenied), "{other}");
    writer.client().revoke_key(limited.key.id).await.unwrap();
    wait_until("a revoked key", || async {
        let refused = client.increment(increment.clone()).await;
        refused.is_err_and(|error| error.reason() == Some(&Reason::Unauthenticated))
    })
    .await;
}

/// Stops a replica under its load, and repeats at another one what was not acknowledged. Returns the units of the load.
async fn stop(process: Process, load: Load) -> (i64, Vec<Increment>) {
    terminate(&process);
    let (code, log) = process.ended().await;
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("\"level\":\"ERROR\""), "{log}");
    let (acknowledged, unanswered) = load.ended().await;
    let units = acknowledged + i64::try_from(unanswered.len()).unwrap();
    (units, unanswered)
}

async fn repeat(process: &Process, unanswered: Vec<Increment>) {
    for increment in unanswered {
        process.client().increment(increment).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_two_versions_share_a_database_under_load() {
    let Some(cluster) = own_cluster(Durability::Off) else {
        return;
    };
    let url = cluster.create_database().unwrap();
    let stripe = FakeStripe::start(Settings::default()).await.unwrap();
    let control = stripe.control();
    control.create_meter(METER).await.unwrap();
    control.create_subscribed_customer("cus").await.unwrap();
    control.create_subscribed_customer("cus2").await.unwrap();
    let start =
        async |binary: Command| Process::start(with_settings(binary, &url, &stripe), &[]).await;

    let mut old = start(old_binary().unwrap_or_else(Process::binary)).await;
    let client = old.client();
    let admin = client.create_key(CreateKey::new("admin", KeyRole::Admin));
    let admin = admin.await.unwrap().text;
    old.use_key(&admin).await;
    let bill_from = now() - TimeDelta::days(30);
    let link = PutAccount::stripe("acct", "cus").bill_from(bill_from);
    old.client().put_account(link).await.unwrap();
    let on_old = Load::start(&old, "old");
    on_old.wait_for(UNITS).await;

    migrate(&url, &stripe);
    let mut new = start(Process::binary()).await;
    new.use_key(&admin).await;
    let on_new = Load::start(&new, "new");
    on_new.wait_for(UNITS).await;
    on_old.wait_for(3 * UNITS).await;

    assert_reads_what_is_written(&old, &new, "first").await;
    assert_reads_what_is_written(&new, &old, "second").await;
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
    let (by_old, unanswered) = stop(old, on_old).await;
    repeat(&new, unanswered).await;
    let (by_new, unanswered) = stop(new, on_new).await;

    // The last one of the new version has all of it, and Stripe gets each unit once.
    let mut last = start(Process::binary()).await;
    last.use_key(&admin).await;
    repeat(&last, unanswered).await;
    let units = by_old + by_new;
    assert_eq!(last.total("acct").await, units);
    report(&last).await;
    wait_until("the totals of Stripe", || async {
        let totals = control.totals().await.unwrap();
        totals.values().sum::<i64>() == units + 7
    })
    .await;
    last.kill();
}
