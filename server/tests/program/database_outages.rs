//! PostgreSQL stops, or hangs, under load while API keys are in force: each unit is counted once, calls are refused with
//! UNAVAILABLE alone, and the service goes on without a restart.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta};
use fake_stripe::{FakeStripe, Settings};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use usage_client::{Error, ErrorKind, ForceReport, Increment, PutAccount, Reason, UsageClient};
use usage_server::clock::Clock;

use crate::{
    keyed::{self, Keys},
    own_cluster::own_cluster,
    postgres::{Cluster, Durability, execute},
    process::{Process, wait_until, within},
};

const WRITERS: usize = 16;
const READERS: usize = 2;
/// Acknowledged before each outage and after it.
const UNITS: i64 = 300;
/// How long the database is away: longer than any answer is remembered, and than a commit is repeated.
const OUTAGE: Duration = Duration::from_secs(12);
/// From this age on, what is known of a key is not used any more.
const KEYS_AGE: Duration = Duration::from_secs(6);
/// What each of the many keys is known by.
const MANY_KEYS: usize = 3_000;

/// A refusal that tells its caller to try again, and nothing else.
#[track_caller]
fn assert_unavailable(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(
        error.reason(),
        Some(&Reason::DatabaseUnavailable),
        "{error}"
    );
    assert!(error.retry_after().is_some(), "{error}");
    assert!(error.is_retryable(), "{error}");
}

#[derive(Debug, Default)]
struct Counts {
    acknowledged: AtomicI64,
    refused: AtomicUsize,
}

/// Callers with keys: some count one unit after the other, and others read.
struct Load {
    counts: Arc<Counts>,
    stop: CancellationToken,
    callers: JoinSet<()>,
}

impl Load {
    async fn start(process: &Process, keys: &Keys) -> Self {
        let counts = Arc::<Counts>::default();
        let stop = CancellationToken::new();
        let mut callers = JoinSet::new();
        let writer = keyed::client(process, &keys.writer).await;
        for caller in 0..WRITERS {
            callers.spawn(count(
                writer.clone(),
                caller,
                Arc::clone(&counts),
                stop.clone(),
            ));
        }
        let reader = keyed::client(process, &keys.reader).await;
        for _ in 0..READERS {
            callers.spawn(read(reader.clone(), Arc::clone(&counts), stop.clone()));
        }
        Self {
            counts,
            stop,
            callers,
        }
    }

    async fn wait_for_more(&self, units: i64) {
        let counts = &self.counts.acknowledged;
        let before = counts.load(Ordering::SeqCst);
        wait_until("acknowledged units", || async {
            counts.load(Ordering::SeqCst) >= before + units
        })
        .await;
    }

    /// Waits until calls were refused, and the database has been away for long enough.
    async fn wait_for_refusals(&self, begun: Instant) {
        let before = self.counts.refused.load(Ordering::SeqCst);
        wait_until("refused calls", || async {
            let refused = self.counts.refused.load(Ordering::SeqCst);
            refused >= before + WRITERS && begun.elapsed() >= OUTAGE
        })
        .await;
    }

    /// Ends the callers. Returns how many units were acknowledged, each once.
    async fn stop(mut self) -> i64 {
        self.stop.cancel();
        while let Some(ended) = within("the callers", self.callers.join_next()).await {
            ended.expect("every refusal is UNAVAILABLE");
        }
        self.counts.acknowledged.load(Ordering::SeqCst)
    }
}

/// Counts units. Each is repeated under its key until it is acknowledged.
async fn count(client: UsageClient, caller: usize, counts: Arc<Counts>, stop: CancellationToken) {
    let mut number = 0_u64;
    while !stop.is_cancelled() {
        number += 1;
        let increment = Increment::new("acct").key(format!("{caller}-{number}"));
        while let Err(error) = client.increment(increment.clone()).await {
            assert_unavailable(&error);
            counts.refused.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(error.retry_after().unwrap_or_default()).await;
        }
        counts.acknowledged.fetch_add(1, Ordering::SeqCst);
    }
}

async fn read(client: UsageClient, counts: Arc<Counts>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = client.get("acct").await {
            assert_unavailable(&error);
            counts.refused.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(error.retry_after().unwrap_or_default()).await;
        }
    }
}

/// A service with its own PostgreSQL, keys, and an account that Stripe bills.
struct Service {
    cluster: Cluster,
    url: String,
    keys: Keys,
    process: Process,
    stripe: FakeStripe,
}

impl Service {
    /// None where PostgreSQL is not installed.
    async fn start() -> Option<Self> {
        let cluster = own_cluster(Durability::On)?;
        let url = cluster.create_database().unwrap();
        let keys = Keys::create(&url);
        let stripe = FakeStripe::start(Settings::default()).await.unwrap();
        let control = stripe.control();
        control.create_meter("api_calls").await.unwrap();
        control.create_subscribed_customer("cus").await.unwrap();
        let process = keyed::serve(&url, Some(&stripe)).await;
        let now = DateTime::from_timestamp_millis(Clock::system().now()).unwrap();
        let month_ago = now - TimeDelta::days(30);
        let link = PutAccount::stripe("acct", "cus").bill_from(month_ago);
        let admin = keyed::client(&process, &keys.admin).await;
        admin.put_account(link).await.unwrap();
        Some(Self {
            cluster,
            url,
            keys,
            process,
            stripe,
        })
    }

    /// A key that was never seen is not told that it is wrong, and not let in; a text that is none is refused as ever.
    async fn assert_keys_are_not_judged(&self) {
        let secret = &self.keys.writer[20..];
        let unseen = format!("ub_{:016x}_{secret}", u64::MAX);
        let unseen = keyed::client(&self.process, &unseen).await;
        assert_unavailable(&unseen.increment("acct").await.unwrap_err());
        let known = keyed::client(&self.process, &self.keys.admin).await;
        assert_unavailable(&known.list_meters().await.unwrap_err());
        let none = keyed::client(&self.process, "s3cret").await;
        let refused = none.increment("acct").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unauthenticated);
    }

    /// The background jobs go on, and each unit reaches Stripe once.
    async fn assert_all_is_reported(self, units: i64) {
        let admin = keyed::client(&self.process, &self.keys.admin).await;
        let usage = admin.get("acct").await.unwrap();
        assert_eq!(usage.meters[0].quantities.total, units);
        let run = admin.force_report(ForceReport::all()).await.unwrap();
        within("a run", run.summary()).await.unwrap();
        let control = self.stripe.control();
        wait_until("the totals of Stripe", || async {
            let totals = control.totals().await.unwrap();
            totals.values().sum::<i64>() == units
        })
        .await;
        self.process.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_crashes_under_load_loses_nothing_and_needs_no_restart() {
    let Some(mut service) = Service::start().await else {
        return;
    };
    let load = Load::start(&service.process, &service.keys).await;
    load.wait_for_more(UNITS).await;
    service.cluster.crash().unwrap();
    let begun = Instant::now();
    service.process.wait_until_not_ready().await;
    load.wait_for_refusals(begun).await;
    service.assert_keys_are_not_judged().await;
    service.cluster.restart().unwrap();
    service.process.wait_until_ready().await;
    load.wait_for_more(UNITS).await;
    let units = load.stop().await;
    service.assert_all_is_reported(units).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_under_load_loses_nothing_and_needs_no_restart() {
    let Some(service) = Service::start().await else {
        return;
    };
    let load = Load::start(&service.process, &service.keys).await;
    load.wait_for_more(UNITS).await;
    let paused = service.cluster.pause().unwrap();
    let begun = Instant::now();
    service.process.wait_until_not_ready().await;
    load.wait_for_refusals(begun).await;
    service.assert_keys_are_not_judged().await;
    drop(paused);
    service.process.wait_until_ready().await;
    load.wait_for_more(UNITS).await;
    let units = load.stop().await;
    service.assert_all_is_reported(units).await;
}

/// However many keys are in use, a database that hangs is no overload and no wrong key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_many_keys_each_call_is_unavailable_while_the_database_hangs() {
    let Some(service) = Service::start().await else {
        return;
    };
    let many = format!(
        "INSERT INTO api_keys (id, name, role, scope, secret_hash, created_at) \
         SELECT lpad(to_hex(number), 16, '0'), 'many', role, scope, secret_hash, created_at \
         FROM api_keys, generate_series(1, {MANY_KEYS}) AS number WHERE name = 'writer'"
    );
    execute(&service.url, &many).unwrap();
    let secret = &service.keys.writer[20..];
    let mut channels = Vec::new();
    for _ in 0..4 {
        channels.push(service.process.channel().await);
    }
    let call_with_each = async || {
        let calls = (1..=MANY_KEYS).map(|number| {
            let key = format!("ub_{number:016x}_{secret}");
            let channel = channels[number % channels.len()].clone();
            async move { keyed::list_meters(channel, &key).await }
        });
        futures_util::future::join_all(calls).await
    };
    // One call finds the ids of all. Else so many callers could wait for them at once that some are refused.
    let first = format!("ub_{:016x}_{secret}", 1);
    let known = keyed::list_meters(channels[0].clone(), &first).await;
    known.expect("a key that is valid");
    for answer in call_with_each().await {
        answer.expect("a key that is valid");
    }
    let paused = service.cluster.pause().unwrap();
    let begun = Instant::now();
    wait_until("keys that are too old", || async {
        begun.elapsed() >= KEYS_AGE
    })
    .await;
    for answer in call_with_each().await {
        let refused = answer.expect_err("a key that cannot be checked");
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    }
    drop(paused);
    for answer in call_with_each().await {
        answer.expect("a key that is valid");
    }
    service.process.kill();
}
