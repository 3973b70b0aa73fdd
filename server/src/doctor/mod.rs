//! The doctor: checks the database, the Stripe account and the schedule for known problems, and says how to fix them.
//!
//! It runs in the command `usage-server doctor`, which opens the database itself, and in a server, for the method
//! `Doctor`. It only reads (but for an empty file, to see whether the folder of archives can be written, and a row that is
//! rolled back), and sends few requests to Stripe. Each group of checks first reads, then decides in pure `check_*`
//! functions. A check that could not run counts as bad. Long lists are truncated and say so.

mod accounts;
mod archives;
mod changes;
mod clocks;
mod deletions;
mod distribution;
mod finding;
mod health;
mod invoices;
mod keys;
mod redaction;
mod reports;
mod running;
mod sending;
mod settings;
mod shadow;
mod sockets;
mod stripe;
mod stripe_account;
mod unreported;

use clap::Args;

pub use self::finding::{Diagnosis, Finding, Severity};
pub(crate) use self::{running::RunningDoctor, settings::ShownSetting};
use crate::{
    clock::Clock,
    config::{
        ArchiveConfig, CommandConfig, Config, DatabaseConfig, ListenConfig, ScheduleConfig,
        SendingConfig, TlsConfig,
    },
    domain::{Millis, meter::Meters},
    store::{SchemaError, Store},
    workers::schedule::Schedule,
};

/// The settings of the doctor.
#[derive(Args, Clone, Debug)]
pub struct DoctorConfig {
    /// The database, the Stripe account and the meters.
    #[command(flatten)]
    pub shared: CommandConfig,

    /// The schedule.
    #[command(flatten)]
    pub schedule: ScheduleConfig,

    /// How fast usage is sent.
    #[command(flatten)]
    pub sending: SendingConfig,

    /// Where old reports are archived.
    #[command(flatten)]
    pub archive: ArchiveConfig,

    /// The addresses of the service.
    #[command(flatten)]
    pub addresses: ListenConfig,

    /// TLS of the service.
    #[command(flatten)]
    pub tls: TlsConfig,
}

impl From<Config> for DoctorConfig {
    fn from(config: Config) -> Self {
        Self {
            schedule: config.schedule.clone(),
            sending: config.sending.clone(),
            archive: config.archive.clone(),
            addresses: config.addresses.clone(),
            tls: config.tls.clone(),
            shared: config.into(),
        }
    }
}

/// A wrong setting, in one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DoctorError(String);

/// Opens the database, and runs every check that can run.
///
/// # Errors
/// A setting is wrong. Everything else is a finding.
pub async fn diagnose(config: &DoctorConfig, clock: &Clock) -> Result<Diagnosis, DoctorError> {
    // Boxed because the future contains pages of Stripe's objects: too large for the callers' stacks.
    Box::pin(run_checks(config, clock)).await
}

async fn run_checks(config: &DoctorConfig, clock: &Clock) -> Result<Diagnosis, DoctorError> {
    let url = config.shared.database.url().map_err(DoctorError)?;
    let examination = Examination::new(config, clock)?;
    let mut findings = Vec::new();
    sockets::check(&config.addresses, &config.tls, &mut findings);
    let store = open(&url, &config.shared.database, &mut findings)
        .await
        .map(|store| store.with_clock(clock.clone()));
    if let Some(store) = &store {
        findings.push(health::check_database(store).await);
    }
    examination.run(store.as_ref(), &mut findings).await;
    if let Some(store) = store
        && let Err(error) = store.close().await
    {
        findings.push(Finding::warn(
            "database",
            format!("closing it failed: {error}"),
            "read the database's log",
        ));
    }
    Ok(Diagnosis { findings })
}

/// What the checks after those of the sockets and of the database itself need.
struct Examination<'a> {
    config: &'a DoctorConfig,
    meters: Meters,
    schedule: Schedule,
    clock: &'a Clock,
}

impl<'a> Examination<'a> {
    fn new(config: &'a DoctorConfig, clock: &'a Clock) -> Result<Self, DoctorError> {
        Ok(Self {
            meters: config.shared.meters.read().map_err(DoctorError)?,
            schedule: config.schedule.read().map_err(DoctorError)?,
            config,
            clock,
        })
    }

    /// Without a database, only Stripe is checked.
    async fn run(&self, store: Option<&Store>, findings: &mut Vec<Finding>) {
        let Self {
            config,
            meters,
            clock,
            ..
        } = self;
        let now = current_time(store, clock).await;
        let key = config.shared.stripe.key();
        let account = stripe::key::check(&key, &config.shared.stripe, clock, findings).await;
        if let (Some(account), Ok(Some(key))) = (&account, &key) {
            let reporting = config.shared.stripe.reporting;
            stripe::rights::check(key, account, reporting, findings).await;
        }
        if let Some(account) = &account {
            stripe::check(account, meters, store, now, findings).await;
        }
        let Some(store) = store else { return };
        if let Some(account) = &account {
            stripe_account::check(store, account, meters, now, findings).await;
        }
        shadow::check(store, config.shared.stripe.reporting, now, findings).await;
        sending::check(store, account.as_ref(), meters, now, findings).await;
        self.check_store(store, now, findings).await;
        if let Ok(Some(key)) = &key {
            let rate = config.sending.events_per_sec(Some(key));
            let reporting = (&self.schedule, config.schedule.window_mins);
            findings.push(sending::check_rate(store, reporting, rate, now).await);
        }
        clocks::check(store, &self.schedule, clock, now, findings).await;
    }

    /// The checks of what is stored.
    async fn check_store(&self, store: &Store, now: Millis, findings: &mut Vec<Finding>) {
        let config = self.config;
        distribution::check(store, &config.shared.database, findings).await;
        keys::check(store, config, now, findings).await;
        accounts::check(store, now, findings).await;
        changes::check(store, now, findings).await;
        deletions::check(store, now, findings).await;
        reports::check(store, &self.meters, now, findings).await;
        findings.push(unreported::check(store, &self.schedule, now).await);
        archives::check(store, &config.archive, findings).await;
        invoices::check(store, now, findings).await;
    }
}

/// The time by the database's clock, which decides what is due; by this machine's if there is none.
async fn current_time(store: Option<&Store>, clock: &Clock) -> Millis {
    match store {
        // If it does not respond, that is another finding.
        Some(store) => store.shared_now().await.unwrap_or_else(|_| clock.now()),
        None => clock.now(),
    }
}

const DATABASE: &str = "database";
const NOT_CHECKED: &str =
    "so accounts, reports, the ledger check, the schedule and the database clock were not checked";

/// Opens the database if it exists and its schema is up to date.
async fn open(url: &str, config: &DatabaseConfig, findings: &mut Vec<Finding>) -> Option<Store> {
    const CONNECTIONS: u32 = 4;
    let opened = Store::open_existing(url, CONNECTIONS).await;
    if let Ok(store) = &opened
        && let Some(worker) = distribution::check_entry(store).await
    {
        // It has shards, and no table that any other check reads.
        findings.push(worker);
        return None;
    }
    let store = match opened {
        Ok(store) => store,
        Err(error) => {
            findings.push(Finding::bad(
                DATABASE,
                format!("it cannot be opened: {error}; {NOT_CHECKED}"),
                "check DATABASE_URL, or create the database with `usage-server migrate`",
            ));
            return None;
        }
    };
    check_schema(&store, config, findings)
        .await
        .then_some(store)
}

/// Whether the tables are those of this program; only then can the rest be checked.
async fn check_schema(store: &Store, config: &DatabaseConfig, findings: &mut Vec<Finding>) -> bool {
    let (fact, advice) = match store.check_schema().await {
        Ok(()) => {
            let fact = "it exists and its schema is up to date";
            findings.push(Finding::ok(DATABASE, fact));
            findings.extend(check_durability(store, config).await);
            findings.extend(store.large_log().map(large_log));
            return true;
        }
        Err(SchemaError::Older(pending)) => (
            format!("it lacks {pending} migrations"),
            "run `usage-server migrate`",
        ),
        Err(error @ SchemaError::Newer(_)) => {
            (error.to_string(), "run the `usage-server` of the service")
        }
        Err(error) => (
            format!("its schema cannot be read: {error}"),
            "check that DATABASE_URL is the service's database, and that this program is not older than its schema",
        ),
    };
    findings.push(Finding::bad(
        DATABASE,
        format!("{fact}; {NOT_CHECKED}"),
        advice,
    ));
    false
}

/// Whether PostgreSQL keeps what it has acknowledged.
async fn check_durability(store: &Store, config: &DatabaseConfig) -> Option<Finding> {
    const CHECK: &str = "durability";
    const ADVICE: &str = "turn it on in postgresql.conf and restart PostgreSQL";
    match store.insecure_settings().await {
        Ok(insecure) if insecure.is_empty() => None,
        Ok(insecure) => {
            let fact = format!(
                "PostgreSQL runs with {} off, so a power cut can lose acknowledged usage",
                insecure.join(" and ")
            );
            Some(if config.insecure_durability {
                Finding::warn(CHECK, fact, ADVICE)
            } else {
                Finding::bad(CHECK, fact, ADVICE)
            })
        }
        Err(error) => Some(Finding::bad(
            CHECK,
            format!("its settings cannot be read: {error}"),
            "check that the role may read pg_settings",
        )),
    }
}

/// The log is copied into the file at 64 MiB, unless something prevents it.
fn large_log(bytes: u64) -> Finding {
    Finding::bad(
        "log",
        format!(
            "SQLite's log has {bytes} bytes, because it cannot be copied into the database file"
        ),
        "check the disk, and end programs that keep the file open in a long transaction",
    )
}
