//! How a recorder is set up and started.

use super::{
    Recorder, Shared,
    aggregator::Sums,
    batches::{Batches, Held},
    spool::{Found, Spool},
    stats::Tally,
    worker,
};
use crate::{Error, ErrorKind, UsageClient};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Sets a [`Recorder`] up; see [`UsageClient::recorder`].
#[derive(Debug, Clone)]
#[must_use = "nothing is recorded before it is started"]
pub struct RecorderBuilder {
    client: UsageClient,
    interval: Duration,
    batch_size: usize,
    capacity: usize,
    concurrency: usize,
    spool: Option<PathBuf>,
    spool_limit: u64,
}

impl RecorderBuilder {
    pub(crate) fn new(client: UsageClient) -> Self {
        Self {
            client,
            interval: Duration::from_secs(1),
            batch_size: crate::Batch::MAX_LEN,
            capacity: 100_000,
            concurrency: 4,
            spool: None,
            spool_limit: 1 << 30,
        }
    }

    /// How long usage waits at most before it is sent: a second unless set, at least 10 milliseconds.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.max(Duration::from_millis(10));
        self
    }

    /// How many sums a batch holds at most: 1,000 unless set, and never more.
    pub fn batch_size(mut self, sums: usize) -> Self {
        self.batch_size = sums.clamp(1, crate::Batch::MAX_LEN);
        self
    }

    /// How many sums of an account, meter and second may be in memory or on their way: 100,000 unless set.
    /// Each takes about 200 bytes.
    pub fn capacity(mut self, sums: usize) -> Self {
        self.capacity = sums.max(1);
        self
    }

    /// How many batches are on their way at once: 4 unless set, at most 64.
    pub fn concurrency(mut self, batches: usize) -> Self {
        self.concurrency = batches.clamp(1, 64);
        self
    }

    /// Keeps batches in this folder until the server has counted them, so that they outlive the process. At
    /// most a gibibyte lies there, see [`spool_limit`](Self::spool_limit). A folder serves one recorder at a
    /// time.
    pub fn spool(mut self, folder: impl Into<PathBuf>) -> Self {
        self.spool = Some(folder.into());
        self
    }

    /// How many bytes may lie in the spool's folder; what is beyond that stays in memory, as far as there is
    /// [`capacity`](Self::capacity).
    pub fn spool_limit(mut self, bytes: u64) -> Self {
        self.spool_limit = bytes;
        self
    }

    /// Starts it, and begins to send what an earlier process left in the spool, which is read through first.
    ///
    /// # Errors
    /// There is no Tokio runtime here to send from, or the spool cannot be used; the message says why.
    pub fn start(self) -> Result<Recorder, Error> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|error| Error::invalid("runtime", error.to_string()))?;
        let alive = CancellationToken::new();
        let (spool, found) = match self.spool {
            None => (None, Vec::new()),
            Some(folder) => {
                let (spool, found) = Spool::open(&folder, self.spool_limit)
                    .map_err(|error| Error::local(ErrorKind::Spool, error.to_string(), false))?;
                (Some(spool), found)
            }
        };
        let gone = CancellationToken::new();
        let shared = Arc::new(Shared {
            client: self.client,
            interval: self.interval,
            batch_size: self.batch_size,
            sums: Sums::new(self.capacity),
            batches: Batches::default(),
            spool,
            taking: Mutex::new(()),
            elsewhere: Tally::default(),
            recovered: Tally::default(),
            counted: Tally::default(),
            refused: Tally::default(),
            dropped: Tally::default(),
            invalid: Tally::default(),
            stop: CancellationToken::new(),
            wake: Notify::new(),
            _gone: gone.clone().drop_guard(),
        });
        for batch in found {
            let Found { name, calls, units } = batch;
            shared.elsewhere.add(calls, units);
            shared.recovered.add(calls, units);
            shared.batches.add(name, Held::Spool { calls, units });
        }
        runtime.spawn(worker::run(
            Arc::clone(&shared),
            self.concurrency,
            alive.clone(),
        ));
        Ok(Recorder {
            shared,
            alive: Arc::new(alive.drop_guard()),
            gone,
        })
    }
}
