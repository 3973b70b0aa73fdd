//! The world of one test: a database, a stand-in for Stripe, and servers that start, stop and crash.
//!
//! Every test ends with [`World::finish`], which checks the ledger check.

pub(crate) mod billing;
pub(crate) mod http;
mod reporting;
mod server;

use std::{future::Future, io::Write as _, sync::OnceLock, time::Duration};

use chrono::{DateTime, Utc};
use clap::Parser;
use fake_stripe::{Control, FakeStripe, Settings};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use usage_client::{
    ForceReport, Get, ListReports, PutAccount, ReportSummary, UsageClient, UsageReport,
};
use usage_server::{clock::Clock, config::Config, store::Store};

use crate::support::{postgres, postgres_proxy::PostgresProxy};

pub(crate) use server::Server;

/// No wait of a test takes longer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);
/// Two meters, the first the default; pauses short enough for a test.
const FLAGS: [&str; 7] = [
    "--meters=api_calls:call,tokens=llm_tokens:token",
    "--default-meter=api_calls",
    "--stripe-retry-ms=20",
    "--stripe-events-per-sec=1000",
    "--report-schedule=0 0 1 1 *",
    "--window-mins=60",
    "--stripe-webhook-secrets=whsec_world",
];

/// Which database a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// Turns a list of test functions into tests on both engines.
macro_rules! on_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[test] fn $name() { $crate::support::world::run($crate::support::world::Engine::Sqlite, super::$name); })+
        }
        mod postgres {
            $(#[test] fn $name() { $crate::support::world::run($crate::support::world::Engine::Postgres, super::$name); })+
        }
    };
}
pub(crate) use on_both_engines;

/// Turns a list of test functions into tests on `PostgreSQL`, for what only it can do.
macro_rules! on_postgres {
    ($($name:ident),+ $(,)?) => {
        mod only_postgres {
            $(#[test] fn $name() { $crate::support::world::run($crate::support::world::Engine::Postgres, super::$name); })+
        }
    };
}
pub(crate) use on_postgres;

/// Runs one test on one engine; without `PostgreSQL` it says that it was skipped, or fails where CI
/// promises that there is one.
pub(crate) fn run<F: Future<Output = ()>>(engine: Engine, test: fn(World) -> F) {
    if engine == Engine::Postgres
        && let Err(missing) = postgres::cluster()
    {
        let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!is_ci, "{missing}");
        // Past the test runner's capture, so that a skipped test does not look like a passed one.
        writeln!(std::io::stderr(), "SKIPPED: {missing}").expect("somewhere to say so");
        return;
    }
    runtime(2).block_on(async { test(World::start(engine).await).await });
}

fn runtime(threads: usize) -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Waits for something that takes a moment to come true; fails when it does not.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, future)
        .await
        .unwrap_or_else(|_| panic!("{what} took longer than {TIMEOUT:?}"))
}

/// A moment as the client gives it.
pub(crate) fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).expect("a time").to_utc()
}

/// The start of the hour a number of hours ago: far from every edge of the present, and the same moment
/// whenever a test asks.
pub(crate) fn hours_ago(hours: i64) -> DateTime<Utc> {
    const HOUR: i64 = 3_600_000;
    static THIS_HOUR: OnceLock<i64> = OnceLock::new();
    let this_hour = THIS_HOUR.get_or_init(|| {
        let now = Clock::system().now();
        now - now.rem_euclid(HOUR)
    });
    DateTime::from_timestamp_millis(this_hour - hours * HOUR).expect("a time")
}

/// One test's world.
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) clock: Clock,
    pub(crate) database_url: String,
    fake_stripe: FakeStripe,
    flags: Vec<String>,
    server: Option<Server>,
    client: OnceLock<UsageClient>,
    /// Whether the stand-in for Stripe tells the server of what happens.
    receives_webhooks: bool,
    _folder: TempDir,
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: Config,
}

/// Reads flags as the command line does.
pub(crate) fn parse_config(flags: &[String]) -> Result<Config, clap::Error> {
    let name = std::iter::once("usage-server".to_owned());
    Cli::try_parse_from(name.chain(flags.iter().cloned())).map(|cli| cli.config)
}

impl World {
    /// A world with a server in it, and with the Stripe meters of both configured meters.
    pub(crate) async fn start(engine: Engine) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let database_url = match engine {
            Engine::Sqlite => format!("sqlite://{}", folder.path().join("usage.db").display()),
            Engine::Postgres => postgres::cluster()
                .expect("PostgreSQL")
                .create_database()
                .expect("a database"),
        };
        let fake_stripe = FakeStripe::start(Settings::default())
            .await
            .expect("a stand-in for Stripe");
        for event_name in ["api_calls", "llm_tokens"] {
            fake_stripe
                .control()
                .create_meter(event_name)
                .await
                .expect("a meter");
        }
        let mut world = Self {
            engine,
            clock: Clock::system(),
            database_url,
            fake_stripe,
            flags: Vec::new(),
            server: None,
            client: OnceLock::new(),
            receives_webhooks: false,
            _folder: folder,
        };
        world.start_server().await;
        world
    }

    /// The configuration, with this world's flags; a later flag of the same name wins.
    pub(crate) fn config(&self) -> Config {
        let mut flags: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
        flags.extend([
            format!("--database-url={}", self.database_url),
            format!("--stripe-secret-key={}", self.fake_stripe.secret_key()),
            format!("--stripe-api-base={}", self.fake_stripe.base_url()),
        ]);
        for flag in &self.flags {
            let name = flag.split('=').next().expect("a name");
            flags.retain(|known| known.split('=').next() != Some(name));
            if flag.contains('=') {
                flags.push(flag.clone());
            }
        }
        parse_config(&flags).expect("valid flags")
    }

    /// Restarts the server with other flags: `--name=value` sets, `--name` alone takes away.
    pub(crate) async fn reconfigure(&mut self, flags: &[&str]) {
        self.stop().await;
        self.flags
            .extend(flags.iter().map(|flag| (*flag).to_owned()));
        self.start_server().await;
    }

    /// Restarts the server under another clock.
    pub(crate) async fn set_clock(&mut self, clock: Clock) {
        self.stop().await;
        self.clock = clock;
        self.start_server().await;
    }

    pub(crate) async fn start_server(&mut self) {
        let server = Server::start(self.config(), self.clock.clone()).await;
        self.client = OnceLock::from(server.client().await);
        self.server = Some(server);
        if self.receives_webhooks {
            // It listens at another port now.
            self.receive_webhooks().await;
        }
    }

    /// Where the server listens.
    pub(crate) fn endpoint(&self) -> &str {
        self.server.as_ref().expect("a server").endpoint()
    }

    /// Another server on the same database.
    pub(crate) async fn replica(&self) -> Server {
        Server::start(self.config(), self.clock.clone()).await
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().await.expect("a clean end");
        }
    }

    pub(crate) fn crash(&mut self) {
        self.server.take().expect("a server").crash();
    }

    pub(crate) async fn kill_and_wait(&mut self) {
        self.server.take().expect("a server").kill_and_wait().await;
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start_server().await;
    }

    pub(crate) fn client(&self) -> UsageClient {
        self.client.get().expect("a client").clone()
    }

    /// Where the stand-in for Stripe is, and its key: for calls that the service does not make.
    pub(crate) fn stripe_address(&self) -> (&str, &str) {
        (self.fake_stripe.base_url(), self.fake_stripe.secret_key())
    }

    pub(crate) fn stripe(&self) -> Control {
        self.fake_stripe.control()
    }

    /// Creates a Stripe customer and links an account to it, billed from 30 days ago.
    pub(crate) async fn link_to_new_customer(&self, account: &str, customer: &str) {
        self.stripe()
            .create_customer(customer)
            .await
            .expect("a customer");
        let from = hours_ago(30 * 24);
        self.client()
            .put_account(PutAccount::stripe(account, customer).bill_from(from))
            .await
            .expect("a link");
    }

    /// Reports everything and waits for the run's end.
    pub(crate) async fn report_all(&self) -> ReportSummary {
        within("a report", async {
            let run = self
                .client()
                .force_report(ForceReport::all())
                .await
                .expect("a run");
            run.summary().await.expect("a summary")
        })
        .await
    }

    /// An account's usage of the default meter over the last 36 days: total, reported, not yet, not billable.
    pub(crate) async fn usage(&self, account: &str) -> (i64, i64, i64, i64) {
        self.usage_of(account, "api_calls").await
    }

    pub(crate) async fn usage_of(&self, account: &str, meter: &str) -> (i64, i64, i64, i64) {
        let query = self.recent(account).meter(meter);
        let usage = self.client().get(query).await.expect("usage");
        let quantities = usage.meter(meter).expect("the meter").quantities;
        (
            quantities.total,
            quantities.reported,
            quantities.not_yet_reported,
            quantities.not_billable,
        )
    }

    /// An account's usage of all meters over the last 36 days.
    pub(crate) async fn total_of_all_meters(&self, account: &str) -> i64 {
        let query = self.recent(account);
        let usage = self.client().get(query).await.expect("usage");
        let meters = usage.meters.iter();
        meters.map(|meter| meter.quantities.total).sum()
    }

    /// A query with a period of its own: the default one changes at the turn of a month.
    fn recent(&self, account: &str) -> Get {
        Get::account(account).period(self.day(-36), self.day(2))
    }

    fn day(&self, days: i64) -> DateTime<Utc> {
        const DAY: i64 = 86_400_000;
        let now = self.clock.now();
        DateTime::from_timestamp_millis(now - now.rem_euclid(DAY) + days * DAY).expect("a day")
    }

    /// Every report of an account, newest first.
    pub(crate) async fn reports(&self, account: &str) -> Vec<UsageReport> {
        let filter = ListReports::new().account(account);
        self.client()
            .list_all_reports(filter, 100_000)
            .await
            .expect("reports")
            .reports
    }

    /// What the stand-in for Stripe holds of a customer and event name.
    pub(crate) async fn stripe_total(&self, customer: &str, event_name: &str) -> i64 {
        let totals = self.stripe().totals().await.expect("totals");
        totals
            .get(&(customer.to_owned(), event_name.to_owned()))
            .copied()
            .unwrap_or(0)
    }

    /// Asks again and again until something is so; every question is a call over a socket.
    pub(crate) async fn wait_until<F: Future<Output = bool>>(
        &self,
        what: &str,
        mut is_so: impl FnMut() -> F,
    ) {
        within(what, async {
            while !is_so().await {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Waits for the reports of an account to leave the sender's hands.
    pub(crate) async fn wait_until_sent(&self, account: &str) {
        self.wait_until("settling", || async {
            let reports = self.reports(account).await;
            !reports.iter().any(|report| {
                use usage_client::ReportState::{Closed, Sending};
                matches!(report.state, Closed | Sending)
            })
        })
        .await;
    }

    /// Stops everything and checks the ledger check.
    pub(crate) async fn finish(mut self) {
        self.stop().await;
        let store = Store::open(&self.database_url, 4)
            .await
            .expect("the database");
        let law = store.ledger_totals().await.expect("the ledger check");
        store.close().await.expect("a clean end");
        assert!(law.is_balanced(), "the ledger check is broken: {law:?}");
        self.fake_stripe.stop().await;
    }

    /// Restarts the server at a fixed time, which stands until the clock is set.
    pub(crate) async fn set_time(&mut self, text: &str) -> Clock {
        let clock = Clock::manual(at(text).timestamp_millis());
        self.set_clock(clock.clone()).await;
        clock
    }

    /// A connection for what the shipped client does not offer.
    pub(crate) async fn grpc_channel(&self) -> Channel {
        let endpoint = self
            .server
            .as_ref()
            .expect("a server")
            .endpoint()
            .to_owned();
        within(
            "connecting",
            Channel::from_shared(endpoint)
                .expect("an address")
                .connect(),
        )
        .await
        .expect("a connection")
    }

    /// Restarts the server with a proxy between it and `PostgreSQL`, and without Stripe, so that every
    /// COMMIT is one that counts.
    pub(crate) async fn connect_through_proxy(&mut self) -> PostgresProxy {
        let cluster = postgres::cluster().expect("PostgreSQL");
        let proxy = PostgresProxy::start(cluster.address()).expect("a proxy");
        let url = format!("--database-url={}", proxy.url(&self.database_url));
        self.reconfigure(&[&url, "--stripe-secret-key"]).await;
        proxy
    }
}
