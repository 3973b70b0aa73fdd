//! The load: callers that each send one call after the other through the shipped client, and what they saw.
//!
//! It knows nothing of the server behind the endpoint, so that every column of the table is loaded alike.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::runtime::Runtime;
use usage_client::{Batch, Increment, IncrementResult, UsageClient};
use uuid::Uuid;

/// How many accounts the usage is spread over.
const ACCOUNTS: u64 = 1_000;
/// How long the server runs before anything is measured: connections, caches, prepared statements.
const WARM_UP: Duration = Duration::from_millis(500);
/// Batches under way at once.
const BATCHES_IN_FLIGHT: usize = 8;
/// The longest latency that is told apart, in microseconds: the client's own deadline is shorter.
const LONGEST_US: u64 = 60_000_000;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Single increments, each with a key, so many under way at once.
    Unary(usize),
    /// Batches of 1,000 increments with a key each.
    BatchOfKeys,
    /// Batches of 1,000 increments that share the batch's key.
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

    /// Whether one transaction a call says anything: a batch is one transaction for everybody.
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

/// How a cell is loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) work: Work,
    pub(crate) connections: usize,
    pub(crate) duration: Duration,
}

/// What the callers of a cell saw.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// Increments that were acknowledged while it was measured, a second.
    pub(crate) per_sec: u64,
    /// Every increment that was ever acknowledged, also while warming up and when winding down.
    pub(crate) acknowledged: u64,
    /// How long the measured calls took, in microseconds.
    pub(crate) latencies: Histogram<u64>,
}

/// One caller's share of it.
struct Seen {
    measured: u64,
    acknowledged: u64,
    latencies: Histogram<u64>,
}

impl Load {
    /// Loads the server at an endpoint, from threads of its own.
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
                let seen = caller.await.expect("no panic in a caller");
                latencies
                    .add(seen.latencies)
                    .expect("histograms of one kind");
                measured += seen.measured;
                acknowledged += seen.acknowledged;
            }
            let per_sec = (measured as f64 / self.duration.as_secs_f64()).round() as u64;
            Measured {
                per_sec,
                acknowledged,
                latencies,
            }
        })
    }

    /// One caller: the next call begins when the last one was answered.
    async fn call(self, client: UsageClient, begin: Instant, seed: u64) -> Seen {
        let end = begin + self.duration;
        let mut accounts = Accounts(seed);
        let mut share = Seen {
            measured: 0,
            acknowledged: 0,
            latencies: histogram(),
        };
        loop {
            let request = self.work.request(&mut accounts);
            let sent = Instant::now();
            if sent >= end {
                return share;
            }
            let counted = request.send(&client).await;
            let answered = Instant::now();
            share.acknowledged += counted;
            if (begin..end).contains(&answered) {
                share.measured += counted;
                let micros = u64::try_from((answered - sent).as_micros()).unwrap_or(u64::MAX);
                share.latencies.saturating_record(micros);
            }
        }
    }
}

/// One call, ready to be sent: what it takes to make it up is not the server's latency.
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
    /// Sends it; how many increments were acknowledged, which must be all of them.
    async fn send(self, client: &UsageClient) -> u64 {
        match self {
            Self::Unary(increment) => {
                let counted = client
                    .increment(increment)
                    .await
                    .expect("an increment that counts");
                assert!(
                    !counted.duplicate,
                    "a fresh key was taken for a repeated one"
                );
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

/// Accounts in an order that looks random and is the same in every run: splitmix64.
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
    Histogram::new_with_max(LONGEST_US, 3).expect("valid bounds")
}
