//! The warnings and errors of the service, which are kept for the case that a seed fails.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
};

/// The lines that are kept.
const MAX_LINES: usize = 120;

static LINES: LazyLock<Mutex<Lines>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct Lines {
    last: VecDeque<String>,
    number: u64,
    now: String,
    prints: bool,
}

struct Keep;

impl Lines {
    fn add(&mut self, line: String) {
        self.last.push_back(line);
        if self.last.len() > MAX_LINES {
            self.last.pop_front();
        }
    }
}

fn lines() -> MutexGuard<'static, Lines> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to keep them; also prints them if asked.
pub(crate) fn keep(prints: bool) {
    lines().prints = prints;
    let subscriber = tracing_subscriber::registry().with(Keep);
    // Once in a process.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// The simulated time of the next lines.
pub(crate) fn set_time(now: String) {
    lines().now = now;
}

/// The number of warnings and errors so far.
pub(crate) fn number() -> u64 {
    lines().number
}

/// Keeps a line of the simulator.
pub(crate) fn note(line: &str) {
    lines().add(line.to_owned());
}

/// The last ones.
pub(crate) fn last() -> Vec<String> {
    lines().last.iter().cloned().collect()
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN || !metadata.target().starts_with("usage_") {
            return;
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        let mut lines = lines();
        let line = format!("{} {}{}", lines.now, metadata.level(), text.0);
        if lines.prints {
            eprintln!("{line}");
        }
        lines.number += 1;
        lines.add(line);
    }
}

/// The fields of a line.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = if field.name() == "message" {
            write!(self.0, " {value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}
