//! The demo: the main job in front of the reader's eyes, over real sockets and with a stand-in for Stripe.
//!
//! In the first act it counts, shows, reports and compares; in the second months pass, until everything is on a final
//! invoice. Every figure it prints is read back over the wire.

mod billing_months;
mod invoices;
mod plans;
mod tables;
#[cfg(test)]
mod tests;
mod time;
mod traffic;

use std::{io::Write, path::Path};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, builder::Resettable};
use fake_stripe::{Control, FakeStripe, Settings};
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use usage_client::{ForceReport, PutAccount, ReportEvent, ReportRun, UsageClient};

use self::{
    billing_months::BillingMonths,
    tables::Totals,
    time::Time,
    traffic::{Hours, Traffic},
};
use crate::{Listeners, ServeError, clock::Clock, config::Config, serve};

/// The accounts of the demo and their Stripe customers.
const LINKED: [(&str, &str); 2] = [("account-a", "cus_a"), ("account-b", "cus_b")];
const FREE: &str = "account-free";
/// The meters: names, and the event names of the Stripe meters.
const METERS: [(&str, &str); 2] = [("api_calls", "api_calls"), ("tokens", "llm_tokens")];
/// How far back the demo's usage goes.
const HOURS: i64 = 6;

/// How the demo runs.
#[derive(Args, Clone, Debug)]
pub struct DemoConfig {
    /// End after the last line instead of going on serving: exit code 0, or 1 when the figures differ.
    #[arg(long)]
    pub once: bool,
}

/// The flags of the demo's server.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

/// What the demo started.
struct Stage {
    fake_stripe: FakeStripe,
    time: Time,
    client: UsageClient,
    endpoint: String,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
    /// Removed at the end, with the database in it.
    folder: TempDir,
}

/// Runs the demo; answers whether what was counted, reported, held by the stand-in and invoiced there agree.
///
/// # Errors
/// Whatever went wrong, with what was being done.
pub async fn run(
    config: DemoConfig,
    out: &mut (dyn Write + Send),
    stop: CancellationToken,
) -> anyhow::Result<bool> {
    run_from(Clock::system().now(), config, out, stop).await
}

/// The same, at a moment in milliseconds.
async fn run_from(
    start_ms: i64,
    config: DemoConfig,
    out: &mut (dyn Write + Send),
    stop: CancellationToken,
) -> anyhow::Result<bool> {
    let stage = Stage::start(start_ms).await?;
    let agree = stage.play(out).await?;
    if !config.once {
        stage.subscribe_again().await?;
        stage.say_what_to_try(out)?;
        stage.time.run_on(&stop).await?;
    }
    stage.end().await?;
    Ok(agree)
}

impl Stage {
    async fn start(start_ms: i64) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder for the database")?;
        let fake_stripe = FakeStripe::start(Settings::default())
            .await
            .context("cannot start the stand-in for Stripe")?;
        let time = Time::stopped(fake_stripe.control(), start_ms).await?;
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("cannot find a free port")?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let config = flags(folder.path(), &fake_stripe)?;
        let shutdown = CancellationToken::new();
        let listeners = Listeners {
            grpc: listener,
            http: None,
        };
        let mut serving = tokio::spawn(serve(listeners, config, time.clock(), shutdown.clone()));
        let client = tokio::select! {
            client = UsageClient::connect(endpoint.clone()) => client.context("cannot reach the server")?,
            ended = &mut serving => bail!("the server did not start: {:?}", ended?.err()),
        };
        Ok(Self {
            fake_stripe,
            time,
            client,
            endpoint,
            shutdown,
            serving,
            folder,
        })
    }

    async fn play(&self, out: &mut (dyn Write + Send)) -> anyhow::Result<bool> {
        let hours = Hours::until(self.time.now());
        let control = self.fake_stripe.control();
        writeln!(
            out,
            "usage-server  {}   (SQLite in {})",
            self.endpoint,
            self.folder.path().display()
        )?;
        writeln!(out, "stand-in for Stripe  {}", self.fake_stripe.base_url())?;

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
        let run = self
            .client
            .force_report(ForceReport::all())
            .await
            .context("cannot report")?;
        writeln!(out, "{}", follow(run).await?)?;

        self.compare(&control, hours, out).await?;
        out.flush()?;

        BillingMonths::new(&self.client, &control, &self.time)
            .play(out)
            .await?;
        let whole = hours.and_until(self.time.now());
        let totals = self.compare(&control, whole, out).await?;
        writeln!(out, "{}", totals.last_line())?;
        out.flush()?;
        Ok(totals.agree())
    }

    /// Prints what each party says.
    async fn compare(
        &self,
        control: &Control,
        hours: Hours,
        out: &mut (dyn Write + Send),
    ) -> anyhow::Result<Totals> {
        let totals = Totals::read(&self.client, control, hours).await?;
        writeln!(
            out,
            "\nCounted, reported, held by the stand-in for Stripe, on its final invoices:"
        )?;
        writeln!(out, "{}", totals.table())?;
        Ok(totals)
    }

    async fn link(&self, control: &Control, hours: Hours) -> anyhow::Result<()> {
        plans::create(control).await?;
        plans::subscribe(control, hours).await?;
        for (account, customer) in LINKED {
            // It bills since its subscription's period began.
            self.client
                .put_account(PutAccount::stripe(account, customer))
                .await
                .context("cannot link an account")?;
        }
        self.client
            .put_account(PutAccount::free(FREE))
            .await
            .context("cannot make an account free")?;
        Ok(())
    }

    /// Gives the first account a subscription again, so that what is tried by hand is billed.
    async fn subscribe_again(&self) -> anyhow::Result<()> {
        let (account, _) = LINKED[0];
        let id = plans::subscribe_again(&self.fake_stripe.control()).await?;
        self.time
            .until("the new subscription", || async {
                let known = self.client.get_account(account).await?;
                let is_new = known.subscription.is_some_and(|known| known.id == id);
                Ok(is_new.then_some(()))
            })
            .await
    }

    fn say_what_to_try(&self, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
        let address = self.endpoint.trim_start_matches("http://");
        let (account, _) = LINKED[0];
        writeln!(out, "\nStill serving; end it with Ctrl-C. To try:")?;
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

    async fn end(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        self.serving.await.context("the server was lost")??;
        self.fake_stripe.stop().await;
        Ok(())
    }
}

fn flags(folder: &Path, fake_stripe: &FakeStripe) -> anyhow::Result<Config> {
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
        // Months pass in seconds: what comes of that is looked for often.
        "--sync-interval-secs=10".to_owned(),
        "--stripe-retry-ms=100".to_owned(),
    ];
    // The environment is the real service's: the demo is_up_to_date on its own.
    let command = Flags::command().mut_args(|arg| arg.env(Resettable::Reset));
    let matches = command.try_get_matches_from(flags)?;
    Ok(Flags::from_arg_matches(&matches)?.config)
}

/// Follows a run with a progress bar; answers its summary in words.
async fn follow(mut run: ReportRun) -> anyhow::Result<String> {
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template(
        "  {bar:40} {pos}/{len} reports",
    )?);
    let mut summary = None;
    while let Some(event) = run.next().await.context("the run could not be synced")? {
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
    let summary = summary.context("the run ended without a summary")?;
    ensure!(
        summary.retried_later.reports == 0,
        "the stand-in did not take every report"
    );
    Ok(format!(
        "  closed {} reports: {} accepted by Stripe, {} not billable, {} rejected",
        summary.closed.reports,
        summary.accepted.reports,
        summary.not_billable.reports,
        summary.rejected.reports
    ))
}
