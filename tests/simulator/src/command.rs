//! The command line. Without arguments, as `cargo test` runs it: the seeds that ever failed, and new ones for a bounded
//! time.

use std::{
    io,
    process::ExitCode,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Parser;

use crate::{
    child,
    defects::Search,
    many::{Limit, Plan},
    plan::Size,
    planted,
    seeds::{self, Case, parse_list},
};

/// New seeds that are run at least.
const LEAST_SEEDS: usize = 8;
/// Seeds that are tried with a deliberate defect.
const SEEDS_OF_DEFECT: usize = 12;

/// Simulates months of usage-billing with faults.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
struct Cli {
    /// Run this seed alone, in this process, and print what happened.
    #[arg(long)]
    seed: Option<u64>,
    /// Of this seed, only these faults: numbers with commas, or `none`.
    #[arg(long, requires = "seed")]
    faults: Option<String>,
    /// Turn on each deliberate defect of the service, or those that are named, and run seeds until it is caught.
    #[arg(long, conflicts_with = "seed")]
    defects: bool,
    /// The name of a defect. With `--seed`, it is turned on.
    #[arg(long, value_delimiter = ',')]
    defect: Vec<String>,
    /// Run so many new seeds. With `--defects`, try so many for each, 12 if absent.
    #[arg(long, conflicts_with = "seed")]
    seeds: Option<usize>,
    /// The first new seed. A random one if absent.
    #[arg(long)]
    first: Option<u64>,
    /// Without `--seeds`: run new seeds for so many seconds, and at least 8 of them. 0 runs only the seeds that ever failed.
    #[arg(long, env = "SIMULATE_SECS", default_value_t = 0)]
    secs: u64,
    /// Accounts of a run.
    #[arg(long, default_value_t = 2)]
    accounts: usize,
    /// Days of a run with faults; it goes on without them until all billing periods have ended.
    #[arg(long, default_value_t = 20)]
    days: i64,
    /// Seeds at once. As many as there are cores if absent.
    #[arg(long)]
    jobs: Option<usize>,
    /// What `cargo test` passes to test programs: a filter, and flags of the usual harness.
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    of_harness: Vec<String>,
}

/// Runs the command line. Its exit code is that of a test: 0 if every promise was kept.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    if is_filtered_out(&cli.of_harness) {
        return ExitCode::SUCCESS;
    }
    match cli.run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("simulate: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether `cargo test FILTER` means other tests, or only asks for their names.
fn is_filtered_out(arguments: &[String]) -> bool {
    let is_listing = arguments.iter().any(|argument| argument == "--list");
    let mut filters = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'));
    is_listing || filters.any(|filter| !"simulate".contains(filter.as_str()))
}

impl Cli {
    fn run(&self) -> io::Result<bool> {
        let size = Size {
            accounts: self.accounts,
            days: self.days,
        };
        if let Some(seed) = self.seed {
            let faults = self.faults.as_deref().map_or(Ok(None), parse_list);
            let faults = faults.map_err(io::Error::other)?;
            let case = Case {
                faults,
                defect: self.defect.first().cloned(),
                ..Case::all_of(seed)
            };
            return child::run_here(&case, &size, &mut io::stdout());
        }
        if self.defects {
            return self.search_defects(size);
        }
        let first = self.first.unwrap_or_else(random_seed);
        println!("simulate: new seeds from {first}");
        let limit = match self.seeds {
            Some(seeds) => Limit::Seeds(seeds),
            None if self.secs == 0 => Limit::Seeds(0),
            None => Limit::Time(Duration::from_secs(self.secs), LEAST_SEEDS),
        };
        let plan = Plan {
            cases: seeds::failed().map_err(io::Error::other)?,
            first,
            limit,
            size,
            jobs: self.jobs.unwrap_or_else(cores),
        };
        plan.run(&mut io::stdout())
    }

    fn search_defects(&self, size: Size) -> io::Result<bool> {
        let mut defects = planted::all().map_err(io::Error::other)?;
        if !self.defect.is_empty() {
            defects.retain(|(name, _)| self.defect.iter().any(|chosen| chosen == name));
        }
        let seeds = self.seeds.unwrap_or(SEEDS_OF_DEFECT);
        let search = Search {
            defects,
            first: self.first.unwrap_or(FIRST_SEED_OF_DEFECTS),
            seeds: u64::try_from(seeds).map_err(io::Error::other)?,
            size,
            jobs: self.jobs.unwrap_or_else(cores),
        };
        search.run(&mut io::stdout())
    }
}

/// The same seeds at each run, so that a defect is caught or not.
const FIRST_SEED_OF_DEFECTS: u64 = 1;

fn cores() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Another number at each start, short enough to type.
fn random_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.map_or(0, |since| since.subsec_nanos());
    u64::from(nanos) * 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_other_tests_runs_nothing() {
        let of = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            is_filtered_out(&words)
        };
        assert!(of(&["ledger"]));
        assert!(of(&["--list"]));
        assert!(!of(&[]));
        assert!(!of(&["--nocapture"]));
        assert!(!of(&["simul"]));
    }
}
