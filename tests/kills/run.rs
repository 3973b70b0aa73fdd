//! One run of a scenario: how often it kills, what it draws, and how it ends.

use std::{
    any::Any,
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use tokio::{runtime::Runtime, time::timeout};

use crate::{random::Random, scenario::Scenario};

/// The callers, the fake Stripe and the proxies of a scenario share these.
const THREADS: usize = 3;
/// How long a scenario may take.
const LIMIT: Duration = Duration::from_mins(30);
const BRIEF_LIMIT: Duration = Duration::from_mins(4);

/// What a scenario may do, and what it has done.
#[derive(Debug)]
pub(crate) struct Run {
    name: String,
    times: usize,
    seed: u64,
    kills: AtomicUsize,
}

/// What a scenario says when nothing failed: None if it was skipped, and said why.
pub(crate) type Told = Option<String>;

/// How a run has ended.
#[derive(Debug)]
pub(crate) enum End {
    Passed(String),
    /// Why is on standard error.
    Skipped,
    Failed(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(told) => write!(f, "passed: {told}"),
            Self::Skipped => f.write_str("SKIPPED"),
            Self::Failed(why) => write!(f, "FAILED: {why}"),
        }
    }
}

impl Run {
    pub(crate) fn new(name: String, times: usize, seed: u64) -> Self {
        Self {
            name,
            times,
            seed,
            kills: AtomicUsize::new(0),
        }
    }

    /// How often something is to be killed.
    pub(crate) fn times(&self) -> usize {
        self.times
    }

    /// What is drawn in this scenario.
    pub(crate) fn random(&self) -> Random {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        Random(self.seed ^ hasher.finish())
    }

    /// Something was killed, cut off, frozen or filled.
    pub(crate) fn has_killed(&self) {
        self.kills.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn kills(&self) -> usize {
        self.kills.load(Ordering::SeqCst)
    }

    /// Runs a scenario in a runtime for it alone. A panic is its failure.
    pub(crate) fn execute(&self, scenario: Scenario, is_brief: bool) -> End {
        let began = Instant::now();
        let runtime = match self.runtime() {
            Ok(runtime) => runtime,
            Err(error) => return End::Failed(format!("no runtime: {error}")),
        };
        let limit = if is_brief { BRIEF_LIMIT } else { LIMIT };
        let playing = async { timeout(limit, scenario.play(self)).await };
        let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(playing)));
        runtime.shutdown_background();
        let secs = began.elapsed().as_secs();
        match ended {
            Ok(Ok(Some(told))) => {
                End::Passed(format!("{} kills in {secs} s, {told}", self.kills()))
            }
            Ok(Ok(None)) => End::Skipped,
            Ok(Err(_)) => End::Failed(format!("not done after {secs} s; {}", self.again())),
            Err(panic) => End::Failed(format!("{}; {}", words_of(&*panic), self.again())),
        }
    }

    fn runtime(&self) -> std::io::Result<Runtime> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            // A panic names its thread.
            .thread_name(&self.name)
            .enable_all()
            .build()
    }

    fn again(&self) -> String {
        format!(
            "run it again: cargo kills --scenario {} --times {} --seed {}",
            self.name, self.times, self.seed
        )
    }
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked")
}
