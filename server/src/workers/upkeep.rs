//! The upkeep job of every replica: moves recorded values into the metrics' histograms, and watches the size of SQLite's
//! write-ahead log.

use std::time::{Duration, Instant};

use super::{
    job::{Job, Next, Spec, Turn},
    wake::Wake,
};
use crate::{
    domain::Millis,
    error::Result,
    metrics::{self, Exporter},
    store::Store,
};

/// Values that are not moved into the histograms pile up until the next scrape.
const INTERVAL: Duration = Duration::from_secs(5);
/// How often a large log is logged.
const WARN_EVERY: Duration = Duration::from_mins(10);

pub(crate) struct Upkeep {
    store: Store,
    /// Absent where the metrics are not served.
    exporter: Option<Exporter>,
    warned: Option<Instant>,
}

impl Upkeep {
    pub(crate) fn new(store: Store, exporter: Option<Exporter>) -> Self {
        Self {
            store,
            exporter,
            warned: None,
        }
    }

    fn check_log(&mut self) {
        if let Some(bytes) = self.store.log_bytes() {
            metrics::sqlite_log(bytes);
        }
        let Some(bytes) = self.store.large_log() else {
            return;
        };
        let has_warned = self
            .warned
            .is_some_and(|warned| warned.elapsed() < WARN_EVERY);
        if !has_warned {
            self.warned = Some(Instant::now());
            tracing::warn!(
                bytes,
                "SQLite's log grows: it cannot be copied into the database file; check the disk, and end programs that \
                 keep the file open in a long transaction"
            );
        }
    }
}

impl Job for Upkeep {
    fn spec(&self) -> Spec {
        Spec {
            name: "upkeep",
            interval: INTERVAL,
            // The log grows while the disk fails, and metrics are read most then.
            turn: Turn::WithoutDatabase,
            wake: Wake::default(),
        }
    }

    async fn run(&mut self, _now: Millis) -> Result<Next> {
        if let Some(exporter) = &self.exporter {
            exporter.run_upkeep();
        }
        self.check_log();
        Ok(Next::Wait)
    }
}
