//! The world of one test: a database, a fake Stripe, and servers that start, stop and crash.
//!
//! Every test ends with [`World::finish`], which makes the ledger check.

mod backup;
pub(crate) mod billing;
mod database;
mod doctor;
pub(crate) mod engine;
mod export;
pub(crate) mod http;
mod reporting;
mod server;
mod time;
mod usage;

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use clap::Parser;
use fake_stripe::{Control, FakeStripe, NewPrice, NewSubscription, Settings};
use sea_orm::DatabaseConnection;
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tonic::transport::Channel;
use usage_client::{PutAccount, UsageClient};
use usage_server::{ServeError, clock::Clock, config::Config, store::Store};

use crate::support::{
    memory_folder::memory_folder, postgres, postgres_proxy::PostgresProxy, statements,
};

pub(crate) use backup::Backup;
use database::Removed;
pub(crate) use engine::{Engine, on_both_engines, on_citus, on_postgres, on_sqlite};
pub(crate) use server::Server;
pub(crate) use time::{TIMEOUT, at, hours_ago, poll, within};

/// A schedule that no test meets, also if it lets years pass: the next February with five Thursdays is that of 2052. A
/// schedule that never fires is refused. A test of the server's schedule checks the year.
const NEVER: &str = "--report-schedule=0 0 * 2 4#5";
/// Two meters, the first one as the default, short retry delays, and no scheduled runs.
const FLAGS: [&str; 13] = [
    "--listen=127.0.0.1:0",
    "--http-listen=127.0.0.1:0",
    "--meters=api_calls:call,tokens=llm_tokens:token",
    "--default-meter=api_calls",
    "--stripe-retry-ms=200",
    // Most tests move the two clocks one after the other, or only one of them.
    "--clock-check-secs=0",
    "--stripe-events-per-sec=1000",
    NEVER,
    // Opening connections to PostgreSQL takes longer than most tests.
    "--database-connections=7",
    "--window-mins=60",
    "--stripe-webhook-secrets=whsec_world",
    // A busy machine may be slow. A test of the limit has the default.
    "--stripe-link-check-ms=60000",
    // The tests' PostgreSQL does not wait for the disk.
    "--insecure-durability",
];
/// The world of one test.
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) clock: Clock,
    pub(crate) database_url: String,
    fake_stripe: FakeStripe,
    flags: Vec<String>,
    server: Option<Server>,
    client: OnceLock<UsageClient>,
    /// Kept open, because most waits are queries.
    database: OnceCell<DatabaseConnection>,
    /// Whether the fake Stripe sends webhooks to the server.
    receives_webhooks: bool,
    /// The databases that the world has used. After the server and the connection, which use one.
    databases: Vec<Removed>,
    _folder: TempDir,
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: Config,
}

/// Parses flags as the command line does.
pub(crate) fn parse_config(flags: &[String]) -> Result<Config, clap::Error> {
    let name = std::iter::once("usage-server".to_owned());
    Cli::try_parse_from(name.chain(flags.iter().cloned())).map(|cli| cli.config)
}

impl World {
    /// A world with a running server, and with both configured meters at the fake Stripe.
    pub(crate) async fn start(engine: Engine) -> Self {
        statements::record();
        let folder = memory_folder();
        let database_url = database::create(engine, folder.path()).await;
        let databases = vec![Removed::new(engine, &database_url)];
        let fake_stripe = FakeStripe::start(Settings::default())
            .await
            .expect("a fake Stripe");
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
            database: OnceCell::new(),
            receives_webhooks: false,
            databases,
            _folder: folder,
        };
        world.start_server().await;
        world
    }

    /// The configuration with this world's flags. The last flag of a name is used.
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

    /// Restarts the server with other flags: `--name=value` sets a flag, `--name` alone removes it.
    pub(crate) async fn reconfigure(&mut self, flags: &[&str]) {
        self.stop().await;
        self.flags
            .extend(flags.iter().map(|flag| (*flag).to_owned()));
        self.start_server().await;
    }

    /// Restarts the server with another clock.
    pub(crate) async fn set_clock(&mut self, clock: Clock) {
        self.stop().await;
        // Times that jobs recorded by another clock may be in the future of this one.
        self.execute_sql("UPDATE leases SET last_run_at = NULL")
            .await;
        self.clock = clock;
        self.start_server().await;
    }

    /// Restarts the server on a new SQLite file.
    pub(crate) async fn move_database_to(&mut self, file: &Path) {
        self.stop().await;
        self.database_url = format!("sqlite://{}", file.display());
        self.start_server().await;
    }

    /// Uses a database of this world from the server's next start on, and removes it at the end.
    fn use_database(&mut self, url: String) {
        self.databases.push(Removed::new(self.engine, &url));
        self.database_url = url;
    }

    /// The SQLite file of the server.
    pub(crate) fn sqlite_file(&self) -> PathBuf {
        self.database_url
            .strip_prefix("sqlite://")
            .expect("SQLite")
            .into()
    }

    /// Waits until the server ends by itself.
    pub(crate) async fn ended(&mut self) -> Result<(), ServeError> {
        self.server.take().expect("a server").ended().await
    }

    pub(crate) async fn start_server(&mut self) {
        let server = Server::start(self.config(), self.clock.clone()).await;
        self.client = OnceLock::from(server.client().await);
        self.server = Some(server);
        if self.receives_webhooks {
            // It listens on another port now.
            self.receive_webhooks().await;
        }
    }

    /// The URL of the server.
    pub(crate) fn endpoint(&self) -> &str {
        self.server.as_ref().expect("a server").endpoint()
    }

    /// Another server on the same database.
    pub(crate) async fn replica(&self) -> Server {
        Server::start(self.config(), self.clock.clone()).await
    }

    /// Another server on the same database, where the engine allows one; and a client of it, or else of the only one.
    pub(crate) async fn second_client(&self) -> (Option<Server>, UsageClient) {
        if self.engine == Engine::Sqlite {
            return (None, self.client());
        }
        let replica = self.replica().await;
        let client = replica.client().await;
        (Some(replica), client)
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

    /// The URL of the fake Stripe and its key, for calls that the service does not make.
    pub(crate) fn stripe_address(&self) -> (&str, &str) {
        (self.fake_stripe.base_url(), self.fake_stripe.secret_key())
    }

    pub(crate) fn stripe(&self) -> Control {
        self.fake_stripe.control()
    }

    /// Creates a Stripe customer and links an account to it, billed from 30 days ago.
    pub(crate) async fn link_to_new_customer(&self, account: &str, customer: &str) {
        let created = self.stripe().create_subscribed_customer(customer).await;
        created.expect("a customer");
        self.link_to(account, customer).await;
    }

    /// The same without a subscription.
    pub(crate) async fn link_to_unsubscribed_customer(&self, account: &str, customer: &str) {
        let created = self.stripe().create_customer(customer).await;
        created.expect("a customer");
        self.link_to(account, customer).await;
    }

    /// Links an account to a customer, since a month ago.
    pub(crate) async fn link_to(&self, account: &str, customer: &str) {
        let from = hours_ago(30 * 24);
        self.client()
            .put_account(PutAccount::stripe(account, customer).bill_from(from))
            .await
            .expect("a link");
    }

    /// Creates Stripe customers without a subscription.
    pub(crate) async fn create_customers(&self, customers: &[&str]) {
        for customer in customers {
            let created = self.stripe().create_customer(customer).await;
            created.expect("a customer");
        }
    }

    /// Creates a customer whose usage is charged by another subscription than the named one, which is returned: that one
    /// has no billing period.
    pub(crate) async fn customer_with_another_subscription(&self, customer: &str) -> String {
        let stripe = self.stripe();
        let created = stripe.create_subscribed_customer(customer).await;
        created.expect("a customer");
        let price = NewPrice::licensed(&format!("seat_{customer}"), "prod_seats", "1000");
        stripe.create_price(&price).await.expect("a price");
        let new = NewSubscription {
            id: format!("sub_seats_{customer}"),
            customer: customer.to_owned(),
            prices: vec![price.id],
            ..NewSubscription::default()
        };
        let created = stripe.create_subscription(&new).await;
        created.expect("a subscription").id
    }

    /// Stops everything and asserts that the ledger is balanced and that the plan of every statement is checked.
    pub(crate) async fn finish(mut self) {
        self.stop().await;
        if let Some(database) = self.database.take() {
            database.close().await.expect("a clean end");
        }
        let store = Store::open(&self.database_url, 4)
            .await
            .expect("the database");
        let ledger = store.ledger_totals().await.expect("the ledger check");
        store.close().await.expect("a clean end");
        assert!(
            ledger.is_balanced(),
            "the ledger is not balanced: {ledger:?}"
        );
        self.fake_stripe.stop().await;
    }

    /// Restarts the server at a fixed time, which does not move until the clock is set.
    pub(crate) async fn set_time(&mut self, text: &str) -> Clock {
        let clock = Clock::manual(at(text).timestamp_millis());
        self.set_clock(clock.clone()).await;
        clock
    }

    /// A raw gRPC connection, for requests that the shipped client does not support.
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

    /// Restarts the server with a proxy in front of `PostgreSQL`, and without Stripe, so that every COMMIT is of a
    /// group commit.
    pub(crate) async fn connect_through_proxy(&mut self) -> PostgresProxy {
        let cluster = postgres::cluster().expect("PostgreSQL");
        let proxy = PostgresProxy::start(cluster.address()).expect("a proxy");
        let url = format!("--database-url={}", proxy.url(&self.database_url));
        self.reconfigure(&[&url, "--stripe-secret-key"]).await;
        proxy
    }
}
