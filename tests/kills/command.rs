//! The command line. Without `--run`, as `cargo test` starts it, it does nothing.

use std::{
    env,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Parser, ValueEnum as _};

use crate::{
    process::BINARY,
    run::{End, Run},
    scenario::Scenario,
};

/// The most kills of a scenario, so that it ends.
const MAX_TIMES: u64 = 1_000;

/// Kills real processes under load, and checks that nothing acknowledged is lost or counted twice.
#[derive(Debug, Parser)]
#[command(name = "kills")]
struct Cli {
    /// Run scenarios. The alias `cargo kills` has it.
    #[arg(long)]
    run: bool,
    /// A scenario; may be repeated. All if absent.
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<Scenario>,
    /// Kills of each scenario, 1 to 1000. Each scenario has a default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_TIMES))]
    times: Option<u64>,
    /// Fewer kills: minutes in all.
    #[arg(long, conflicts_with = "times")]
    brief: bool,
    /// What is drawn follows from it. A random one if absent.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The binary of the server. If absent: that in `target/release`, else that in `target/debug`, else it is built.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Scenarios at once. As many as there are cores if absent.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// What `cargo test` passes to test programs: a filter, and flags of the usual harness.
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    of_harness: Vec<String>,
}

/// Runs the command line. Its exit code is that of a test: 0 if nothing failed.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    if !cli.run {
        return ExitCode::SUCCESS;
    }
    match cli.run_all() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kills: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    fn run_all(&self) -> io::Result<bool> {
        let binary = self.binary.clone().map_or_else(find_binary, Ok)?;
        let binary = binary.canonicalize()?;
        let seed = self.seed.unwrap_or_else(random_seed);
        say(&format!("seed {seed}, {}", described(&binary)?));
        drop(BINARY.set(binary));
        let chosen = self.chosen();
        let next = AtomicUsize::new(0);
        let totals = Mutex::new(Totals::default());
        let work = || {
            while let Some(scenario) = chosen.get(next.fetch_add(1, Ordering::SeqCst)) {
                let times = self.times.and_then(|times| usize::try_from(times).ok());
                let times = times.unwrap_or_else(|| scenario.times(self.brief));
                let run = Run::new(scenario.name(), times, seed);
                say(&format!("{}: {times} times", scenario.name()));
                let end = run.execute(*scenario, self.brief);
                say(&format!("{}: {end}", scenario.name()));
                let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                totals.add(&end, run.kills());
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.jobs.unwrap_or_else(cores).max(1) {
                scope.spawn(work);
            }
        });
        let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
        writeln!(
            io::stdout(),
            "kills: scenarios={} kills={} failures={}",
            totals.scenarios,
            totals.kills,
            totals.failures
        )?;
        Ok(totals.failures == 0)
    }

    fn chosen(&self) -> Vec<Scenario> {
        if self.scenarios.is_empty() {
            return Scenario::value_variants().to_vec();
        }
        self.scenarios.clone()
    }
}

#[derive(Debug, Default)]
struct Totals {
    scenarios: usize,
    kills: usize,
    failures: usize,
}

impl Totals {
    fn add(&mut self, end: &End, kills: usize) {
        self.scenarios += usize::from(!matches!(end, End::Skipped));
        self.failures += usize::from(matches!(end, End::Failed(_)));
        self.kills += kills;
    }
}

/// Prints a line of progress.
fn say(line: &str) {
    // The last line is what counts, and its failure is an error.
    drop(writeln!(io::stdout(), "kills: {line}"));
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Another number at each start, short enough to type.
fn random_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::from(since.map_or(0, |since| since.subsec_micros()))
}

/// The binary that is there, or one that is built now.
fn find_binary() -> io::Result<PathBuf> {
    let program = env::current_exe()?;
    // target/PROFILE/deps/PROGRAM
    let target = program.ancestors().nth(3);
    let target = target.ok_or_else(|| io::Error::other("this is not in a folder of cargo's"))?;
    let of_profile = |profile: &str| target.join(profile).join("usage-server");
    for profile in ["release", "debug"] {
        if of_profile(profile).is_file() {
            return Ok(of_profile(profile));
        }
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--package=usage-server"]);
    let status = build.arg("--bin=usage-server").status()?;
    if !status.success() {
        return Err(io::Error::other("usage-server cannot be built"));
    }
    Ok(of_profile("debug"))
}

/// The binary and its age, because it may be older than the sources.
fn described(binary: &Path) -> io::Result<String> {
    let built = binary.metadata()?.modified()?;
    let age = SystemTime::now().duration_since(built).unwrap_or_default();
    let minutes = age.as_secs() / 60;
    Ok(format!("{}, built {minutes} min ago", binary.display()))
}
