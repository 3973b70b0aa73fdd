//! Every knob of the service, with its default, unit and limit. Flags and environment variables are the same.

use std::{fmt, net::SocketAddr};

use clap::Args;
use url::Url;

use crate::{
    domain::{
        invoice::LateUsage,
        meter::{Meter, Meters},
        window::Slots,
    },
    workers::schedule::Schedule,
};

/// A secret that neither Debug nor Display shows.
#[derive(Clone)]
pub struct Secret(String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Where the data is.
#[derive(Args, Clone, Debug)]
pub struct DatabaseConfig {
    /// The database: `sqlite://FILE`, or `postgres://USER:PASSWORD@HOST/NAME`.
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "sqlite://usage.db",
        hide_env_values = true
    )]
    pub database_url: String,
    /// Connections to PostgreSQL; SQLite has its own.
    #[arg(long, env = "DATABASE_CONNECTIONS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(4..=1_000))]
    pub database_connections: u32,
}

impl DatabaseConfig {
    /// Checks the URL. It is not repeated in the error, and not checked where the command line is parsed and
    /// repeats what it refuses: it may hold a password.
    ///
    /// # Errors
    /// What is wrong with it, in one sentence.
    pub fn check(&self) -> Result<(), String> {
        let url = self.database_url.to_ascii_lowercase();
        if url.contains(":memory:") || url.contains("%3amemory") || url.contains("mode=memory") {
            return Err("DATABASE_URL names an in-memory database, which would lose what was acknowledged; name a file".to_owned());
        }
        ["sqlite://", "postgres://", "postgresql://"]
            .iter()
            .filter_map(|scheme| self.database_url.strip_prefix(scheme))
            .any(|rest| !rest.is_empty())
            .then_some(())
            .ok_or_else(|| {
                "DATABASE_URL must begin with sqlite:// or postgres:// and name a database"
                    .to_owned()
            })
    }
}

/// The Stripe account that usage is billed through.
#[derive(Args, Clone, Debug)]
pub struct StripeConfig {
    /// The secret key of the Stripe account; without one the service counts and shows, and reports nothing.
    #[arg(long, env = "STRIPE_SECRET_KEY", hide_env_values = true)]
    pub stripe_secret_key: Option<Secret>,

    /// Where Stripe's API is, for a stand-in; Stripe's own by default.
    #[arg(long, env = "STRIPE_API_BASE", value_parser = http_url)]
    pub stripe_api_base: Option<String>,
}

impl StripeConfig {
    /// The secret key of the Stripe account, where there is one.
    ///
    /// # Errors
    /// A key that cannot be sent, which is not repeated.
    pub fn key(&self) -> Result<Option<&str>, String> {
        match &self.stripe_secret_key {
            None => Ok(None),
            Some(Secret(key))
                if !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()) =>
            {
                Ok(Some(key))
            }
            Some(_) => {
                Err("STRIPE_SECRET_KEY must be visible ASCII characters without spaces".to_owned())
            }
        }
    }
}

/// What is counted.
#[derive(Args, Clone, Debug)]
pub struct MetersConfig {
    /// What is counted: `NAME`, `NAME=STRIPE_EVENT_NAME`, `NAME:UNIT` or `NAME=STRIPE_EVENT_NAME:UNIT`,
    /// separated by commas.
    #[arg(
        long = "meters",
        env = "METERS",
        value_delimiter = ',',
        default_value = "api_calls:call"
    )]
    pub meters: Vec<Meter>,

    /// The meter of increments that name none; a single meter is its own default.
    #[arg(long, env = "DEFAULT_METER")]
    pub default_meter: Option<String>,
}

impl MetersConfig {
    /// The configured meters.
    ///
    /// # Errors
    /// What is wrong with them, in one sentence.
    pub fn read(&self) -> Result<Meters, String> {
        Meters::new(self.meters.clone(), self.default_meter.as_deref())
    }
}

/// When usage is reported.
#[derive(Args, Clone, Debug)]
pub struct ScheduleConfig {
    /// When to report, as a cron expression of 5 or 6 fields, in the time zone below.
    #[arg(long, env = "REPORT_SCHEDULE", default_value = "0 0 * * *")]
    pub report_schedule: String,

    /// The IANA time zone of the schedule.
    #[arg(long, env = "REPORT_TIME_ZONE", default_value = "UTC")]
    pub report_time_zone: String,
}

impl ScheduleConfig {
    /// The configured schedule.
    ///
    /// # Errors
    /// What is wrong with it, in one sentence.
    pub(crate) fn read(&self) -> Result<Schedule, String> {
        Schedule::parse(&self.report_schedule, &self.report_time_zone)
    }
}

/// How the service runs.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Where the data is.
    #[command(flatten)]
    pub database: DatabaseConfig,

    /// The address to serve gRPC on.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,

    /// The address to serve webhooks, health and metrics on, over HTTP; nothing is served where there is none.
    #[arg(long, env = "HTTP_LISTEN")]
    pub http_listen: Option<SocketAddr>,

    /// The signing secrets of the webhook endpoint, `whsec_...`, separated by commas: up to four are valid at
    /// once, so that they can rotate.
    #[arg(
        long,
        env = "STRIPE_WEBHOOK_SECRETS",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub stripe_webhook_secrets: Vec<Secret>,

    /// Do not migrate the database on start; refuse to start when it is not up to date.
    #[arg(long, env = "NO_MIGRATE")]
    pub no_migrate: bool,

    /// The Stripe account that usage is billed through.
    #[command(flatten)]
    pub stripe: StripeConfig,

    /// What is counted.
    #[command(flatten)]
    pub meters: MetersConfig,

    /// When it is reported.
    #[command(flatten)]
    pub schedule: ScheduleConfig,

    /// The width of a slot in minutes: 15, 30 or 60. Days of zones off by half an hour need 30, by a quarter 15.
    #[arg(long, env = "WINDOW_MINS", default_value = "60", value_parser = slots)]
    pub window_mins: Slots,

    /// What becomes of usage that is counted after the invoice of its billing period became final: `hold`
    /// keeps it as missed until an admin decides, `current_period` bills it in the current period.
    #[arg(long, env = "LATE_USAGE", default_value = "hold", value_parser = late_usage)]
    pub late_usage: LateUsage,

    /// How often at least Stripe is asked what changed in subscriptions, in seconds: 10 to 900.
    #[arg(long, env = "SYNC_INTERVAL_SECS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..=900))]
    pub sync_interval_secs: u32,

    /// How long a plan change or a cancel waits for usage to show at Stripe before it gives up, in seconds: 5 to 600.
    #[arg(long, env = "CHANGE_WAIT_SECS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(5..=600))]
    pub change_wait_secs: u32,

    /// Meter events a second that are sent to Stripe at most, by all replicas together.
    #[arg(long, env = "STRIPE_EVENTS_PER_SEC", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub stripe_events_per_sec: u32,

    /// Requests to Stripe under way at once, each of another customer and meter.
    #[arg(long, env = "STRIPE_CONCURRENCY", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub stripe_concurrency: u32,

    /// The shortest pause in milliseconds before a request to Stripe is tried again; it doubles up to 15 minutes.
    #[arg(long, env = "STRIPE_RETRY_MS", default_value_t = 1_000, value_parser = clap::value_parser!(i64).range(10..=60_000))]
    pub stripe_retry_ms: i64,

    /// Increments that may wait to be committed; more are turned away with `RESOURCE_EXHAUSTED`.
    #[arg(long, env = "QUEUE_INCREMENTS", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    pub queue_increments: u32,

    /// Transactions that count side by side on PostgreSQL; SQLite has one.
    #[arg(long, env = "WRITERS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub writers: u32,

    /// Requests under way at once on one connection.
    #[arg(long, env = "STREAMS_PER_CONNECTION", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub streams_per_connection: u32,
}

impl Config {
    /// Checks what several settings say together.
    ///
    /// # Errors
    /// What is wrong, in one sentence.
    pub fn check(&self) -> Result<(), String> {
        const BESIDE_WRITERS: u32 = 2;
        let (writers, connections) = (self.writers, self.database.database_connections);
        if writers.saturating_add(BESIDE_WRITERS) > connections {
            return Err(format!(
                "WRITERS is {writers} and DATABASE_CONNECTIONS {connections}; at least {BESIDE_WRITERS} more connections than writers are needed"
            ));
        }
        self.webhook_secrets()?;
        self.database.check()
    }

    /// The signing secrets of the webhook endpoint; none where no webhooks are taken.
    ///
    /// # Errors
    /// What is wrong with them, in one sentence that repeats none.
    pub(crate) fn webhook_secrets(&self) -> Result<Vec<String>, String> {
        const MOST: usize = 4;
        let secrets = &self.stripe_webhook_secrets;
        if secrets.len() > MOST {
            return Err(format!(
                "STRIPE_WEBHOOK_SECRETS holds {} secrets; at most {MOST} may be valid at once",
                secrets.len()
            ));
        }
        let is_usable = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if let Some(nth) = secrets.iter().position(|Secret(text)| !is_usable(text)) {
            return Err(format!(
                "STRIPE_WEBHOOK_SECRETS: secret {} of {} must be visible ASCII characters without spaces",
                nth.saturating_add(1),
                secrets.len()
            ));
        }
        Ok(secrets.iter().map(|Secret(text)| text.clone()).collect())
    }
}

fn slots(text: &str) -> Result<Slots, String> {
    let mins: u32 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number of minutes"))?;
    Slots::from_mins(mins)
}

fn late_usage(text: &str) -> Result<LateUsage, String> {
    match text {
        "hold" => Ok(LateUsage::Hold),
        "current_period" => Ok(LateUsage::CurrentPeriod),
        _ => Err("must be hold or current_period".to_owned()),
    }
}

fn http_url(text: &str) -> Result<String, String> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            Ok(text.to_owned())
        }
        Ok(_) => Err("must begin with http:// or https:// and name a host".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
