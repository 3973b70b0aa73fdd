//! A streaming standby takes over from a primary that crashes, and servers that must not be used are not.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use tokio::{task::JoinSet, time::Instant};
use usage_client::{Increment, Retry};
use uuid::Uuid;

use crate::support::{
    postgres::{Cluster, Durability, execute},
    world::{Server, TIMEOUT, World, on_postgres, poll, within},
};

on_postgres!(
    a_failover_under_load_counts_each_acknowledged_unit_once,
    a_server_that_a_failover_left_behind_is_not_used_again,
    a_start_on_a_standby_is_refused,
    a_host_that_does_not_answer_is_passed_over,
);

const CALLERS: usize = 16;
/// Acknowledged on each side of the failover.
const UNITS: i64 = 200;
/// A host that takes a connection and says nothing is given up after three seconds, at a start and in a search.
const START_LIMIT_SECS: u64 = 30;

/// A primary and a standby that it streams to, and the service on both.
struct Pair {
    world: World,
    primary: Cluster,
    standby: Cluster,
    /// The database at each.
    urls: [String; 2],
}

/// The same database at several servers.
fn url_of(addresses: &[SocketAddr], url: &str) -> String {
    let (_, name) = url.rsplit_once('/').expect("a name");
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    format!("postgres://usage@{}/{name}", addresses.join(","))
}

impl Pair {
    async fn start(mut world: World) -> Self {
        world.stop().await;
        // The clusters of other tests are not copied with it.
        let primary = Cluster::start(Durability::Off).expect("a primary");
        let url = primary.create_database().expect("a database");
        let standby = primary.standby().expect("a standby");
        let [first, second] = [primary.address(), standby.address()];
        let urls = [url_of(&[first], &url), url_of(&[second], &url)];
        world.database_url = url_of(&[first, second], &url);
        world.start_server().await;
        Self {
            world,
            primary,
            standby,
            urls,
        }
    }

    /// Makes each commit wait until the standby has it.
    async fn make_synchronous(&self) {
        self.primary.make_synchronous().expect("a setting");
        let is_set = async || self.primary.is_synchronous().then_some(());
        poll("the standby", is_set).await;
    }
}

/// Callers that count one unit after another until they are stopped.
struct Load {
    acknowledged: Arc<AtomicI64>,
    is_stopped: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

impl Load {
    fn start(world: &World) -> Self {
        let acknowledged = Arc::<AtomicI64>::default();
        let is_stopped = Arc::<AtomicBool>::default();
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let client = world.client().with_retry(Retry::default());
            let (acknowledged, is_stopped) = (Arc::clone(&acknowledged), Arc::clone(&is_stopped));
            callers.spawn(async move {
                while !is_stopped.load(Ordering::Relaxed) {
                    // Repeated until it is acknowledged, so nothing else can have been counted.
                    let increment = Increment::new("acct").key(Uuid::now_v7().to_string());
                    client.increment(increment).await.expect("acknowledged");
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self {
            acknowledged,
            is_stopped,
            callers,
        }
    }

    /// Waits until this many more units are acknowledged.
    async fn wait_for(&self, units: i64) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        poll("more acknowledged units", async || {
            let now = self.acknowledged.load(Ordering::Relaxed);
            (now >= before + units).then_some(())
        })
        .await;
    }

    /// Stops the callers. Returns how many units were acknowledged.
    async fn stop(mut self) -> i64 {
        self.is_stopped.store(true, Ordering::Relaxed);
        while let Some(caller) = within("the callers", self.callers.join_next()).await {
            caller.expect("no failed call");
        }
        self.acknowledged.load(Ordering::Relaxed)
    }
}

async fn a_failover_under_load_counts_each_acknowledged_unit_once(world: World) {
    let mut pair = Pair::start(world).await;
    pair.make_synchronous().await;
    let load = Load::start(&pair.world);
    load.wait_for(UNITS).await;
    pair.primary.crash().expect("a crash");
    pair.standby.promote().expect("a promotion");
    // Without a restart.
    load.wait_for(UNITS).await;
    let acknowledged = load.stop().await;
    assert_eq!(pair.world.usage_with_retry("acct").await, acknowledged);
    // A server that starts now finds the host that is left.
    pair.world.restart().await;
    assert_eq!(pair.world.usage_with_retry("acct").await, acknowledged);
    pair.world.finish().await;
}

async fn a_server_that_a_failover_left_behind_is_not_used_again(world: World) {
    let mut pair = Pair::start(world).await;
    pair.world.client().increment("acct").await.unwrap();
    let [former, promoted] = &pair.urls;
    let has_it = "DO $$ BEGIN ASSERT (SELECT count(*) FROM idempotency_keys) = 1; END $$";
    poll("the standby to have it", async || {
        execute(promoted, has_it).ok()
    })
    .await;
    // The former primary still takes writes: nothing stopped it.
    pair.standby.promote().expect("a promotion");
    let end_connections = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE application_name LIKE 'usage-server%'";
    execute(former, end_connections).unwrap();
    let client = pair
        .world
        .client()
        .with_retry(Retry::default())
        .with_timeout(TIMEOUT);
    poll("the other host", async || {
        client.increment("acct").await.expect("acknowledged");
        execute(promoted, has_it).err().map(drop)
    })
    .await;
    let counted = pair.world.usage_with_retry("acct").await;
    // Also by a server that starts while both take writes.
    pair.world.restart().await;
    assert_eq!(pair.world.usage_with_retry("acct").await, counted);
    execute(former, has_it).expect("nothing was counted at the former primary");
    pair.world.finish().await;
}

async fn a_start_on_a_standby_is_refused(world: World) {
    let pair = Pair::start(world).await;
    let standby = pair.standby.address();
    for (url, words) in [
        (
            pair.urls[1].clone(),
            "the database is read only: a standby, or set so".to_owned(),
        ),
        (
            url_of(&[standby, standby], &pair.urls[1]),
            format!("{standby}: the database is read only: a standby, or set so"),
        ),
    ] {
        let mut config = pair.world.config();
        config.database.database_url = Some(url.into());
        let server = Server::start(config, pair.world.clock.clone()).await;
        let ended = within("the end", server.ended()).await;
        let error = ended.unwrap_err().to_string();
        assert!(error.contains(&words), "{error}");
    }
    pair.world.finish().await;
}

async fn a_host_that_does_not_answer_is_passed_over(mut world: World) {
    world.client().increment("acct").await.unwrap();
    world.stop().await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_, place) = world.database_url.rsplit_once('@').unwrap();
    world.database_url = format!("postgres://usage@{},{place}", silent.local_addr().unwrap());
    let begun = Instant::now();
    world.start_server().await;
    assert_eq!(world.usage("acct").await.0, 1);
    let secs = begun.elapsed().as_secs();
    assert!(secs < START_LIMIT_SECS, "started after {secs} s");
    world.finish().await;
}
