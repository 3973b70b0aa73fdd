//! The world of a run: a fake Stripe, a replica on a database file, a client, and the time that all of them share.
//!
//! Two kinds of time pass. The timers of the runtimes move by milliseconds to seconds while something waits for them,
//! and the clocks move with them. Between steps the clocks jump.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use clap::Parser;
use fake_stripe::{Control, FakeStripe, Settings};
use tempfile::TempDir;
use usage_client::{ListAccounts, Retry, UsageClient};
use usage_server::{clock::Clock, config::Config};

use crate::{
    disk::{DISK, Unsynced},
    idle::Threads,
    log,
    random::Random,
    replica::{End, Replica},
    time,
};

/// An error of the run: a promise that was broken, or a harness that does not work.
pub(crate) type Outcome<T> = Result<T, String>;

/// The first and the longest move of timers while something waits for them.
const FIRST_TICK: Duration = Duration::from_millis(1);
const LONGEST_TICK: Duration = Duration::from_millis(800);
/// The timers' moves after a jump of the clocks: what is due then is done meanwhile.
const AFTER_JUMP: [u64; 2] = [10, 700];
/// How far timers move when the clocks jump: so far that an answer from before says nothing about the time any more.
const TIMERS_OF_JUMP: Duration = Duration::from_secs(6);
/// How long after its end a supervisor starts the replica again.
const STARTED_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often the end of a replica looks whether its files are closed.
const CLOSED_WITHIN_LOOKS: u32 = 250;
/// How many moves of timers one call may take.
const MAX_TICKS: usize = 4_000;

pub(crate) const METERS: [(&str, &str); 2] = [("api_calls", "api_calls"), ("tokens", "llm_tokens")];

const FLAGS: [&str; 8] = [
    "--meters=api_calls:call,tokens=llm_tokens:token",
    "--default-meter=api_calls",
    "--stripe-events-per-sec=1000",
    "--stripe-webhook-secrets=whsec_simulated",
    "--report-schedule=0 * * * *",
    "--clock-check-secs=60",
    "--window-mins=60",
    "--no-console",
];

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: Config,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) stripe: Control,
    pub(crate) client: UsageClient,
    pub(crate) now_ms: i64,
    fake_stripe: FakeStripe,
    replica: Option<Replica>,
    threads: Arc<Mutex<Threads>>,
    /// Which ports the replica listens on.
    ports: (u16, u16),
    /// What a power cut leaves, if one happens.
    pub(crate) unsynced: Unsynced,
    /// Draws which writes survive.
    random: Random,
    /// Whether a replica is to run.
    pub(crate) is_wanted: bool,
    /// Timers' moves that the clocks have not made yet.
    behind: Duration,
    /// How long the replica still stands still.
    frozen_for: Duration,
    /// After how many looks at something that waits the replica is killed.
    pub(crate) kill_in: Option<u32>,
    /// How far the clock of the replica is ahead of the true time.
    skew_ms: i64,
    /// Times that replicas were started, and ended by themselves.
    pub(crate) starts: usize,
    pub(crate) own_ends: Vec<String>,
    folder: TempDir,
}

impl World {
    pub(crate) async fn start(seed: u64, now_ms: i64) -> Outcome<Self> {
        let folder = memory_folder()?;
        let settings = Settings {
            // It is measured in real time.
            events_per_sec: 1_000_000,
            ..Settings::default()
        };
        let fake_stripe = FakeStripe::start(settings).await.map_err(text)?;
        let stripe = fake_stripe.control();
        stripe.set_clock(now_ms).await.map_err(text)?;
        let ports = (free_port()?, free_port()?);
        let client = client_at(ports.0)?;
        let world = Self {
            stripe,
            client,
            now_ms,
            fake_stripe,
            replica: None,
            threads: Arc::default(),
            ports,
            unsynced: Unsynced::Kept,
            random: Random::of_part(seed, 0xd15c),
            is_wanted: true,
            behind: Duration::ZERO,
            frozen_for: Duration::ZERO,
            kill_in: None,
            skew_ms: 0,
            starts: 0,
            own_ends: Vec::new(),
            folder,
        };
        world.show_time();
        for (_, event_name) in METERS {
            world.stripe.create_meter(event_name).await.map_err(text)?;
        }
        world.receive_webhooks().await?;
        Ok(world)
    }

    fn show_time(&self) {
        log::set_time(time::text(self.now_ms));
    }

    /// The database file.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("usage.db")
    }

    pub(crate) fn config(&self) -> Outcome<Config> {
        let mut flags: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
        flags.extend([
            format!("--database-url=sqlite://{}", self.file().display()),
            format!("--listen=127.0.0.1:{}", self.ports.0),
            format!("--http-listen=127.0.0.1:{}", self.ports.1),
            format!("--stripe-secret-key={}", self.fake_stripe.secret_key()),
            format!("--stripe-api-base={}", self.fake_stripe.base_url()),
        ]);
        let name = std::iter::once("usage-server".to_owned());
        let parsed = Cli::try_parse_from(name.chain(flags));
        parsed.map(|cli| cli.config).map_err(text)
    }

    async fn receive_webhooks(&self) -> Outcome<()> {
        let url = self.http_url("/webhooks/stripe");
        let registered = self.stripe.register_webhook(&url, "whsec_simulated").await;
        registered.map_err(text)
    }

    /// A URL of the replica's HTTP listener.
    pub(crate) fn http_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports.1)
    }

    /// The URL and the key of Stripe.
    pub(crate) fn stripe_address(&self) -> (&str, &str) {
        (self.fake_stripe.base_url(), self.fake_stripe.secret_key())
    }

    /// Waits until nothing in this process goes on by itself.
    async fn idle(&self) -> Outcome<()> {
        let threads = Arc::clone(&self.threads);
        let looking = tokio::task::spawn_blocking(move || {
            let mut threads = threads.lock().unwrap_or_else(PoisonError::into_inner);
            threads.wait_until_idle()
        });
        if looking.await.unwrap_or(false) {
            Ok(())
        } else {
            Err("the process stayed busy: a task or a thread runs without end".to_owned())
        }
    }

    /// Moves all timers, and the clocks by whole seconds.
    async fn tick(&mut self, by: Duration) -> Outcome<()> {
        self.behind += by;
        let mut passed = 0;
        if self.behind >= Duration::from_secs(1) {
            let behind = std::mem::take(&mut self.behind);
            passed = i64::try_from(behind.as_millis()).unwrap_or(0);
        }
        self.advance(by, passed).await
    }

    /// Moves all timers and all clocks at one moment.
    async fn advance(&mut self, timers: Duration, clock_ms: i64) -> Outcome<()> {
        if clock_ms != 0 {
            self.now_ms += clock_ms;
            self.show_time();
            self.stripe.set_clock(self.now_ms).await.map_err(text)?;
        }
        DISK.advance(u64::try_from(timers.as_millis()).unwrap_or(0));
        if let Some(replica) = &mut self.replica {
            self.frozen_for = self.frozen_for.saturating_sub(timers);
            if replica.is_frozen() && self.frozen_for.is_zero() {
                replica.thaw().await;
            }
            replica.advance(timers, clock_ms).await;
        }
        tokio::time::advance(timers).await;
        Ok(())
    }

    /// Awaits something while time passes, and while replicas crash and start.
    pub(crate) async fn run<T>(&mut self, future: impl Future<Output = T>) -> Outcome<T> {
        let mut future = Box::pin(future);
        let mut tick = FIRST_TICK;
        for _ in 0..MAX_TICKS {
            tokio::select! {
                biased;
                value = &mut future => return Ok(value),
                idle = self.idle() => idle?,
            }
            self.tend().await?;
            self.tick(tick).await?;
            tick = (tick * 2).min(LONGEST_TICK);
        }
        Err(format!(
            "something waits for ever: not done after {MAX_TICKS} moves of the timers"
        ))
    }

    /// Lets time pass.
    pub(crate) async fn pass(&mut self, time: Duration) -> Outcome<()> {
        self.idle().await?;
        self.tend().await?;
        self.tick(time).await?;
        self.idle().await?;
        self.tend().await
    }

    /// Moves the clocks to a time, and lets what is due then be done.
    pub(crate) async fn jump(&mut self, to_ms: i64) -> Outcome<()> {
        if to_ms > self.now_ms {
            self.idle().await?;
            self.advance(TIMERS_OF_JUMP, to_ms - self.now_ms).await?;
        }
        for millis in AFTER_JUMP {
            self.pass(Duration::from_millis(millis)).await?;
        }
        Ok(())
    }

    /// What a supervisor and the power company do: ends a replica without power, and starts one that has ended.
    async fn tend(&mut self) -> Outcome<()> {
        if let Some(left) = self.kill_in {
            self.kill_in = left.checked_sub(1);
            if left == 0 {
                self.kill(Some(Unsynced::Kept)).await?;
            }
        }
        if DISK.is_off() {
            self.kill(None).await?;
        }
        if let Some(replica) = &mut self.replica
            && let Some(end) = replica.ended()
        {
            if let End::Served(Err(why)) = &end {
                self.own_ends.push(why.clone());
            }
            if let Some(replica) = self.replica.take() {
                replica.join().await;
            }
            self.check_closed().await?;
            self.tick(STARTED_AGAIN_AFTER).await?;
        }
        if self.replica.is_none() && self.is_wanted {
            self.start_replica()?;
        }
        Ok(())
    }

    fn start_replica(&mut self) -> Outcome<()> {
        let clock = Clock::manual(self.now_ms);
        clock.step(self.skew_ms);
        self.starts += 1;
        self.replica = Some(Replica::start(self.config()?, clock));
        Ok(())
    }

    /// Ends the replica as a power cut does, with what it leaves of unsynced writes; none: as chosen before.
    pub(crate) async fn kill(&mut self, unsynced: Option<Unsynced>) -> Outcome<()> {
        DISK.cut_power();
        if let Some(mut replica) = self.replica.take() {
            replica.kill();
            replica.join().await;
        }
        self.check_closed().await?;
        let unsynced = unsynced.unwrap_or(self.unsynced);
        DISK.restore_power(unsynced, &mut self.random).map_err(text)
    }

    /// Threads of the driver close the last files soon after the replica.
    pub(crate) async fn check_closed(&self) -> Outcome<()> {
        for _ in 0..CLOSED_WITHIN_LOOKS {
            if DISK.open_files() == 0 {
                return Ok(());
            }
            let waiting = || std::thread::sleep(Duration::from_millis(20));
            tokio::task::spawn_blocking(waiting).await.map_err(text)?;
        }
        let open = DISK.open_files();
        Err(format!("{open} files are open after the end of a replica"))
    }

    /// Stops the replica as on SIGTERM. It starts again if one is wanted.
    pub(crate) async fn stop(&mut self) -> Outcome<()> {
        let Some(replica) = &self.replica else {
            return Ok(());
        };
        replica.shut_down();
        let wanted = std::mem::replace(&mut self.is_wanted, false);
        let mut tick = FIRST_TICK;
        for _ in 0..200 {
            self.idle().await?;
            self.tend().await?;
            if self.replica.is_none() {
                self.is_wanted = wanted;
                return Ok(());
            }
            self.tick(tick).await?;
            tick = (tick * 2).min(LONGEST_TICK);
        }
        Err("the replica does not stop".to_owned())
    }

    /// Waits until the replica answers.
    pub(crate) async fn wait_until_up(&mut self) -> Outcome<()> {
        self.is_wanted = true;
        let mut last = String::new();
        for _ in 0..20 {
            let client = self.client.clone();
            let asking =
                async move { client.list_accounts(ListAccounts::new().page_size(1)).await };
            match self.run(asking).await? {
                Ok(_) => return Ok(()),
                Err(error) => last = error.to_string(),
            }
        }
        Err(format!(
            "the replica does not come back: {last}; it ended with {:?}",
            self.own_ends
        ))
    }

    /// Lets the replica stand still for a time from now on.
    pub(crate) async fn freeze(&mut self, ms: u32) -> Outcome<()> {
        self.idle().await?;
        if let Some(replica) = &mut self.replica {
            replica.freeze();
            self.frozen_for = Duration::from_millis(ms.into());
        }
        Ok(())
    }

    /// Sets the wall clock of the replica.
    pub(crate) fn set_skew(&mut self, ms: i64) {
        if let Some(replica) = &self.replica {
            replica.clock.step(ms - self.skew_ms);
        }
        self.skew_ms = ms;
    }

    pub(crate) fn has_skew(&self) -> bool {
        self.skew_ms != 0
    }
}

/// A client with the usual retries, but not for ever.
fn client_at(port: u16) -> Outcome<UsageClient> {
    let client = UsageClient::connect_lazy(format!("http://127.0.0.1:{port}")).map_err(text)?;
    let retry = Retry::default().attempts(6);
    Ok(client
        .with_retry(retry)
        .with_timeout(Duration::from_secs(8)))
}

fn free_port() -> Outcome<u16> {
    let bound = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(text)?;
    let own = bound.local_addr().map_err(text)?;
    Ok(own.port())
}

/// A folder in memory where there is one.
fn memory_folder() -> Outcome<TempDir> {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.or_else(|_| tempfile::tempdir()).map_err(text)
}

pub(crate) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
