//! A running service whose metrics are scraped, with a database and a fake Stripe of its own.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::{Control, FakeStripe, Settings};
use sea_orm::{ConnectionTrait as _, Database};
use tempfile::TempDir;
use usage_client::{
    ForceReport, Increment, ListReports, PutAccount, ReportState, ResolveAction, ResolveReport,
};
use usage_server::clock::Clock;

use super::scrape::{Scrape, unix_now};
use crate::{
    connections::http_address,
    own_cluster::own_cluster,
    postgres::{Cluster, Durability},
    process::{HTTP, POLL_INTERVAL, Process, TIMEOUT, within},
};

/// The engine of a service, and what keeps its database.
#[allow(dead_code, reason = "the database is there until they are dropped")]
pub(super) enum Engine {
    Sqlite(TempDir),
    Postgres(Box<Cluster>),
}

/// A service.
pub(super) struct Service {
    pub(super) process: Process,
    pub(super) stripe: FakeStripe,
    pub(super) meter_id: String,
    pub(super) url: String,
    pub(super) engine: Engine,
    settings: Vec<(String, String)>,
}

/// A month ago: links are from before all usage.
pub(super) fn month_ago() -> DateTime<Utc> {
    now() - TimeDelta::days(30)
}

pub(super) fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(Clock::system().now()).unwrap()
}

/// A fake Stripe with the default meter and a customer, and the meter's id.
pub(super) async fn stripe() -> (FakeStripe, String) {
    let stripe = FakeStripe::start(Settings::default()).await.unwrap();
    let control = stripe.control();
    let meter_id = control.create_meter("api_calls").await.unwrap();
    control.create_subscribed_customer("cus").await.unwrap();
    (stripe, meter_id)
}

/// The command of a service that reads its figures each second and repeats soon.
pub(super) fn command(url: &str, stripe: Option<&FakeStripe>) -> std::process::Command {
    let mut command = Process::binary();
    command
        .env("DATABASE_URL", url)
        .env("INSECURE_DURABILITY", "true")
        .env("METRICS_INTERVAL_SECS", "1")
        .env("CLOCK_CHECK_SECS", "1")
        .env("STRIPE_RETRY_MS", "100")
        .env("RUST_LOG", "info");
    if let Some(stripe) = stripe {
        command
            .env("STRIPE_SECRET_KEY", stripe.secret_key())
            .env("STRIPE_API_BASE", stripe.base_url());
    }
    command
}

impl Service {
    /// On SQLite.
    pub(super) async fn start(settings: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite://{}", folder.path().join("usage.db").display());
        Self::on(Engine::Sqlite(folder), url, settings).await
    }

    /// On PostgreSQL, where it is installed.
    pub(super) async fn start_on_postgres(settings: &[(&str, &str)]) -> Option<Self> {
        let cluster = Box::new(own_cluster(Durability::Off)?);
        let url = cluster.create_database().unwrap();
        Some(Self::on(Engine::Postgres(cluster), url, settings).await)
    }

    async fn on(engine: Engine, url: String, settings: &[(&str, &str)]) -> Self {
        let (stripe, meter_id) = stripe().await;
        let mut command = command(&url, Some(&stripe));
        command.envs(settings.iter().copied());
        let process = Process::start(command, &[HTTP.to_owned()]).await;
        http_address(&process).await;
        let settings = settings.iter();
        Self {
            process,
            stripe,
            meter_id,
            url,
            engine,
            settings: settings
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    /// Ends the process, and starts one with these flags.
    pub(super) async fn restart(self, has_stripe: bool) -> Self {
        let Self {
            process,
            stripe,
            meter_id,
            url,
            engine,
            settings,
        } = self;
        process.kill();
        let mut command = command(&url, has_stripe.then_some(&stripe));
        command.envs(settings.iter().cloned());
        let process = Process::start(command, &[HTTP.to_owned()]).await;
        http_address(&process).await;
        Self {
            process,
            stripe,
            meter_id,
            url,
            engine,
            settings,
        }
    }

    pub(super) fn stripe(&self) -> Control {
        self.stripe.control()
    }

    /// Executes statements on its database.
    pub(super) async fn sql(&self, statements: &str) {
        let database = Database::connect(&self.url).await.unwrap();
        database.execute_unprepared(statements).await.unwrap();
        database.close().await.unwrap();
    }

    /// Links `acct` to the customer.
    pub(super) async fn link(&self) {
        let link = PutAccount::stripe("acct", "cus").bill_from(month_ago());
        self.process.client().put_account(link).await.unwrap();
    }

    /// Counts units of an account.
    pub(super) async fn count(&self, account: &str, quantity: i64) {
        let increment = Increment::new(account).quantity(quantity);
        self.process.client().increment(increment).await.unwrap();
    }

    /// Begins a run of everything. Its reports may wait.
    pub(super) async fn report(&self) {
        let run = self.process.client().force_report(ForceReport::all()).await;
        drop(run.unwrap());
    }

    /// Counts units of the linked account, reports them, and waits until Stripe has accepted so many events.
    pub(super) async fn report_accepted(&self, quantity: i64, events: usize) {
        self.count("acct", quantity).await;
        self.report().await;
        let accepted = self.stripe().wait_for_events(events, TIMEOUT).await;
        accepted.unwrap();
        let none = r#"usage_reports{state="closed"}"#;
        self.scrape_when("sent reports", |scrape| {
            scrape.get(none) == 0.0 && scrape.get(r#"usage_reports{state="sending"}"#) == 0.0
        })
        .await;
    }

    /// Writes off all reports of an account that wait for a decision. Returns their number.
    pub(super) async fn write_off(&self, account: &str) -> usize {
        let client = self.process.client();
        let stuck = [
            ReportState::Missing,
            ReportState::Rejected,
            ReportState::Unknown,
        ];
        let filter = ListReports::new().account(account).states(stuck);
        let reports = client.list_reports(filter).await.unwrap().reports;
        for report in &reports {
            let action = ResolveAction::WriteOff;
            let decision = ResolveReport::new(account, &report.id, action, "a test");
            client.resolve_report(decision).await.unwrap();
        }
        reports.len()
    }

    /// The metrics now.
    pub(super) async fn scrape(&self) -> Scrape {
        scrape(&self.process).await
    }

    /// The first metrics that are so. What is read of the database is read after this began.
    pub(super) async fn scrape_when(&self, what: &str, is_so: impl Fn(&Scrape) -> bool) -> Scrape {
        scrape_when(&self.process, what, is_so).await
    }

    /// The metrics with figures of the database as it is now.
    pub(super) async fn scrape_fresh(&self) -> Scrape {
        self.scrape_when("new figures", |_| true).await
    }

    /// The first metrics that are so, whenever the database was read.
    pub(super) async fn scrape_at_once_when(
        &self,
        what: &str,
        is_so: impl Fn(&Scrape) -> bool,
    ) -> Scrape {
        poll(&self.process, what, is_so).await
    }
}

pub(super) async fn scrape(process: &Process) -> Scrape {
    Scrape::parse(&within("metrics", process.metrics()).await)
}

/// The first metrics of a process that are so, with figures of the database that were read after this began.
pub(super) async fn scrape_when(
    process: &Process,
    what: &str,
    is_so: impl Fn(&Scrape) -> bool,
) -> Scrape {
    let begun = unix_now();
    // They are read one after the other, and the time is in whole seconds.
    let watched = "usage_watch_last_success_timestamp_seconds";
    poll(process, what, |scrape| {
        scrape.get(watched) > begun && is_so(scrape)
    })
    .await
}

/// The first metrics of a process that are so, whenever the database was read.
pub(super) async fn poll(process: &Process, what: &str, is_so: impl Fn(&Scrape) -> bool) -> Scrape {
    let mut last = None;
    let polling = async {
        loop {
            let scrape = scrape(process).await;
            if is_so(&scrape) {
                return scrape;
            }
            last = Some(scrape);
            tokio::time::sleep(POLL_INTERVAL * 10).await;
        }
    };
    let found = tokio::time::timeout(TIMEOUT, polling).await.ok();
    found.unwrap_or_else(|| panic!("timed out waiting for {what}: {last:#?}"))
}
