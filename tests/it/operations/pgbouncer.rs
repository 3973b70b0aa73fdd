//! The service behind a PgBouncer that pools transactions: every path that reads or writes the database.

use futures_util::future::join_all;
use usage_client::{
    Correct, CreateKey, ForceReport, Increment, KeyRole, ListAccounts, ListAuditEntries, Reason,
    Reconcile, ReportState, Retry,
};
use usage_server::{
    commands::{
        adopt::{self, AdoptCommand},
        doctor::Severity,
    },
    config::CommandConfig,
    store::Store,
};

use super::access;
use crate::support::{
    pgbouncer::PgBouncer,
    postgres::{self, Cluster, Durability},
    reverse_proxy::ReverseProxy,
    world::{TIMEOUT, World, hours_ago, on_postgres, poll, within},
};

on_postgres!(
    everything_works_through_pgbouncer,
    an_empty_database_is_migrated_through_pgbouncer,
    many_callers_share_few_connections_to_the_server,
    servers_are_seen_through_pgbouncer,
    a_standby_behind_pgbouncer_is_a_database_that_does_not_answer,
);

/// Fewer than each server of a test opens.
const CONNECTIONS: u32 = 3;
const CALLERS: usize = 32;
const CALLS: i64 = 20;

/// Restarts the server behind a PgBouncer.
async fn behind(world: World, flags: &[&str]) -> Option<(World, PgBouncer)> {
    let mut world = world
        .unless_distributed("its workers know no PgBouncer")
        .await?;
    let cluster = postgres::cluster().expect("PostgreSQL");
    let Some(bouncer) = PgBouncer::start_if_installed(cluster.address(), CONNECTIONS) else {
        world.finish().await;
        return None;
    };
    let url = format!("--database-url={}", bouncer.url(&world.database_url));
    world.reconfigure(&[&[url.as_str()], flags].concat()).await;
    Some((world, bouncer))
}

async fn everything_works_through_pgbouncer(world: World) {
    let Some((world, _bouncer)) = behind(world, &[]).await else {
        return;
    };
    let client = world.client();
    for n in 0..4 {
        let (account, customer) = (format!("acct-{n}"), format!("cus_{n}"));
        world.link_to_new_customer(&account, &customer).await;
        let increment = Increment::new(&account).timestamp(hours_ago(3));
        let keyed = increment.clone().key("k");
        assert!(!client.increment(keyed.clone()).await.unwrap().duplicate);
        assert!(client.increment(keyed).await.unwrap().duplicate);
        let batch = vec![increment.clone().quantity(10), increment.quantity(100)];
        client.increment_batch(batch).await.unwrap();
    }
    let summary = world.report_all().await;
    assert_eq!(summary.accepted.quantity, 4 * 111);
    for n in 0..4 {
        let account = format!("acct-{n}");
        let accepted = [ReportState::Accepted];
        world.wait_until_reports_are(&account, &accepted).await;
        assert_eq!(world.usage(&account).await.0, 111);
        assert_eq!(
            world.stripe_total(&format!("cus_{n}"), "api_calls").await,
            111
        );
    }
    let correction = Correct::new("acct-0", -1, "counted twice").timestamp(hours_ago(3));
    client.correct(correction).await.unwrap();
    let run = client.force_report(ForceReport::accounts(["acct-0"])).await;
    run.unwrap().summary().await.unwrap();
    assert_eq!(world.usage("acct-0").await.0, 110);
    assert_eq!(world.stripe_total("cus_0", "api_calls").await, 110);
    let reconciled = client.reconcile(Reconcile::new()).await.unwrap();
    assert_eq!(reconciled.rows.len(), 4, "{reconciled:?}");
    let accounts = client.list_accounts(ListAccounts::new()).await.unwrap();
    assert_eq!(accounts.accounts.len(), 4);
    let (severity, found) = world.doctor_says(None, "ledger check").await;
    assert_eq!(severity, Severity::Ok, "{found}");
    // From here on every call needs a key.
    let admin = CreateKey::new("admin", KeyRole::Admin);
    let admin = client.create_key(admin).await.unwrap();
    let client = access::client(world.endpoint(), &admin.text).await;
    let keys = client.list_keys(10, None).await.unwrap();
    assert_eq!(keys.keys.len(), 1);
    let entries = client
        .list_audit_entries(ListAuditEntries::new())
        .await
        .unwrap();
    assert!(!entries.entries.is_empty());
    client.increment("acct-0").await.unwrap();
    world.finish().await;
}

async fn an_empty_database_is_migrated_through_pgbouncer(world: World) {
    let Some((world, bouncer)) = behind(world, &[]).await else {
        return;
    };
    let url = postgres::cluster().unwrap().create_database().unwrap();
    let url = bouncer.url(&url);
    // Several at once, as replicas that start together.
    let stores = join_all((0..3).map(|_| Store::open(&url, 2))).await;
    let stores: Vec<Store> = stores.into_iter().map(Result::unwrap).collect();
    stores[0].check_schema().await.unwrap_err();
    for migrated in join_all(stores.iter().map(Store::migrate)).await {
        migrated.unwrap();
    }
    for store in &stores {
        store.migrate().await.unwrap();
        store.check_schema().await.unwrap();
        assert!(store.ledger_totals().await.unwrap().is_balanced());
    }
    for store in stores {
        store.close().await.unwrap();
    }
    world.finish().await;
}

async fn many_callers_share_few_connections_to_the_server(world: World) {
    let Some((world, _bouncer)) =
        behind(world, &["--database-connections=16", "--writers=4"]).await
    else {
        return;
    };
    let (replica, other) = world.second_client().await;
    let callers = (0..CALLERS).map(|caller| {
        let client = if caller % 2 == 0 {
            world.client()
        } else {
            other.clone()
        };
        let query = world.recent("acct");
        tokio::spawn(async move {
            for _ in 0..CALLS {
                client.increment("acct").await.unwrap();
                client.get(query.clone()).await.unwrap();
            }
        })
    });
    for caller in within("the callers", join_all(callers)).await {
        caller.unwrap();
    }
    let total = i64::try_from(CALLERS).unwrap() * CALLS;
    assert_eq!(world.usage("acct").await.0, total);
    if let Some(replica) = replica {
        replica.stop().await.unwrap();
    }
    world.finish().await;
}

/// Why a command that needs a stopped service refuses a database.
async fn refusal(world: &World, url: &str) -> String {
    let mut config = CommandConfig::from(world.config());
    config.database.database_url = Some(url.to_owned().into());
    let command = AdoptCommand {
        config,
        yes: false,
        dry_run: false,
    };
    let mut printed = Vec::new();
    // Its future is too large for the stack of a test.
    let adopted = Box::pin(adopt::run(&command, &world.clock, &mut printed, None));
    let adopted = within("a command", adopted).await;
    adopted
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
}

async fn servers_are_seen_through_pgbouncer(world: World) {
    let Some((mut world, bouncer)) = behind(world, &[]).await else {
        return;
    };
    let direct = world.database_url.clone();
    let urls = [bouncer.url(&direct), direct];
    for url in &urls {
        poll("a lease", async || {
            let why = refusal(&world, url).await;
            why.contains("they run").then_some(())
        })
        .await;
    }
    world.stop().await;
    for url in &urls {
        let why = refusal(&world, url).await;
        assert!(!why.contains("stop every server"), "{why}");
    }
    world.finish().await;
}

/// It connects to another server at any time, below connections that the service has had for long.
async fn a_standby_behind_pgbouncer_is_a_database_that_does_not_answer(mut world: World) {
    let proxy = ReverseProxy::start().await;
    let address = proxy.endpoint().trim_start_matches("http://");
    let Some(bouncer) = PgBouncer::start_if_installed(address.parse().unwrap(), CONNECTIONS) else {
        return world.finish().await;
    };
    world.stop().await;
    let primary = Cluster::start(Durability::Off).expect("a primary");
    let url = primary.create_database().expect("a database");
    let standby = primary.standby().expect("a standby");
    let put = |server: &Cluster| {
        proxy.put_before(&server.address().to_string());
        proxy.break_connections();
    };
    put(&primary);
    world.database_url = bouncer.url(&url);
    world.start_server().await;
    let client = world.client();
    client.increment("acct").await.unwrap();
    put(&standby);
    let increment = || Increment::new("acct").key("k");
    let refused = client.increment(increment()).await.unwrap_err();
    assert_eq!(
        refused.reason(),
        Some(&Reason::DatabaseUnavailable),
        "{refused}"
    );
    put(&primary);
    let client = client.with_retry(Retry::default()).with_timeout(TIMEOUT);
    client.increment(increment()).await.unwrap();
    assert_eq!(world.usage_with_retry("acct").await, 2);
    world.finish().await;
}
