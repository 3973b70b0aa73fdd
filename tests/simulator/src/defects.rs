//! The test of the simulator: turns on each deliberate defect of the service in turn, and runs seeds until a check fails.
//! The checks know nothing of the defects. A failure counts only if the same run without the defect keeps every promise.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{child::run_apart, plan::Size, seeds::Case};

/// How much of a failure is printed: what was promised, without the figures that follow.
const SHOWN_CHARS: usize = 110;

/// What is run.
#[derive(Debug)]
pub(crate) struct Search {
    /// The names of the defects, and what is wrong.
    pub(crate) defects: Vec<(&'static str, &'static str)>,
    /// The first seed.
    pub(crate) first: u64,
    /// How many seeds are tried, the first one also without its faults.
    pub(crate) seeds: u64,
    pub(crate) size: Size,
    pub(crate) jobs: usize,
}

/// What became of a defect.
#[derive(Debug)]
struct Found {
    runs: usize,
    /// The run that caught it, and why it failed.
    caught: Option<(Case, String)>,
}

/// Runs without a defect, by seed and whether faults are left out: whether all promises were kept.
type Controls = Mutex<BTreeMap<(u64, bool), bool>>;

impl Search {
    /// Prints a line for each defect and the last line. Returns whether all were caught.
    pub(crate) fn run(&self, out: &mut (impl Write + Send)) -> io::Result<bool> {
        let next = AtomicUsize::new(0);
        let controls = Controls::default();
        let shared = Mutex::new((0, out));
        let work = || -> io::Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                let Some((name, sentence)) = self.defects.get(number) else {
                    return Ok(());
                };
                let found = self.search(name, &controls)?;
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                shared.0 += usize::from(found.caught.is_some());
                tell((name, sentence), &found, &mut *shared.1)?;
            }
        };
        let worked: io::Result<()> = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.max(1)).map(|_| scope.spawn(work)).collect();
            let mut ends = workers.into_iter().map(thread::ScopedJoinHandle::join);
            ends.try_for_each(|end| {
                end.unwrap_or_else(|_| Err(io::Error::other("a worker panicked")))
            })
        });
        worked?;
        let (caught, out) = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        let planted = self.defects.len();
        writeln!(out, "defects: caught={caught} planted={planted}")?;
        Ok(caught == planted)
    }

    /// Runs seeds with a defect until one fails that does not fail without it.
    fn search(&self, name: &'static str, controls: &Controls) -> io::Result<Found> {
        let mut found = Found {
            runs: 0,
            caught: None,
        };
        for number in 0..self.seeds {
            let seed = self.first.wrapping_add(number);
            // Without faults once, for the checks that only such a run has.
            let ways = if number == 0 { 2 } else { 1 };
            for faults in [None, Some(Vec::new())].into_iter().take(ways) {
                let case = Case {
                    defect: Some(name.to_owned()),
                    faults,
                    ..Case::all_of(seed)
                };
                let ended = run_apart(&case, &self.size)?;
                found.runs += 1;
                if let Some(why) = ended.failure
                    && self.passes_without(&case, controls)?
                {
                    found.caught = Some((case, why));
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    /// Whether the run keeps all promises without its defect.
    fn passes_without(&self, case: &Case, controls: &Controls) -> io::Result<bool> {
        let of = (case.seed, case.faults.is_some());
        let known = || controls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(passes) = known().get(&of) {
            return Ok(*passes);
        }
        let control = Case {
            defect: None,
            ..case.clone()
        };
        let ended = run_apart(&control, &self.size)?;
        if let Some(why) = &ended.failure {
            eprintln!("seed {} fails without a defect: {why}", case.seed);
        }
        known().insert(of, ended.failure.is_none());
        Ok(ended.failure.is_none())
    }
}

fn tell((name, sentence): (&str, &str), found: &Found, out: &mut impl Write) -> io::Result<()> {
    let runs = found.runs;
    match &found.caught {
        Some((case, why)) => {
            let shown: String = why.chars().take(SHOWN_CHARS).collect();
            writeln!(out, "{name}: caught in run {runs} by \"{shown}\"")?;
            writeln!(out, "  run it again: {}", case.command())
        }
        None => writeln!(out, "{name}: survived {runs} runs. {sentence}"),
    }
}
