//! SIGTERM while callers count, streams are open, and Stripe or the database does not respond: the process ends within the
//! stated time, and everything that it acknowledged is there.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta};
use fake_stripe::{FakeStripe, Fault, Settings};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use usage_client::{ForceReport, Increment, PutAccount, Retry, UsageClient};
use usage_server::clock::Clock;

use crate::{
    load::{Load, assert_counted, terminate},
    own_cluster::own_cluster,
    postgres::Durability,
    process::{Process, TIMEOUT, wait_until, within},
};

/// What `operating.md` states, and some for a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(25 + 10);
/// Without anything that does not respond: the time that open calls have, and some.
const ENDS_SOON: Duration = Duration::from_secs(5 + 10);
/// Acknowledged before the signal.
const UNITS: i64 = 200;

/// Waits until the process has ended by itself, without an error. Returns its log.
async fn assert_ends(process: Process, limit: Duration) -> String {
    let begun = Instant::now();
    let (code, log) = process.ended().await;
    let took = begun.elapsed();
    assert_eq!(code, Some(0), "{log}");
    assert!(took < limit, "it took {took:?}: {log}");
    log
}

/// A health check that watches until the server ends.
async fn watch_health(
    process: &Process,
) -> tonic::Streaming<tonic_health::pb::HealthCheckResponse> {
    let endpoint = Channel::from_shared(process.endpoint().to_owned()).unwrap();
    let mut health = HealthClient::new(endpoint.connect().await.unwrap());
    let watched = health.watch(HealthCheckRequest::default()).await;
    watched.unwrap().into_inner()
}

async fn stripe() -> FakeStripe {
    let stripe = FakeStripe::start(Settings::default()).await.unwrap();
    let control = stripe.control();
    control.create_meter("api_calls").await.unwrap();
    control.create_subscribed_customer("cus").await.unwrap();
    stripe
}

async fn serve(url: &str, stripe: Option<&FakeStripe>) -> Process {
    let mut command = Process::binary();
    command.env("DATABASE_URL", url).env("RUST_LOG", "info");
    if let Some(stripe) = stripe {
        command
            .env("STRIPE_SECRET_KEY", stripe.secret_key())
            .env("STRIPE_API_BASE", stripe.base_url());
    }
    Process::start(command, &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_stripe_does_not_keep_the_process() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite://{}", folder.path().join("usage.db").display());
    let stripe = stripe().await;
    let control = stripe.control();
    let process = serve(&url, Some(&stripe)).await;
    let client = process.client();
    let now = DateTime::from_timestamp_millis(Clock::system().now()).unwrap();
    let month_ago = now - TimeDelta::days(30);
    let link = PutAccount::stripe("acct", "cus").bill_from(month_ago);
    client.put_account(link).await.unwrap();
    let hour_ago = now - TimeDelta::hours(2);
    let reported = Increment::new("acct").key("reported").timestamp(hour_ago);
    client.increment(reported).await.unwrap();
    let hang = Fault::block_until_released("hang").on_path("/v1/billing/meter_events");
    control.script(hang.always()).await.unwrap();
    // Its stream stays open, because its report is not sent.
    let run = client.force_report(ForceReport::all()).await.unwrap();
    control.wait_for_blocked("hang", 1, TIMEOUT).await.unwrap();
    let load = Load::start(&process, "load");
    load.wait_for(UNITS).await;
    terminate(&process);
    assert_ends(process, ENDS_WITHIN).await;
    // The stream has ended with an error, or says that it is not complete.
    drop(run);

    control.clear_faults().await.unwrap();
    control.release("hang").await.unwrap();
    let process = serve(&url, Some(&stripe)).await;
    let (acknowledged, unanswered) = load.ended().await;
    let client = process.client().with_retry(Retry::default());
    for increment in &unanswered {
        client.increment(increment.clone()).await.unwrap();
    }
    let units = acknowledged + i64::try_from(unanswered.len()).unwrap() + 1;
    assert_eq!(process.total("acct").await, units);
    // What was being sent reaches Stripe once.
    let run = client.force_report(ForceReport::all()).await.unwrap();
    within("a run", run.summary()).await.unwrap();
    wait_until("the totals of Stripe", || async {
        let totals = control.totals().await.unwrap();
        totals.values().sum::<i64>() == units
    })
    .await;
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_streams_do_not_keep_the_process() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite://{}", folder.path().join("usage.db").display());
    let process = serve(&url, None).await;
    let mut health = watch_health(&process).await;
    within("its health", health.message()).await.unwrap();
    let address = process.endpoint().trim_start_matches("http://").to_owned();
    // A connection that never says anything.
    let silent = TcpStream::connect(&address).await.unwrap();
    let idle = UsageClient::connect(process.endpoint()).await.unwrap();
    idle.list_meters().await.unwrap();
    let load = Load::start(&process, "load");
    load.wait_for(UNITS).await;
    terminate(&process);
    assert_ends(process, ENDS_SOON).await;
    let process = serve(&url, None).await;
    assert_counted(&process, load).await;
    drop((silent, idle));
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_database_does_not_keep_the_process() {
    let Some(cluster) = own_cluster(Durability::Off) else {
        return;
    };
    let url = cluster.create_database().unwrap();
    let relay = Relay::start(cluster.address()).await;
    let (_, name) = url.rsplit_once('/').unwrap();
    let stripe = stripe().await;
    let insecure = |url: &str| format!("{url}?application_name=usage");
    let relayed = insecure(&format!("postgres://usage@{}/{name}", relay.address));
    let process = serve_insecurely(&relayed, &stripe).await;
    let mut health = watch_health(&process).await;
    within("its health", health.message()).await.unwrap();
    let load = Load::start(&process, "load");
    load.wait_for(UNITS).await;
    relay.is_silent.send_replace(true);
    terminate(&process);
    assert_ends(process, ENDS_WITHIN).await;
    let process = serve_insecurely(&insecure(&url), &stripe).await;
    assert_counted(&process, load).await;
    process.kill();
}

/// On a PostgreSQL that does not wait for the disk.
async fn serve_insecurely(url: &str, stripe: &FakeStripe) -> Process {
    let mut command = Process::binary();
    command
        .env("DATABASE_URL", url)
        .env("INSECURE_DURABILITY", "true")
        .env("RUST_LOG", "info")
        .env("STRIPE_SECRET_KEY", stripe.secret_key())
        .env("STRIPE_API_BASE", stripe.base_url());
    Process::start(command, &[]).await
}

/// Forwards connections until it is silent: both ends stay open then, and nothing arrives.
struct Relay {
    address: SocketAddr,
    is_silent: watch::Sender<bool>,
}

impl Relay {
    async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_silent = watch::Sender::new(false);
        let silent = is_silent.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (silent, again) = (silent.clone(), silent.clone());
                let Ok(server) = TcpStream::connect(upstream).await else {
                    return;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(forward(from_client, to_server, silent));
                tokio::spawn(forward(from_server, to_client, again));
            }
        });
        Self { address, is_silent }
    }
}

async fn until_silent(silent: &mut watch::Receiver<bool>) {
    let _ = silent.wait_for(|is_silent| *is_silent).await;
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut silent: watch::Receiver<bool>,
) {
    let mut bytes = [0; 8_192];
    loop {
        let read = tokio::select! {
            biased;
            () = until_silent(&mut silent) => std::future::pending().await,
            read = from.read(&mut bytes) => read,
        };
        match read {
            Ok(read @ 1..) if to.write_all(&bytes[..read]).await.is_ok() => {}
            _ => return,
        }
    }
}
