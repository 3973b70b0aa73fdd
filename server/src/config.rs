//! Every knob of the service, with its default, unit and limit. Flags and environment variables are the same.

use std::{fmt, net::SocketAddr, str::FromStr};

use clap::Args;
use url::Url;

use crate::{
    reporter::schedule::Schedule,
    usage::{
        meter::{Meter, Meters},
        window::Slots,
    },
};

/// A secret that neither Debug nor Display shows.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err("must be visible ASCII characters without spaces".to_owned());
        }
        Ok(Self(text.to_owned()))
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
    #[arg(long, env = "DATABASE_URL", default_value = "sqlite://usage.db", hide_env_values = true, value_parser = database_url)]
    pub database_url: String,
    /// Connections to PostgreSQL; SQLite has its own.
    #[arg(long, env = "DATABASE_CONNECTIONS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(4..=1_000))]
    pub database_connections: u32,
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

    /// Do not migrate the database on start; refuse to start when it is not up to date.
    #[arg(long, env = "NO_MIGRATE")]
    pub no_migrate: bool,

    /// The secret key of the Stripe account; without one the service counts and shows, and reports nothing.
    #[arg(long, env = "STRIPE_SECRET_KEY", hide_env_values = true)]
    pub stripe_secret_key: Option<Secret>,

    /// Where Stripe's API is, for a stand-in; Stripe's own by default.
    #[arg(long, env = "STRIPE_API_BASE", value_parser = http_url)]
    pub stripe_api_base: Option<String>,

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

    /// When to report, as a cron expression of 5 or 6 fields, in the time zone below.
    #[arg(long, env = "REPORT_SCHEDULE", default_value = "0 0 * * *")]
    pub report_schedule: String,

    /// The IANA time zone of the schedule.
    #[arg(long, env = "REPORT_TIME_ZONE", default_value = "UTC")]
    pub report_time_zone: String,

    /// The width of a slot in minutes: 15, 30 or 60. Days of zones off by half an hour need 30, by a quarter 15.
    #[arg(long, env = "WINDOW_MINS", default_value = "60", value_parser = slots)]
    pub window_mins: Slots,

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
    /// The configured meters.
    ///
    /// # Errors
    /// What is wrong with them, in one sentence.
    pub fn meters(&self) -> Result<Meters, String> {
        Meters::new(self.meters.clone(), self.default_meter.as_deref())
    }

    /// The configured schedule.
    ///
    /// # Errors
    /// What is wrong with it, in one sentence.
    pub(crate) fn schedule(&self) -> Result<Schedule, String> {
        Schedule::parse(&self.report_schedule, &self.report_time_zone)
    }
}

fn slots(text: &str) -> Result<Slots, String> {
    let mins: u32 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number of minutes"))?;
    Slots::from_mins(mins)
}

fn database_url(text: &str) -> Result<String, String> {
    let is_known = ["sqlite://", "postgres://", "postgresql://"]
        .iter()
        .any(|scheme| {
            text.strip_prefix(scheme)
                .is_some_and(|rest| !rest.is_empty())
        });
    if text.contains(":memory:") {
        return Err(
            "an in-memory database would lose what was acknowledged; name a file".to_owned(),
        );
    }
    // The URL may hold a password, so it is not repeated.
    is_known
        .then(|| text.to_owned())
        .ok_or_else(|| "must begin with sqlite:// or postgres:// and name a database".to_owned())
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
