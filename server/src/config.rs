//! Every setting of the service, with its default, unit and limit. Each is a flag and an environment variable.

mod access;

use std::{fmt, net::SocketAddr, path::PathBuf};

use clap::Args;
use url::Url;

pub use self::access::AccessConfig;
use crate::{
    domain::{
        late_usage::LateUsage,
        meter::{Meter, Meters},
        report_fold::MIN_FOLD_DAYS,
        stripe_account::is_live_key,
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

/// The database.
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
    /// Connections to PostgreSQL, 4 to 1,000. SQLite ignores it.
    #[arg(long, env = "DATABASE_CONNECTIONS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(4..=1_000))]
    pub database_connections: u32,
    /// Accept a PostgreSQL that runs with `fsync` or `full_page_writes` off: a power cut can then lose acknowledged usage.
    #[arg(long, env = "INSECURE_DURABILITY")]
    pub insecure_durability: bool,
}

impl DatabaseConfig {
    /// Checks the URL. The URL may contain a password: the error does not repeat it, and the command line parser, which
    /// repeats a refused value, does not check it.
    ///
    /// # Errors
    /// One sentence that says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let url = self.database_url.to_ascii_lowercase();
        if url.contains(":memory:") || url.contains("%3amemory") || url.contains("mode=memory") {
            return Err("DATABASE_URL is an in-memory database, which would lose acknowledged usage; use a file".to_owned());
        }
        ["sqlite://", "postgres://", "postgresql://"]
            .iter()
            .filter_map(|scheme| self.database_url.strip_prefix(scheme))
            .any(|rest| !rest.is_empty())
            .then_some(())
            .ok_or_else(|| {
                "DATABASE_URL must start with sqlite:// or postgres:// and name a database"
                    .to_owned()
            })
    }
}

/// The Stripe account that usage is billed through.
#[derive(Args, Clone, Debug)]
pub struct StripeConfig {
    /// The secret key of the Stripe account. Without one, the service counts and shows usage but reports nothing.
    #[arg(long, env = "STRIPE_SECRET_KEY", hide_env_values = true)]
    pub stripe_secret_key: Option<Secret>,

    /// The base URL of Stripe's API; set it for a fake Stripe. Default: Stripe's own.
    #[arg(long, env = "STRIPE_API_BASE", value_parser = http_url)]
    pub stripe_api_base: Option<String>,
}

impl StripeConfig {
    /// The secret key, if one is set.
    ///
    /// # Errors
    /// The key cannot be sent in a header; the error does not repeat it.
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

/// The meters.
#[derive(Args, Clone, Debug)]
pub struct MetersConfig {
    /// The meters, separated by commas: `NAME`, `NAME=STRIPE_EVENT_NAME`, `NAME:UNIT` or
    /// `NAME=STRIPE_EVENT_NAME:UNIT`.
    #[arg(
        long = "meters",
        env = "METERS",
        value_delimiter = ',',
        default_value = "api_calls:call"
    )]
    pub meters: Vec<Meter>,

    /// The meter of increments that name none. Default: the only meter; with several meters, none.
    #[arg(long, env = "DEFAULT_METER")]
    pub default_meter: Option<String>,
}

impl MetersConfig {
    /// The configured meters.
    ///
    /// # Errors
    /// One sentence that says what is wrong.
    pub fn read(&self) -> Result<Meters, String> {
        Meters::new(self.meters.clone(), self.default_meter.as_deref())
    }
}

/// When usage is reported, and in which slots.
#[derive(Args, Clone, Debug)]
pub struct ScheduleConfig {
    /// When to report: a cron expression of 5 or 6 fields, in `REPORT_TIME_ZONE`.
    #[arg(long, env = "REPORT_SCHEDULE", default_value = "0 0 * * *")]
    pub report_schedule: String,

    /// The IANA time zone of the schedule.
    #[arg(long, env = "REPORT_TIME_ZONE", default_value = "UTC")]
    pub report_time_zone: String,

    /// The width of a slot in minutes: 15, 30 or 60. Time zones offset by half an hour need 30, by a quarter hour 15.
    #[arg(long, env = "WINDOW_MINS", default_value = "60", value_parser = slots)]
    pub window_mins: Slots,
}

impl ScheduleConfig {
    /// The configured schedule.
    ///
    /// # Errors
    /// One sentence that says what is wrong.
    pub(crate) fn read(&self) -> Result<Schedule, String> {
        Schedule::parse(&self.report_schedule, &self.report_time_zone)
    }
}

/// How fast usage is sent to Stripe.
#[derive(Args, Clone, Debug)]
pub struct SendingConfig {
    /// The highest rate of meter events to Stripe, a second, over all replicas, 1 to 1,000. Default: 900 with a key of
    /// live mode (`sk_live_` or `rk_live_`), otherwise 20.
    #[arg(long, env = "STRIPE_EVENTS_PER_SEC", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub stripe_events_per_sec: Option<u32>,
}

impl SendingConfig {
    /// The highest rate with a secret key. In live mode, Stripe takes 1,000 meter events a second; in test mode 25 requests
    /// of any kind.
    pub(crate) fn events_per_sec(&self, key: Option<&str>) -> u32 {
        const LIVE: u32 = 900;
        const TEST: u32 = 20;
        let is_live = key.and_then(is_live_key).unwrap_or(false);
        let default = if is_live { LIVE } else { TEST };
        self.stripe_events_per_sec.unwrap_or(default)
    }
}

/// Where old reports are archived, and when they are folded.
#[derive(Args, Clone, Debug)]
pub struct ArchiveConfig {
    /// The folder of the archives that old reports are written to before they are folded. Every replica needs the same one.
    /// Default: none, nothing is folded.
    #[arg(long, env = "ARCHIVE_DIR")]
    pub archive_dir: Option<PathBuf>,

    /// The age in days from which reports are folded that are `invoiced`, `not_billable` or `written_off`, 60 to 36,500.
    #[arg(long, env = "FOLD_AFTER_DAYS", default_value_t = 400, value_parser = clap::value_parser!(i64).range(MIN_FOLD_DAYS..=36_500))]
    pub fold_after_days: i64,
}

/// The settings that the commands besides `serve` share.
#[derive(Args, Clone, Debug)]
pub struct CommandConfig {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseConfig,

    /// The Stripe account.
    #[command(flatten)]
    pub stripe: StripeConfig,

    /// The meters.
    #[command(flatten)]
    pub meters: MetersConfig,
}

impl From<Config> for CommandConfig {
    fn from(config: Config) -> Self {
        Self {
            database: config.database,
            stripe: config.stripe,
            meters: config.meters,
        }
    }
}

/// How the service runs.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseConfig,

    /// The address to serve gRPC on.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,

    /// The address to serve webhooks, health and metrics on, over HTTP. Default: none, nothing is served.
    #[arg(long, env = "HTTP_LISTEN")]
    pub http_listen: Option<SocketAddr>,

    /// The signing secrets of the webhook endpoint, `whsec_...`, separated by commas. Up to four, so that secrets can
    /// rotate; all are valid.
    #[arg(
        long,
        env = "STRIPE_WEBHOOK_SECRETS",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub stripe_webhook_secrets: Vec<Secret>,

    /// Who may call it.
    #[command(flatten)]
    pub access: AccessConfig,

    /// Do not migrate the database on start. The service does not start on an old schema.
    #[arg(long, env = "NO_MIGRATE")]
    pub no_migrate: bool,

    /// The Stripe account that usage is billed through.
    #[command(flatten)]
    pub stripe: StripeConfig,

    /// The meters.
    #[command(flatten)]
    pub meters: MetersConfig,

    /// When usage is reported.
    #[command(flatten)]
    pub schedule: ScheduleConfig,

    /// What to do with usage counted after its invoice became final: `hold` keeps it as `too_late` until an admin
    /// decides, `current_period` bills it in the current period.
    #[arg(long, env = "LATE_USAGE", default_value = "hold", value_parser = parse_late_usage)]
    pub late_usage: LateUsage,

    /// The longest time between two syncs of subscriptions with Stripe, in seconds, 10 to 900.
    #[arg(long, env = "SYNC_INTERVAL_SECS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..=900))]
    pub sync_interval_secs: u32,

    /// How often Stripe is asked for its time while no other request shows it, in seconds, up to 3,600; 0 compares the
    /// clocks never.
    #[arg(long, env = "CLOCK_CHECK_SECS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=3_600))]
    pub clock_check_secs: u32,

    /// How long a plan change or a cancel waits until Stripe shows the usage before it, in seconds, 5 to 600.
    #[arg(long, env = "CHANGE_WAIT_SECS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(5..=600))]
    pub change_wait_secs: u32,

    /// How fast usage is sent.
    #[command(flatten)]
    pub sending: SendingConfig,

    /// Concurrent meter event requests to Stripe, 1 to 256, each for a different customer and meter.
    #[arg(long, env = "STRIPE_CONCURRENCY", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub stripe_concurrency: u32,

    /// The first wait before a meter event is retried, in milliseconds, 10 to 60,000. It doubles up to 15 minutes.
    #[arg(long, env = "STRIPE_RETRY_MS", default_value_t = 1_000, value_parser = clap::value_parser!(i64).range(10..=60_000))]
    pub stripe_retry_ms: i64,

    /// How long `PutAccount` asks Stripe about a customer and a subscription before it links the account unverified, in
    /// milliseconds, 100 to 60,000.
    #[arg(long, env = "STRIPE_LINK_CHECK_MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub stripe_link_check_ms: u64,

    /// Where old reports are archived, and when they are folded.
    #[command(flatten)]
    pub archive: ArchiveConfig,

    /// Increments that may wait for a commit, 1,000 to 10,000,000. More are rejected with `RESOURCE_EXHAUSTED`.
    #[arg(long, env = "QUEUE_INCREMENTS", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    pub queue_increments: u32,

    /// Transactions that count in parallel on PostgreSQL, 1 to 64. SQLite has one.
    #[arg(long, env = "WRITERS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub writers: u32,

    /// Concurrent requests on one connection, 1 to 65,536.
    #[arg(long, env = "STREAMS_PER_CONNECTION", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub streams_per_connection: u32,
}

impl Config {
    /// Checks settings that limit each other.
    ///
    /// # Errors
    /// One sentence that says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        const OTHER_CONNECTIONS: u32 = 2;
        let (writers, connections) = (self.writers, self.database.database_connections);
        if writers.saturating_add(OTHER_CONNECTIONS) > connections {
            return Err(format!(
                "WRITERS is {writers} and DATABASE_CONNECTIONS is {connections}; DATABASE_CONNECTIONS must be at least WRITERS + {OTHER_CONNECTIONS}"
            ));
        }
        self.webhook_secrets()?;
        self.database.check()
    }

    /// The signing secrets of the webhook endpoint; empty when webhooks are not accepted.
    ///
    /// # Errors
    /// One sentence that says what is wrong and contains no secret.
    pub(crate) fn webhook_secrets(&self) -> Result<Vec<String>, String> {
        const MAX_SECRETS: usize = 4;
        let secrets = &self.stripe_webhook_secrets;
        if secrets.len() > MAX_SECRETS {
            return Err(format!(
                "STRIPE_WEBHOOK_SECRETS has {} secrets; at most {MAX_SECRETS} are allowed",
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

fn parse_late_usage(text: &str) -> Result<LateUsage, String> {
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
        Ok(_) => Err("must start with http:// or https:// and name a host".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_rate_is_that_of_the_keys_mode() {
        let default = SendingConfig {
            stripe_events_per_sec: None,
        };
        for (key, rate) in [
            (Some("sk_live_1"), 900),
            (Some("rk_live_1"), 900),
            (Some("sk_test_1"), 20),
            (Some("rk_test_1"), 20),
            (Some("other"), 20),
            (None, 20),
        ] {
            assert_eq!(default.events_per_sec(key), rate, "{key:?}");
        }
        let set = SendingConfig {
            stripe_events_per_sec: Some(7),
        };
        assert_eq!(set.events_per_sec(Some("sk_live_1")), 7);
    }
}
