//! The command line of usage-server: the only file that uses anyhow or chooses an exit code. What a command does is in
//! `commands`.

use std::{
    fmt::Display,
    io::{BufRead, BufReader, IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
#[cfg(feature = "demo")]
use usage_server::commands::demo::{self, DemoConfig};
use usage_server::{
    Listeners, ServeError,
    clock::Clock,
    commands::{
        adopt, archives, audit, backup, distribute, doctor, export, health, keys, reconcile,
        restore,
        setup::{SetupConfig, set_up},
    },
    config::{Config, DatabaseConfig, without_empty_variables},
    log::{Log, QUIET_LOG, SERVICE_LOG},
    otlp::Otlp,
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
    /// Write audit entries, runs, decisions, reports or the sign-off of a month as JSON lines or CSV.
    Export(export::ExportCommand),
    /// Check the database, the Stripe account and the schedule; exits with 1 if a check is bad or could not run.
    Doctor(Box<doctor::DoctorCommand>),
    /// Ask the server of this machine, with the same settings, whether it can count, and print one word; exits with 1 if it
    /// cannot or does not answer.
    Health(health::HealthCommand),
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

/// The exit code for a command line that cannot be read.
const INVALID_ARGUMENTS: u8 = 2;

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
    let json = cli.log_json;
    match start(cli) {
        Ok(code) => code,
        Err(error)
            if error
                .downcast_ref::<ServeError>()
                .is_some_and(ServeError::is_logged) =>
        {
            ExitCode::FAILURE
        }
        Err(error) => {
            // One line with all causes.
            let why = format!("{error:#}");
            if json {
                tracing::error!(error = why, "the command failed");
            } else {
                eprintln!("error: {why}");
            }
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

/// Prints clap's own words: what is wrong or missing, and the usage. Only help and a version that were asked for are a success.
fn refuse(error: &clap::Error) -> ExitCode {
    // If even this cannot be printed, there is no other place to report it.
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::from(INVALID_ARGUMENTS)
    } else {
        ExitCode::SUCCESS
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let otlp = start_log(&cli)?;
    survive_file_size_limit()?;
    let (mut out, mut notes) = (std::io::stdout(), std::io::stderr());
    match cli.command {
        // The whole service, too large for the stack.
        Command::Serve(config) => Box::pin(run_service(*config, otlp)).await?,
        #[cfg(feature = "demo")]
        Command::Demo(config) => {
            let stop = CancellationToken::new();
            cancel_on_signal(stop.clone())?;
            let is_healthy = demo::run(config, &mut std::io::stdout(), stop).await?;
            return Ok(exit_code(is_healthy));
        }
        Command::Reconcile(command) => {
            let is_equal = reconcile::run(*command, &mut out, &mut notes).await?;
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
            let now = Clock::system().now();
            let exported = export::run(&command, now, &mut out, &mut notes).await?;
            tracing::info!(rows = exported.rows, "exported");
        }
        Command::Doctor(command) => {
            let is_healthy = doctor::run(&command, &mut out, &mut notes).await?;
            return Ok(exit_code(is_healthy));
        }
        Command::Health(command) => {
            let is_well = health::run(&command, &mut out, &mut notes).await?;
            return Ok(exit_code(is_well));
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

async fn run_service(config: Config, otlp: Option<Otlp>) -> anyhow::Result<()> {
    raise_file_limit();
    let listeners = Listeners::bind(&config.addresses).await?;
    let shutdown = CancellationToken::new();
    cancel_on_signal(shutdown.clone())?;
    let served = serve(listeners, config, Clock::system(), shutdown).await;
    if let Some(otlp) = otlp {
        otlp.stop().await;
    }
    Ok(served?)
}

/// Starts the log, and the sending of spans if the service is to send them.
fn start_log(cli: &Cli) -> anyhow::Result<Option<Otlp>> {
    let filter = match cli.command {
        Command::Serve(_) | Command::Migrate(_) => SERVICE_LOG,
        _ => QUIET_LOG,
    };
    let log = Log {
        json: cli.log_json,
        filter,
    };
    let otlp = match &cli.command {
        Command::Serve(config) => Otlp::start(&config.log),
        _ => Ok(None),
    };
    // Also if the settings are wrong, because that is told in the form of the log.
    log.start(otlp.as_ref().ok().and_then(Option::as_ref));
    otlp.map_err(anyhow::Error::msg)
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
