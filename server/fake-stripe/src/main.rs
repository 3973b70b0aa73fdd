//! The command `fake-stripe`: a fake Stripe on a fixed port, for demonstrations and manual tests.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use fake_stripe::Settings;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A stateful fake of the parts of Stripe that a usage-metering server calls.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The address to listen on. The control endpoints need no key: keep it on loopback.
    #[arg(long, default_value = "127.0.0.1:12111")]
    listen: SocketAddr,
    /// The only accepted API key.
    #[arg(long, default_value = "sk_test_fake")]
    secret_key: String,
    /// How long after its receipt a meter event appears in summaries, in milliseconds.
    #[arg(long, default_value_t = 0)]
    summary_delay_ms: u64,
    /// Meter events accepted per second; more are answered with 429.
    #[arg(long, default_value_t = 1_000)]
    events_per_sec: u32,
    /// The delay before each request is processed, in milliseconds.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let options = Options::parse();
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    let base_url = format!("http://{}", listener.local_addr()?);
    let mut out = std::io::stdout();
    writeln!(
        out,
        "Fake Stripe on {base_url}, secret key {}",
        options.secret_key
    )?;
    writeln!(
        out,
        "Try: curl {base_url}/v1/customers -u {}: -d name=Jenny",
        options.secret_key
    )?;
    writeln!(
        out,
        "Stored meter events: curl {base_url}/control/events (also totals, requests, stats)"
    )?;

    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::warn!(%error, "cannot listen for Ctrl-C");
            return;
        }
        stop.cancel();
    });
    let settings = Settings {
        secret_key: options.secret_key,
        summary_delay: Duration::from_millis(options.summary_delay_ms),
        events_per_sec: options.events_per_sec,
        latency: Duration::from_millis(options.latency_ms),
        ..Settings::default()
    };
    fake_stripe::serve(listener, settings, shutdown)
        .await
        .context("the fake Stripe stopped serving")
}
