//! Every setting of the service, with its default, unit and limit. Each is a flag and an environment variable.

mod access;
mod database;
#[cfg(test)]
mod hostile_values;
mod listen;
mod log;
mod number;
mod secret;
mod stripe;
mod tls;

use std::path::PathBuf;

use clap::{Arg, Args, Command, builder::Resettable};

pub use self::{
    access::AccessConfig,
    database::DatabaseConfig,
    listen::{HttpListen, ListenConfig, Origin},
    log::LogConfig,
    secret::Secret,
    stripe::{Reporting, StripeConfig, WebhookConfig},
    tls::TlsConfig,
};
pub(crate) use self::{
    number::within,
    secret::{read_secret, read_text_file},
    tls::TlsFiles,
};
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
    #[arg(long, env = "STRIPE_EVENTS_PER_SEC", value_parser = within::<u32>(1..=1_000))]
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

/// The smallest age in days from which audit entries, runs and decisions are archived: longer than usage may be late.
const MIN_RECORD_DAYS: i64 = 36;

/// Where old reports and other records are archived, and when.
#[derive(Args, Clone, Debug)]
pub struct ArchiveConfig {
    /// The folder of the archives that old reports are written to before they are folded. Every replica needs the same one.
    /// Default: none, nothing is folded.
    #[arg(long, env = "ARCHIVE_DIR")]
    pub archive_dir: Option<PathBuf>,

    /// The age in days from which reports are folded that are `invoiced`, `not_billable` or `written_off`, 60 to 36,500.
    #[arg(long, env = "FOLD_AFTER_DAYS", default_value_t = 400, value_parser = within::<i64>(MIN_FOLD_DAYS..=36_500))]
    pub fold_after_days: i64,

    /// The age in days from which audit entries, and decisions on folded reports, are archived and deleted, 36 to 36,500.
    #[arg(long, env = "AUDIT_DAYS", default_value_t = 730, value_parser = within::<i64>(MIN_RECORD_DAYS..=36_500))]
    pub audit_days: i64,

    /// The age in days from which runs are archived and deleted, 36 to 36,500.
    #[arg(long, env = "RUN_DAYS", default_value_t = 400, value_parser = within::<i64>(MIN_RECORD_DAYS..=36_500))]
    pub run_days: i64,
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

    /// The addresses that it listens on.
    #[command(flatten)]
    pub addresses: ListenConfig,

    /// TLS.
    #[command(flatten)]
    pub tls: TlsConfig,

    /// The webhooks of Stripe.
    #[command(flatten)]
    pub webhooks: WebhookConfig,

    /// Who may call it.
    #[command(flatten)]
    pub access: AccessConfig,

    /// What it tells of its requests.
    #[command(flatten)]
    pub log: LogConfig,

    /// Do not serve the console, the web pages for people, on `HTTP_LISTEN`.
    #[arg(long, env = "NO_CONSOLE")]
    pub no_console: bool,

    /// Let the console change something while there is no API key: without it, its pages only read then.
    #[arg(long, env = "CONSOLE_WRITES_WITHOUT_KEY")]
    pub console_writes_without_key: bool,

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
    #[arg(long, env = "SYNC_INTERVAL_SECS", default_value_t = 300, value_parser = within::<u32>(10..=900))]
    pub sync_interval_secs: u32,

    /// How often Stripe is asked for its time while no other request shows it, in seconds, up to 3,600; 0 compares the
    /// clocks never.
    #[arg(long, env = "CLOCK_CHECK_SECS", default_value_t = 60, value_parser = within::<u32>(0..=3_600))]
    pub clock_check_secs: u32,

    /// How often each replica reads the figures of its metrics from the database, in seconds, 1 to 300.
    #[arg(long, env = "METRICS_INTERVAL_SECS", default_value_t = 60, value_parser = within::<u32>(1..=300))]
    pub metrics_interval_secs: u32,

    /// How long a plan change or a cancel waits until Stripe shows the usage before it, in seconds, 5 to 600.
    #[arg(long, env = "CHANGE_WAIT_SECS", default_value_t = 120, value_parser = within::<u32>(5..=600))]
    pub change_wait_secs: u32,

    /// How fast usage is sent.
    #[command(flatten)]
    pub sending: SendingConfig,

    /// Concurrent meter event requests to Stripe, 1 to 256, each for a different customer and meter.
    #[arg(long, env = "STRIPE_CONCURRENCY", default_value_t = 128, value_parser = within::<u32>(1..=256))]
    pub stripe_concurrency: u32,

    /// The first wait before a meter event is retried, in milliseconds, 10 to 60,000. It doubles up to 15 minutes.
    #[arg(long, env = "STRIPE_RETRY_MS", default_value_t = 1_000, value_parser = within::<i64>(10..=60_000))]
    pub stripe_retry_ms: i64,

    /// How long `PutAccount` asks Stripe about a customer and a subscription before it links the account unverified, in
    /// milliseconds, 100 to 60,000.
    #[arg(long, env = "STRIPE_LINK_CHECK_MS", default_value_t = 2_000, value_parser = within::<u64>(100..=60_000))]
    pub stripe_link_check_ms: u64,

    /// Where old reports are archived, and when they are folded.
    #[command(flatten)]
    pub archive: ArchiveConfig,

    /// Increments that may wait for a commit, 1,000 to 10,000,000. More are rejected with `RESOURCE_EXHAUSTED`.
    #[arg(long, env = "QUEUE_INCREMENTS", default_value_t = 65_536, value_parser = within::<u32>(1_000..=10_000_000))]
    pub queue_increments: u32,

    /// Transactions that count in parallel on PostgreSQL, 1 to 64. The last of several is for batches. SQLite has one.
    #[arg(long, env = "WRITERS", default_value_t = 3, value_parser = within::<u32>(1..=64))]
    pub writers: u32,

    /// Open connections of one peer address (of IPv6, one /64 network) to the gRPC socket, up to 4,096; those to a socket of HTTP
    /// are half of all at most. Beyond it, its silent connections are closed for new ones, and a connection is refused if
    /// there is none. 0 is no limit.
    #[arg(long, env = "CONNECTIONS_PER_ADDRESS", default_value_t = 2_048, value_parser = within::<u32>(0..=4_096))]
    pub connections_per_address: u32,

    /// Concurrent requests on one connection, 1 to 65,536.
    #[arg(long, env = "STREAMS_PER_CONNECTION", default_value_t = 1_024, value_parser = within::<u32>(1..=65_536))]
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
        self.webhooks.secrets()?;
        let key = self.stripe.key()?;
        if key.is_none() && self.stripe.reporting.is_shadow() {
            return Err("REPORTING is shadow and there is no Stripe key, so nothing could be compared; set STRIPE_SECRET_KEY".to_owned());
        }
        self.check_tls()?;
        self.addresses.check()?;
        self.database.url().map(drop)
    }

    /// The connections that one address may have to a socket, if that is limited.
    pub(crate) fn connections_of_address(&self) -> Option<usize> {
        let limit = usize::try_from(self.connections_per_address).ok();
        limit.filter(|limit| *limit > 0)
    }

    /// Every secret, for what must not show one: keys, and the database's URL with its password.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let mut secrets = self.webhooks.secrets().unwrap_or_default();
        secrets.extend(self.stripe.key().ok().flatten());
        secrets.extend(self.database.secrets());
        secrets
    }

    fn check_tls(&self) -> Result<(), String> {
        self.tls.files()?;
        let shares_webhooks =
            self.addresses.http().is_some() && self.addresses.webhook_listen.is_none();
        if self.tls.needs_client_certificates()
            && shares_webhooks
            && !self.webhooks.secrets()?.is_empty()
        {
            return Err("TLS_CLIENT_CA_FILE needs client certificates on HTTP_LISTEN, and Stripe has none for its webhooks; set WEBHOOK_LISTEN".to_owned());
        }
        Ok(())
    }
}

/// The command line without the environment variables that are empty: they count as unset.
pub fn without_empty_variables(command: Command) -> Command {
    let command = command.mut_args(|arg: Arg| {
        let is_empty = arg
            .get_env()
            .and_then(std::env::var_os)
            .is_some_and(|value| value.is_empty());
        if is_empty {
            arg.env(Resettable::Reset)
        } else {
            arg
        }
    });
    command.mut_subcommands(without_empty_variables)
}

fn slots(text: &str) -> Result<Slots, String> {
    let mins = text.parse::<u32>();
    let slots = mins.map(Slots::from_mins);
    slots.unwrap_or_else(|_| Err("must be 15, 30 or 60 minutes".to_owned()))
}

fn parse_late_usage(text: &str) -> Result<LateUsage, String> {
    match text {
        "hold" => Ok(LateUsage::Hold),
        "current_period" => Ok(LateUsage::CurrentPeriod),
        _ => Err("must be hold or current_period".to_owned()),
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
