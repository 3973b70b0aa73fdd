//! Increments that go on while something else is measured.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::{runtime::Runtime, task::JoinSet};
use tokio_util::sync::CancellationToken;
use usage_client::UsageClient;

use crate::load::{Accounts, WARM_UP, Work};

/// Connections that the calls are spread over.
const CONNECTIONS: usize = 4;

/// Calls that a limited load may make at once.
const BURST: NonZeroU32 = NonZeroU32::new(128).unwrap();

/// Runs a load in a runtime of its own.
pub(crate) fn run<T>(load: impl Future<Output = T>) -> T {
    Runtime::new().expect("a runtime").block_on(load)
}

/// Callers that count until they are stopped.
pub(crate) struct Background {
    counted: Arc<AtomicU64>,
    stop: CancellationToken,
    callers: JoinSet<()>,
}

impl Background {
    /// Starts the callers of a kind of calls, all together at most at a rate, and waits until they are warm.
    pub(crate) async fn start(endpoint: &str, work: Work, per_sec: Option<NonZeroU32>) -> Self {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(UsageClient::connect(endpoint).await.expect("a connection"));
        }
        let (counted, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        // A burst of a whole second would hide what a short measurement costs.
        let limit = per_sec.map(|rate| {
            let quota = Quota::per_second(rate).allow_burst(BURST.min(rate));
            Arc::new(RateLimiter::direct(quota))
        });
        let mut callers = JoinSet::new();
        for (client, seed) in clients.iter().cycle().take(work.in_flight()).zip(1..) {
            let caller = Caller {
                client: client.clone(),
                work,
                seed,
                limit: limit.clone(),
                counted: Arc::clone(&counted),
                stop: stop.clone(),
            };
            callers.spawn(caller.count());
        }
        tokio::time::sleep(WARM_UP).await;
        Self {
            counted,
            stop,
            callers,
        }
    }

    /// The increments a second while something is done, and its result.
    pub(crate) async fn rate_during<T>(&self, done: impl Future<Output = T>) -> (f64, T) {
        let (before, started) = (self.counted.load(Ordering::Relaxed), Instant::now());
        let result = done.await;
        let counted = self.counted.load(Ordering::Relaxed) - before;
        (counted as f64 / started.elapsed().as_secs_f64(), result)
    }

    /// The increments a second during some time.
    pub(crate) async fn rate(&self, duration: Duration) -> f64 {
        self.rate_during(tokio::time::sleep(duration)).await.0
    }

    /// Stops the callers. Returns the number of acknowledged increments.
    pub(crate) async fn stop(self) -> u64 {
        self.stop.cancel();
        self.callers.join_all().await;
        self.counted.load(Ordering::Relaxed)
    }
}

struct Caller {
    client: UsageClient,
    work: Work,
    seed: u64,
    limit: Option<Arc<DefaultDirectRateLimiter>>,
    counted: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Caller {
    async fn count(self) {
        let mut accounts = Accounts::new(self.seed, self.work.accounts());
        while !self.stop.is_cancelled() {
            if let Some(limit) = &self.limit {
                limit.until_ready().await;
            }
            let counted = self.work.request(&mut accounts).send(&self.client).await;
            self.counted.fetch_add(counted, Ordering::Relaxed);
        }
    }
}
