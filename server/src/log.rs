//! Where the log goes, and in which form.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{IsTerminal as _, stderr},
    panic::PanicHookInfo,
};

use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::otlp::Otlp;

/// The filter when `RUST_LOG` is not set. Commands that print for people log errors only.
pub const SERVICE_LOG: &str = "info,sea_orm_migration=warn,tokio_cron_scheduler=warn,stripe=error";
/// The filter of other commands.
pub const QUIET_LOG: &str = "error";

/// How the log is written. Spans go to a collector too, if there is one.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// As JSON, an event a line.
    pub json: bool,
    /// What is logged, unless `RUST_LOG` says something else.
    pub filter: &'static str,
}

impl Log {
    /// Starts the log on standard error, with colours if that is a terminal and `NO_COLOR` is not set. A panic is a line
    /// of it too.
    pub fn start(self, otlp: Option<&Otlp>) {
        let filter =
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(self.filter));
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(has_colours())
            .with_writer(stderr);
        let registry = tracing_subscriber::registry().with(filter);
        if self.json {
            // Each line has all spans that it is in; the innermost one is not told once more.
            let lines = lines.json().with_current_span(false);
            registry.with(lines).with(otlp.map(Otlp::layer)).init();
        } else {
            registry.with(lines).with(otlp.map(Otlp::layer)).init();
        }
        std::panic::set_hook(Box::new(log_panic));
    }
}

/// Whether whoever reads standard error sees colours, and wants them. See <https://no-color.org>.
fn has_colours() -> bool {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !is_unwanted && stderr().is_terminal()
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let why = panic.payload_as_str().unwrap_or("no message");
    let location = panic.location().map(tracing::field::display);
    // Only if `RUST_BACKTRACE` asks for it.
    let backtrace = Backtrace::capture();
    let is_captured = backtrace.status() == BacktraceStatus::Captured;
    let backtrace = is_captured.then(|| tracing::field::display(backtrace));
    tracing::error!(why, location, backtrace, "a panic: a defect of the program");
}
