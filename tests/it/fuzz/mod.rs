//! Random and hostile inputs, one file for each kind of input. Nothing may panic, be answered with a defect of the server,
//! or count what was not sent.
//!
//! Each test first replays its files of `corpus/`: small inputs that failed once. Then it makes new ones until its share of
//! `FUZZ_SECS` (60 by default, an hour at most) is over. A failure prints the seed; `FUZZ_SEED` replays it.

mod calls;
mod cases;
mod import;
mod json_calls;
mod messages;
mod page_tokens;
mod requests;
mod spool;
mod stripe_answers;
mod texts;
mod webhook_headers;
mod webhooks;

use std::{
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use crate::support::random::Random;

const SECS: &str = "FUZZ_SECS";
const SEED: &str = "FUZZ_SEED";
const DEFAULT_SECS: u64 = 60;
const MAX_SECS: u64 = 3_600;

/// How long a test makes new inputs, and from which seed.
struct Budget {
    what: &'static str,
    seed: u64,
    until: Instant,
    cases: u64,
    min_cases: u64,
    max_cases: u64,
}

impl Budget {
    /// A share of the whole time in percent.
    fn new(what: &'static str, percent: u32) -> Self {
        let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
        let secs = number(SECS).unwrap_or(DEFAULT_SECS).min(MAX_SECS);
        let seed = number(SEED).unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
        let share = Duration::from_secs(secs) * percent / 100;
        eprintln!("{what}: {SEED}={seed} {SECS}={secs}");
        Self {
            what,
            seed,
            until: Instant::now() + share,
            cases: 0,
            min_cases: 1,
            max_cases: u64::MAX,
        }
    }

    /// The same with at most this many inputs by default.
    fn at_most(mut self, cases: u64) -> Self {
        if env::var_os(SECS).is_none() {
            self.max_cases = cases;
        }
        self
    }

    /// The same with at least this many inputs, however long they take.
    fn at_least(mut self, cases: usize) -> Self {
        self.min_cases = u64::try_from(cases).unwrap();
        self
    }

    /// The choices of the next input; none once the time is over. Each input has a seed of its own.
    fn next(&mut self) -> Option<Random> {
        let is_over = self.cases >= self.max_cases || Instant::now() >= self.until;
        if is_over && self.cases >= self.min_cases {
            return None;
        }
        self.cases += 1;
        Some(Random(self.seed.wrapping_add(self.cases << 32)))
    }

    /// What a failure prints.
    fn place(&self) -> String {
        format!("{SEED}={}, input {}", self.seed, self.cases)
    }

    /// Prints how much was tried.
    fn end(&self) {
        eprintln!("{}: {} inputs", self.what, self.cases);
        assert!(self.cases > 0, "no input was tried");
    }
}

/// The files of a folder of `corpus/`, by name.
fn corpus(folder: &str) -> Vec<(String, Vec<u8>)> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fuzz/corpus");
    let files = fs::read_dir(place.join(folder)).unwrap();
    let mut found: Vec<(String, Vec<u8>)> = files
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    found.sort_unstable();
    assert!(!found.is_empty(), "{folder} has no files");
    found
}
