//! The command line of usage-server: the only file that uses anyhow or chooses an exit code. What a command does is in
//! `commands`.

use std::{
    fmt::Display,
    io::{BufRead, BufReader, IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, error::ErrorKind};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
#[cfg(feature = "demo")]
use usage_server::commands::demo::{self, DemoConfig};
use usage_server::{
    Listeners,
    clock::Clock,
    commands::{
        adopt, archives, audit, backup, distribute,
        doctor::{DoctorConfig, diagnose},
        export, keys, reconcile, restore,
        setup::{SetupConfig, set_up},
    },
    config::{Config, DatabaseConfig, without_empty_variables},
    serve,
    store::Store,
};

/// A call allocates many small things on one thread and frees them on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Counts what customers use, shows it and bills it through Stripe.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Write the log as JSON, a line an event.
    #[arg(long, env = "LOG_JSON", global = true)]
    log_json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service.
    Serve(Box<Config>),
    #[cfg(feature = "demo")]
    /// Run the whole flow locally against a fake Stripe, on a new SQLite file.
    Demo(DemoConfig),
    /// Migrate the database's schema, then exit.
    Migrate(MigrateCommand),
    /// Copy a SQLite database that is in use into a new file, and check the copy.
    Backup(backup::BackupCommand),
    /// Spread the tables about accounts over the workers of Citus. Running it again changes nothing.
    Distribute(distribute::DistributeCommand),
    /// Compare what was counted, what was reported and Stripe's totals; exits with 1 on any difference.
    Reconcile(Box<reconcile::ReconcileCommand>),
    /// After a backup was put in place: compare it with Stripe, so that nothing is billed twice; exits with 1 while
    /// sending stays paused.
    Restore(Box<restore::RestoreCommand>),
    /// Report to another Stripe account or mode from now on: says what becomes of the usage, and asks; exits with 1 if it
    /// was not confirmed.
    AdoptStripeAccount(Box<adopt::AdoptCommand>),
    /// Manage the Stripe account.
    #[command(subcommand)]
    Stripe(StripeCommand),
    /// The archives of old reports that were folded.
    #[command(subcommand)]
    Archives(ArchivesCommand),
    /// Create, list and revoke API keys, directly in the database.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Print what admins did, tried to do and were refused: a JSON object a line, newest first.
    Audit(audit::AuditCommand),
    /// Write audit entries, runs, decisions or reports as JSON lines or CSV.
    Export(export::ExportCommand),
    /// Check the database, the Stripe account and the schedule; exits with 1 if a check is bad or could not run.
    Doctor(Box<DoctorCommand>),
}

#[derive(Debug, Subcommand)]
enum StripeCommand {
    /// Create the meter, product and volume price of each configured meter, or check the existing ones; exits with 1
    /// if an existing one differs.
    Setup(SetupConfig),
}

#[derive(Debug, Subcommand)]
enum ArchivesCommand {
    /// Compare each archive with its SHA-256, and its reports with the sums that they were folded into; exits with 1 on any
    /// difference.
    Verify(archives::VerifyCommand),
}

#[derive(Debug, Args)]
struct MigrateCommand {
    #[command(flatten)]
    database: DatabaseConfig,
    /// Change nothing: exit with 1 if the schema is older or newer than this program's.
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Args)]
struct DoctorCommand {
    #[command(flatten)]
    config: DoctorConfig,
    /// Print a JSON array of objects.
    #[arg(long)]
    json: bool,
}

/// The log filter when `RUST_LOG` is not set. Commands that print for people log errors only.
const SERVICE_LOG: &str = "info,sea_orm_migration=warn,tokio_cron_scheduler=warn,stripe=error";
const QUIET_LOG: &str = "error";

/// How long threads may keep the process that wait for a disk that does not respond.
const THREADS_END_WITHIN: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let command = without_empty_variables(Cli::command());
    let parsed = command
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    match start(cli) {
        Ok(code) => code,
        Err(error) => {
            // One line with all causes.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = Runtime::new().context("cannot start threads")?;
    let result = runtime.block_on(run(cli));
    runtime.shutdown_timeout(THREADS_END_WITHIN);
    result
}

/// Prints in one line which value is wrong; prints help and version unchanged.
fn refuse(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let text = error.render().to_string();
        eprintln!("{}", text.lines().next().unwrap_or_default());
        return ExitCode::from(2);
    }
    // If even the help cannot be printed, there is no other place to report it.
    let _ = error.print();
    ExitCode::SUCCESS
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let default_log = match cli.command {
        Command::Serve(_) | Command::Migrate(_) => SERVICE_LOG,
        _ => QUIET_LOG,
    };
    start_log(cli.log_json, default_log);
    survive_file_size_limit()?;
    match cli.command {
        Command::Serve(config) => run_service(*config).await?,
        #[cfg(feature = "demo")]
        Command::Demo(config) => {
            let stop = CancellationToken::new();
            cancel_on_signal(stop.clone())?;
            let is_healthy = demo::run(config, &mut std::io::stdout(), stop).await?;
            return Ok(exit_code(is_healthy));
        }
        Command::Reconcile(command) => {
            let is_equal = reconcile::run(*command, &mut std::io::stdout()).await?;
            return Ok(exit_code(is_equal));
        }
        Command::Restore(command) => {
            let mut input = BufReader::new(std::io::stdin());
            let is_terminal = std::io::stdin().is_terminal();
            let input: &mut (dyn BufRead + Send) = &mut input;
            let answers = is_terminal.then_some(input);
            let is_done =
                restore::run(&command, &Clock::system(), &mut std::io::stdout(), answers).await?;
            return Ok(exit_code(is_done));
        }
        Command::AdoptStripeAccount(command) => {
            let mut input = BufReader::new(std::io::stdin());
            let is_terminal = std::io::stdin().is_terminal();
            let input: &mut (dyn BufRead + Send) = &mut input;
            let answers = is_terminal.then_some(input);
            let is_done =
                adopt::run(&command, &Clock::system(), &mut std::io::stdout(), answers).await?;
            return Ok(exit_code(is_done));
        }
        Command::Migrate(command) if command.check => check_schema(&command.database).await?,
        Command::Migrate(command) => migrate(&command.database).await?,
        Command::Backup(command) => backup::run(&command, &mut std::io::stdout()).await?,
        Command::Distribute(command) => {
            distribute::run(&command, &mut std::io::stdout()).await?;
        }
        Command::Stripe(StripeCommand::Setup(config)) => {
            let report = set_up(&config).await?;
            print_line(&report)?;
            return Ok(exit_code(report.is_healthy()));
        }
        Command::Archives(ArchivesCommand::Verify(command)) => {
            let are_equal = archives::verify(&command, &mut std::io::stdout()).await?;
            return Ok(exit_code(are_equal));
        }
        Command::Keys(command) => {
            keys::run(&command, &mut std::io::stdout(), &mut std::io::stderr()).await?;
        }
        Command::Audit(command) => audit::run(&command, &mut std::io::stdout()).await?,
        Command::Export(command) => {
            let rows = export::run(&command, &mut std::io::stdout()).await?;
            tracing::info!(rows, "exported");
        }
        Command::Doctor(command) => {
            let diagnosis = diagnose(&command.config, &Clock::system()).await?;
            if command.json {
                print_line(&diagnosis.to_json())?;
            } else {
                print_line(&diagnosis)?;
            }
            return Ok(exit_code(diagnosis.is_healthy()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn migrate(config: &DatabaseConfig) -> anyhow::Result<()> {
    let url = config.url().map_err(anyhow::Error::msg)?;
    let _lock = Store::lock(&url).await?;
    let store = Store::open(&url, config.database_connections).await?;
    store.migrate().await?;
    store.close().await?;
    tracing::info!("database migrated");
    Ok(())
}

async fn check_schema(config: &DatabaseConfig) -> anyhow::Result<()> {
    let url = config.url().map_err(anyhow::Error::msg)?;
    let store = Store::open_existing(&url, config.database_connections).await?;
    let checked = store.check_schema().await;
    store.close().await?;
    checked?;
    print_line(&"the schema is that of this usage-server")?;
    Ok(())
}

async fn run_service(config: Config) -> anyhow::Result<()> {
    raise_file_limit();
    let listeners = Listeners::bind(&config.addresses).await?;
    let shutdown = CancellationToken::new();
    cancel_on_signal(shutdown.clone())?;
    serve(listeners, config, Clock::system(), shutdown).await?;
    Ok(())
}

/// Each connection is an open file, and many systems allow a process 1,024 unless it asks for more.
fn raise_file_limit() {
    /// For the connections of all sockets, and for the database.
    const NEEDED: u64 = 8_192;
    let allowed = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: allowed.maximum,
        ..allowed
    };
    let raised = setrlimit(Resource::Nofile, most).map_or(allowed.current, |()| allowed.maximum);
    if let Some(limit) = raised.filter(|limit| *limit < NEEDED) {
        tracing::warn!(
            limit,
            "the process may open few files, so more connections have to wait; allow it {NEEDED} (LimitNOFILE of systemd)"
        );
    }
}

/// Prints to standard output. A closed pipe is an error, not a panic.
fn print_line(text: &impl Display) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{text}")
}

fn exit_code(is_healthy: bool) -> ExitCode {
    if is_healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Starts the log on standard error. `RUST_LOG` overrides the filter.
fn start_log(json: bool, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if json {
        log.json().init();
    } else {
        log.init();
    }
}

/// Lets a write beyond the limit for the size of files fail, as on a full disk. Without a handler, its signal would end the
/// process.
fn survive_file_size_limit() -> std::io::Result<()> {
    // The handler stays after this is dropped.
    signal(SignalKind::from_raw(libc::SIGXFSZ)).map(drop)
}

fn cancel_on_signal(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}
