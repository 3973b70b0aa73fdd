//! The command line of usage-server: the only place for anyhow, with the demo that it plays.

mod demo;
mod reconcile;

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand, error::ErrorKind};
use demo::DemoConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use usage_server::{
    Listeners,
    clock::Clock,
    config::{Config, DatabaseConfig},
    serve,
    store::Store,
};

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
    /// Play the main job over real sockets, with a stand-in for Stripe and a new SQLite file.
    Demo(DemoConfig),
    /// Bring the database's schema up to date, and end.
    Migrate(DatabaseConfig),
    /// Put what was counted, what was reported and what Stripe holds side by side; ends with 1 on any difference.
    Reconcile(Box<reconcile::ReconcileCommand>),
}

/// What is logged when `RUST_LOG` does not say; the demo's story is not to be interrupted.
const SERVICE_LOG: &str = "info,sea_orm_migration=warn,tokio_cron_scheduler=warn,stripe=error";
const DEMO_LOG: &str = "error";

#[tokio::main]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    match run(cli).await {
        Ok(code) => code,
        Err(error) => {
            // One line, whatever the chain of causes.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says in one line which value is wrong; help and version are printed as they are.
fn refuse(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let text = error.render().to_string();
        eprintln!("{}", text.lines().next().unwrap_or_default());
        return ExitCode::from(2);
    }
    // Nobody is left to tell when even the help cannot be printed.
    let _ = error.print();
    ExitCode::SUCCESS
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let default_log = if matches!(cli.command, Command::Demo(_)) {
        DEMO_LOG
    } else {
        SERVICE_LOG
    };
    start_log(cli.log_json, default_log);
    match cli.command {
        Command::Serve(config) => {
            let http = match config.http_listen {
                Some(address) => Some(listen(address).await?),
                None => None,
            };
            let listeners = Listeners {
                grpc: listen(config.listen).await?,
                http,
            };
            let shutdown = CancellationToken::new();
            cancel_on_signal(shutdown.clone())?;
            serve(listeners, *config, Clock::system(), shutdown).await?;
        }
        Command::Demo(config) => {
            let stop = CancellationToken::new();
            cancel_on_signal(stop.clone())?;
            if !demo::run(config, &mut std::io::stdout(), stop).await? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Reconcile(command) => {
            if !reconcile::run(*command, &mut std::io::stdout()).await? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Migrate(config) => {
            config.check().map_err(anyhow::Error::msg)?;
            let store = Store::open(&config.database_url, config.database_connections).await?;
            store.migrate().await?;
            store.close().await?;
            tracing::info!("the database is up to date");
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

/// `RUST_LOG` decides what is logged, where it is set.
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

fn cancel_on_signal(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}
