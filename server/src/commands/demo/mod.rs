//! `usage-server demo`: runs the whole flow locally against a fake Stripe, over real sockets.
//!
//! First it counts, shows and reports usage; then months pass until everything is on final invoices. At last it leaves a
//! report that Stripe rejected, for someone to decide. Every figure that it prints is read back from the service or from the
//! fake Stripe.

mod accounts;
mod billing_months;
mod decision;
mod error;
mod invoices;
mod new_table;
mod plans;
mod tables;
#[cfg(test)]
mod tests;
mod time;
mod traffic;

use std::{io::Write, path::Path};

use chrono::{DateTime, Months};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, builder::Resettable};
use fake_stripe::{Control, FakeStripe, Settings};
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use usage_client::{ForceReport, PutAccount, ReportEvent, ReportRun, UsageClient};

pub use self::error::DemoError;
use self::{
    accounts::{FREE, LINKED, METERS},
    billing_months::BillingMonths,
    error::Result,
    tables::Totals,
    time::Time,
    traffic::{Hours, Traffic},
};
use crate::{Listeners, ServeError, clock::Clock, config::Config, serve};

/// How long ago the demo starts, so that its months have passed by now.
const MONTHS: Months = Months::new(3);

/// The flags of the command.
#[derive(Args, Clone, Debug)]
pub struct DemoConfig {
    /// Exit after the last line instead of serving on: with 0, or with 1 if the figures differ.
    #[arg(long)]
    pub once: bool,
}

/// The flags of the demo's server.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

/// A running demo.
struct Demo {
    fake_stripe: FakeStripe,
    time: Time,
    client: UsageClient,
    endpoint: String,
    /// The address of the web pages.
    console: String,
    shutdown: CancellationToken,
    serving: JoinHandle<std::result::Result<(), ServeError>>,
    /// Contains the database. Deleted when dropped.
    folder: TempDir,
}

/// Runs the demo. Returns whether the counted, reported and invoiced figures and Stripe's totals are equal.
///
/// # Errors
/// See [`DemoError`].
pub async fn run(
    config: DemoConfig,
    out: &mut (dyn Write + Send),
    stop: CancellationToken,
) -> Result<bool> {
    let now = DateTime::from_timestamp_millis(Clock::system().now());
    let start = now.and_then(|now| now.checked_sub_months(MONTHS));
    let start = start.ok_or_else(|| DemoError::unexpected("the clock is at its beginning"))?;
    run_from(start.timestamp_millis(), config, out, stop).await
}

/// The same, starting at a time in milliseconds.
async fn run_from(
    start_ms: i64,
    config: DemoConfig,
    out: &mut (dyn Write + Send),
    stop: CancellationToken,
) -> Result<bool> {
    let demo = Demo::start(start_ms).await?;
    let totals = demo.run(out).await?;
    // These figures are of all usage before the report that waits.
    demo.time.catch_up().await?;
    let waiting = demo.leave_a_decision().await?;
    if !config.once {
        demo.print_calls_to_try(out)?;
    }
    writeln!(out, "\n{waiting}")?;
    writeln!(out, "{}", totals.summary_line())?;
    out.flush()?;
    if !config.once {
        demo.time.run_on(&stop).await?;
    }
    demo.stop().await?;
    Ok(totals.are_equal())
}

impl Demo {
    async fn start(start_ms: i64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let fake_stripe = FakeStripe::start(Settings::default()).await?;
        let time = Time::stopped(fake_stripe.control(), start_ms).await?;
        let grpc = TcpListener::bind("127.0.0.1:0").await?;
        let http = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", grpc.local_addr()?);
        let console = format!("http://{}/", http.local_addr()?);
        let config = config(folder.path(), &fake_stripe)?;
        let shutdown = CancellationToken::new();
        let listeners = Listeners {
            http: Some(http),
            ..Listeners::grpc_only(grpc)
        };
        let mut serving = tokio::spawn(serve(listeners, config, time.clock(), shutdown.clone()));
        let client = tokio::select! {
            client = UsageClient::connect(endpoint.clone()) => client?,
            ended = &mut serving => {
                ended??;
                return Err(DemoError::unexpected("the server stopped before it was ready"));
            }
        };
        Ok(Self {
            fake_stripe,
            time,
            client,
            endpoint,
            console,
            shutdown,
            serving,
            folder,
        })
    }

    /// Runs all but the decision; returns the figures.
    async fn run(&self, out: &mut (dyn Write + Send)) -> Result<Totals> {
        let hours = Hours::until(self.time.now());
        let control = self.fake_stripe.control();
        writeln!(
            out,
            "console       {}   (open it in a browser)",
            self.console
        )?;
        writeln!(
            out,
            "usage-server  {}   (SQLite in {})",
            self.endpoint,
            self.folder.path().display()
        )?;
        writeln!(out, "fake Stripe   {}", self.fake_stripe.base_url())?;

        self.link(&control, hours).await?;
        writeln!(
            out,
            "\nLinked {} accounts to Stripe customers with subscriptions, and made one free.",
            LINKED.len()
        )?;

        let traffic = Traffic::send(&self.client, hours).await?;
        writeln!(out, "{traffic}")?;

        writeln!(out, "\nUsage by hour, from Get:")?;
        writeln!(out, "{}", tables::usage_by_hour(&self.client, hours).await?)?;

        writeln!(out, "\nReporting to Stripe (ForceReport):")?;
        let run = self.client.force_report(ForceReport::all()).await?;
        writeln!(out, "{}", watch(run).await?)?;

        self.compare(&control, hours, out).await?;
        out.flush()?;

        BillingMonths::new(&self.client, &control, &self.time)
            .run(out)
            .await?;
        let whole = hours.extended_to(self.time.now());
        self.compare(&control, whole, out).await
    }

    /// Prints the figures of the service and of Stripe.
    async fn compare(
        &self,
        control: &Control,
        hours: Hours,
        out: &mut (dyn Write + Send),
    ) -> Result<Totals> {
        let totals = Totals::read(&self.client, control, hours).await?;
        writeln!(
            out,
            "\nCounted, reported, Stripe's total, on final invoices:"
        )?;
        writeln!(out, "{}", totals.table())?;
        Ok(totals)
    }

    async fn link(&self, control: &Control, hours: Hours) -> Result<()> {
        plans::create(control).await?;
        plans::subscribe(control, hours).await?;
        for (account, customer) in LINKED {
            // The link bills from the start of the subscription's period.
            self.client
                .put_account(PutAccount::stripe(account, customer))
                .await?;
        }
        self.client.put_account(PutAccount::free(FREE)).await?;
        Ok(())
    }

    fn print_calls_to_try(&self, out: &mut (dyn Write + Send)) -> Result<()> {
        let address = self.endpoint.trim_start_matches("http://");
        let (account, _) = LINKED[0];
        writeln!(out, "\nThe server goes on until Ctrl-C. Calls to try:")?;
        for call in [
            format!(
                "-d '{{\"account_id\": \"{account}\", \"quantity\": 5}}' {address} usage.v1.UsageService/Increment"
            ),
            format!("-d '{{\"account_id\": \"{account}\"}}' {address} usage.v1.UsageService/Get"),
            format!("-d '{{\"all\": true}}' {address} usage.v1.UsageService/ForceReport"),
        ] {
            writeln!(out, "  grpcurl -plaintext {call}")?;
        }
        writeln!(out, "  curl {}/control/totals", self.fake_stripe.base_url())?;
        out.flush()?;
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        self.serving.await??;
        self.fake_stripe.stop().await;
        Ok(())
    }
}

/// The settings of the demo's server.
fn config(folder: &Path, fake_stripe: &FakeStripe) -> Result<Config> {
    let meters: Vec<String> = METERS
        .iter()
        .map(|(name, event)| format!("{name}={event}"))
        .collect();
    let flags = [
        "usage-server".to_owned(),
        format!(
            "--database-url=sqlite://{}",
            folder.join("usage.db").display()
        ),
        format!("--stripe-secret-key={}", fake_stripe.secret_key()),
        format!("--stripe-api-base={}", fake_stripe.base_url()),
        format!("--meters={}", meters.join(",")),
        format!("--default-meter={}", METERS[0].0),
        // Months pass in seconds, so sync and retry often.
        "--sync-interval-secs=10".to_owned(),
        "--stripe-retry-ms=100".to_owned(),
        "--stripe-events-per-sec=1000".to_owned(),
        // The demo moves its two clocks one after the other.
        "--clock-check-secs=0".to_owned(),
        // It has no key, and a report waits for a decision. Only this machine reaches it, and no payment is real.
        "--console-writes-without-key".to_owned(),
    ];
    // The environment may configure a real service: ignore it.
    let command = Flags::command().mut_args(|arg| arg.env(Resettable::Reset));
    command
        .try_get_matches_from(flags)
        .and_then(|matches| Flags::from_arg_matches(&matches))
        .map(|flags| flags.config)
        .map_err(|error| DemoError::unexpected(error.to_string()))
}

/// Watches a run with a progress bar; returns its summary as text.
async fn watch(mut run: ReportRun) -> Result<String> {
    let bar = ProgressBar::new(0);
    bar.set_style(
        ProgressStyle::with_template("  {bar:40} {pos}/{len} reports")
            .map_err(|error| DemoError::unexpected(error.to_string()))?,
    );
    let mut summary = None;
    while let Some(event) = run.next().await? {
        match event {
            ReportEvent::Progress(progress) => {
                bar.set_length(u64::try_from(progress.closed).unwrap_or(0));
                bar.set_position(u64::try_from(progress.done).unwrap_or(0));
            }
            ReportEvent::Summary(last) => summary = Some(last),
            _ => {}
        }
    }
    bar.finish_and_clear();
    let summary =
        summary.ok_or_else(|| DemoError::unexpected("the run ended without a summary"))?;
    if summary.retried_later.reports != 0 {
        return Err(DemoError::unexpected(format!(
            "the fake Stripe did not accept {} reports",
            summary.retried_later.reports
        )));
    }
    Ok(format!(
        "  closed {} reports: {} accepted by Stripe, {} not billable, {} rejected",
        summary.closed.reports,
        summary.accepted.reports,
        summary.not_billable.reports,
        summary.rejected.reports
    ))
}
