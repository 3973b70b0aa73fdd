//! The configuration and start of a recorder.

use super::{
    Recorder, Shared,
    aggregator::Aggregator,
    batches::{Batches, Storage},
    drops::Drops,
    meter_check::{self, OnWrongMeters},
    refused::{OnRefused, RefusedUsage},
    spool::{LeftBatch, Spool},
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

/// Configures and starts a [`Recorder`]; see [`UsageClient::recorder`].
#[derive(Debug, Clone)]
#[must_use = "a recorder does nothing until it is started"]
pub struct RecorderBuilder {
    client: UsageClient,
    meters: Vec<String>,
    interval: Duration,
    batch_size: usize,
    capacity: usize,
    concurrency: usize,
    spool: Option<PathBuf>,
    spool_limit: u64,
    on_refused: OnRefused,
    on_wrong_meters: OnWrongMeters,
}

impl RecorderBuilder {
    pub(crate) fn new(client: UsageClient, meters: Vec<String>) -> Self {
        Self {
            client,
            meters,
            interval: Duration::from_secs(1),
            batch_size: crate::Batch::MAX_LEN,
            capacity: 100_000,
            concurrency: 4,
            spool: None,
            spool_limit: 1 << 30,
            on_refused: OnRefused::default(),
            on_wrong_meters: OnWrongMeters::default(),
        }
    }

    /// The longest time that usage waits before it is sent: a second by default, at least 10 milliseconds.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.max(Duration::from_millis(10));
        self
    }

    /// The maximum number of sums in a batch: 1,000 by default, which is also the limit.
    pub fn batch_size(mut self, sums: usize) -> Self {
        self.batch_size = sums.clamp(1, crate::Batch::MAX_LEN);
        self
    }

    /// The maximum number of sums (one per account, meter and second) in memory: 100,000 by default. A sum takes about
    /// 200 bytes.
    pub fn capacity(mut self, sums: usize) -> Self {
        self.capacity = sums.max(1);
        self
    }

    /// How many batches are sent at the same time: 4 by default, at most 64.
    pub fn concurrency(mut self, batches: usize) -> Self {
        self.concurrency = batches.clamp(1, 64);
        self
    }

    /// Stores batches in this folder until the server has counted them, so that they are not lost with the process.
    /// Their size is limited, see [`spool_limit`](Self::spool_limit). Only one recorder can use a folder at a time.
    pub fn spool(mut self, folder: impl Into<PathBuf>) -> Self {
        self.spool = Some(folder.into());
        self
    }

    /// The maximum size of the spool in bytes: 1 GiB by default. Further batches stay in memory, up to the
    /// [`capacity`](Self::capacity).
    ///
    /// Files of rejected usage have the same limit, apart from that of batches. When it is reached, the files that exist
    /// are kept. Further rejected usage is logged as an error with its calls and units, and counted as
    /// [`refused`](crate::RecorderStats::refused), but not stored. Check the files and remove them.
    pub fn spool_limit(mut self, bytes: u64) -> Self {
        self.spool_limit = bytes;
        self
    }

    /// Calls this with usage that will not be counted.
    ///
    /// What the server rejected permanently, such as usage of an unknown meter, is told once for each account, meter and
    /// second. It is also logged, counted as [`refused`](crate::RecorderStats::refused) and, with a spool, kept in a file.
    ///
    /// What was [`dropped`](crate::RecorderStats::dropped) here, because the recorder was full or the usage outside the
    /// server's limits, is told at the next interval, summed by account and meter; of more than 1,000 of them at once, the
    /// rest is one sum without an account.
    ///
    /// The task that sends usage waits for it, so it must be quick; if it panics, that is logged.
    pub fn on_refused(mut self, tell: impl Fn(RefusedUsage) + Send + Sync + 'static) -> Self {
        self.on_refused = OnRefused::new(tell);
        self
    }

    /// Calls this once, with an error that names it, if the server does not count one of the program's meters, or the API key
    /// may not use it. The server is asked when the recorder starts, until it answers. It is also logged.
    ///
    /// Usage of the meter is still recorded and sent, because the server may be told of it; it is refused until then.
    pub fn on_wrong_meters(mut self, tell: impl Fn(Error) + Send + Sync + 'static) -> Self {
        self.on_wrong_meters = OnWrongMeters::new(tell);
        self
    }

    /// Starts the recorder. It first reads the spool, and also sends the batches that an earlier process left there.
    ///
    /// It waits for nothing else: the program's meters are checked in the background, see
    /// [`on_wrong_meters`](Self::on_wrong_meters).
    ///
    /// # Errors
    /// The caller is not in a Tokio runtime, or the spool cannot be used; the message contains the cause.
    pub fn start(self) -> Result<Recorder, Error> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|error| Error::invalid("runtime", error.to_string()))?;
        let handles_dropped = CancellationToken::new();
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
            on_refused: self.on_refused,
            batch_size: self.batch_size,
            aggregator: Aggregator::new(self.capacity),
            batches: Batches::default(),
            spool,
            batching: Mutex::new(()),
            not_aggregated: Tally::default(),
            recovered: Tally::default(),
            counted: Tally::default(),
            refused: Tally::default(),
            dropped: Tally::default(),
            invalid: Tally::default(),
            drops: Drops::default(),
            stop: CancellationToken::new(),
            wake: Notify::new(),
            _gone: gone.clone().drop_guard(),
        });
        for batch in found {
            let LeftBatch { name, calls, units } = batch;
            shared.not_aggregated.add(calls, units);
            shared.recovered.add(calls, units);
            shared.batches.add(name, Storage::Spool { calls, units });
        }
        if !self.meters.is_empty() {
            runtime.spawn(meter_check::run(
                shared.client.clone(),
                self.meters,
                self.on_wrong_meters,
                gone.clone(),
            ));
        }
        runtime.spawn(worker::run(
            Arc::clone(&shared),
            self.concurrency,
            handles_dropped.clone(),
        ));
        Ok(Recorder {
            shared,
            handles_dropped: Arc::new(handles_dropped.drop_guard()),
            gone,
        })
    }
}
