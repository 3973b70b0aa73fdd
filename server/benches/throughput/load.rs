//! The load: callers that send one call after the other with the client, and what they measure.
//!
//! It does not depend on the server at the endpoint, so every column of the table gets the same load.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::runtime::Runtime;
use usage_client::{Batch, Increment, IncrementResult, UsageClient};
use uuid::Uuid;

/// Accounts that the usage is spread over.
const ACCOUNTS: u64 = 1_000;
/// How long the load runs before measuring, to open connections, fill caches and prepare statements.
const WARM_UP: Duration = Duration::from_millis(500);
/// Concurrent batches.
const BATCHES_IN_FLIGHT: usize = 8;
/// The highest recorded latency in microseconds. The client's deadline is shorter.
const MAX_LATENCY_US: u64 = 60_000_000;

/// The kind of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Single increments, each with a key; the number is how many are concurrent.
    Unary(usize),
    /// Batches of 1,000 increments, each with a key.
    BatchOfKeys,
    /// Batches of 1,000 increments with one key for the batch.
    Batch,
}

impl Work {
    /// The rows of the table.
    pub(crate) const ALL: [Self; 4] = [
        Self::Unary(1),
        Self::Unary(128),
        Self::BatchOfKeys,
        Self::Batch,
    ];

    /// Its name in the table.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Unary(in_flight) => format!("unary-{in_flight}"),
            Self::BatchOfKeys => format!("batch-{}-keys", Batch::MAX_LEN),
            Self::Batch => format!("batch-{}", Batch::MAX_LEN),
        }
    }

    /// Whether one transaction a call is a useful comparison. A batch is one transaction in any implementation.
    pub(crate) fn has_naive(self) -> bool {
        matches!(self, Self::Unary(_))
    }

    fn in_flight(self) -> usize {
        match self {
            Self::Unary(in_flight) => in_flight,
            Self::BatchOfKeys | Self::Batch => BATCHES_IN_FLIGHT,
        }
    }
}

/// The load of a cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) work: Work,
    pub(crate) connections: usize,
    pub(crate) duration: Duration,
}

/// What the callers of a cell measured.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// Acknowledged increments a second while measuring.
    pub(crate) per_sec: u64,
    /// All acknowledged increments, also before and after measuring.
    pub(crate) acknowledged: u64,
    /// Latencies of the measured calls, in microseconds.
    pub(crate) latencies: Histogram<u64>,
}

/// The measurements of one caller.
struct CallerResult {
    measured: u64,
    acknowledged: u64,
    latencies: Histogram<u64>,
}

impl Load {
    /// Loads the server at an endpoint, from a separate runtime.
    pub(crate) fn run(self, endpoint: &str) -> Measured {
        let runtime = Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let mut clients = Vec::new();
            for _ in 0..self.connections.max(1) {
                clients.push(UsageClient::connect(endpoint).await.expect("a connection"));
            }
            let begin = Instant::now() + WARM_UP;
            let callers: Vec<_> = clients
                .iter()
                .cycle()
                .take(self.work.in_flight())
                .zip(1..)
                .map(|(client, seed)| tokio::spawn(self.call(client.clone(), begin, seed)))
                .collect();
            let mut latencies = histogram();
            let (mut measured, mut acknowledged) = (0, 0);
            for caller in callers {
                let result = caller.await.expect("no panic in a caller");
                latencies
                    .add(result.latencies)
                    .expect("histograms of one kind");
                measured += result.measured;
                acknowledged += result.acknowledged;
            }
            let per_sec = (measured as f64 / self.duration.as_secs_f64()).round() as u64;
            Measured {
                per_sec,
                acknowledged,
                latencies,
            }
        })
    }

    /// One caller: the next call starts when the last one is answered.
    async fn call(self, client: UsageClient, begin: Instant, seed: u64) -> CallerResult {
        let end = begin + self.duration;
        let mut accounts = Accounts(seed);
        let mut result = CallerResult {
            measured: 0,
            acknowledged: 0,
            latencies: histogram(),
        };
        loop {
            let request = self.work.request(&mut accounts);
            let sent = Instant::now();
            if sent >= end {
                return result;
            }
            let counted = request.send(&client).await;
            let answered = Instant::now();
            result.acknowledged += counted;
            if (begin..end).contains(&answered) {
                result.measured += counted;
                let micros = u64::try_from((answered - sent).as_micros()).unwrap_or(u64::MAX);
                result.latencies.saturating_record(micros);
            }
        }
    }
}

/// One call, prepared before its latency is measured.
enum Call {
    Unary(Increment),
    Batch(Batch),
}

impl Work {
    fn request(self, accounts: &mut Accounts) -> Call {
        let mut increments =
            std::iter::repeat_with(|| Increment::new(accounts.next())).take(Batch::MAX_LEN);
        match self {
            Self::Unary(_) => Call::Unary(increments.next().expect("the first of them")),
            Self::BatchOfKeys => {
                let keyed = increments.map(|item| item.key(Uuid::now_v7().to_string()));
                Call::Batch(keyed.collect::<Batch>().without_key())
            }
            Self::Batch => Call::Batch(increments.collect()),
        }
    }
}

impl Call {
    /// Sends the call; returns the number of acknowledged increments, which must be all.
    async fn send(self, client: &UsageClient) -> u64 {
        match self {
            Self::Unary(increment) => {
                let counted = client
                    .increment(increment)
                    .await
                    .expect("an increment that counts");
                assert!(!counted.duplicate, "a new key was answered as a duplicate");
                1
            }
            Self::Batch(batch) => {
                let answer = client
                    .increment_batch(batch)
                    .await
                    .expect("a batch that counts");
                assert!(
                    answer
                        .results
                        .iter()
                        .all(|result| *result == IncrementResult::Counted)
                );
                u64::try_from(answer.results.len()).expect("a thousand")
            }
        }
    }
}

/// Accounts in a pseudo-random order that is the same in every run: splitmix64.
struct Accounts(u64);

impl Accounts {
    fn next(&mut self) -> String {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        format!("account-{:04}", (mixed ^ (mixed >> 31)) % ACCOUNTS)
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(MAX_LATENCY_US, 3).expect("valid bounds")
}
