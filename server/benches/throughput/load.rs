//! The load: callers that send one call after the other with the client, and what they measure.
//!
//! It does not depend on the server at the endpoint, so every column of the table gets the same load.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::runtime::Runtime;
use usage_client::{Batch, Increment, IncrementResult, UsageClient};
use uuid::Uuid;

/// Accounts that the usage is spread over, unless a row says otherwise.
pub(crate) const ACCOUNTS: u64 = 1_000;
/// The accounts of the rows that show how cost grows with their number.
pub(crate) const MANY_ACCOUNTS: u64 = 1_000_000;
/// How long the load runs before measuring, to open connections, fill caches and prepare statements.
pub(crate) const WARM_UP: Duration = Duration::from_millis(500);
/// Concurrent batches.
const BATCHES_IN_FLIGHT: usize = 8;
/// The highest recorded latency in microseconds. The client's deadline is shorter.
const MAX_LATENCY_US: u64 = 60_000_000;

/// The keys of the increments of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// `UUIDv7`: each is greater than the one before.
    Ordered,
    /// `UUIDv4`.
    Random,
}

/// The kind of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Single increments, each with a key.
    Unary {
        /// How many are concurrent.
        in_flight: usize,
        /// The number of accounts.
        accounts: u64,
    },
    /// Batches of 1,000 increments, each with a key.
    BatchOfKeys {
        /// What the keys are.
        keys: Keys,
        /// The number of accounts.
        accounts: u64,
    },
    /// Batches of 1,000 increments with one key for the batch.
    Batch,
}

impl Work {
    /// The rows of the table.
    pub(crate) const ALL: [Self; 8] = [
        Self::unary(1, ACCOUNTS),
        Self::unary(128, ACCOUNTS),
        Self::unary(128, 1),
        Self::unary(128, MANY_ACCOUNTS),
        Self::keyed(Keys::Ordered, ACCOUNTS),
        Self::keyed(Keys::Random, ACCOUNTS),
        Self::keyed(Keys::Ordered, MANY_ACCOUNTS),
        Self::Batch,
    ];

    pub(crate) const fn unary(in_flight: usize, accounts: u64) -> Self {
        Self::Unary {
            in_flight,
            accounts,
        }
    }

    pub(crate) const fn keyed(keys: Keys, accounts: u64) -> Self {
        Self::BatchOfKeys { keys, accounts }
    }

    /// Its name in the table.
    pub(crate) fn name(self) -> String {
        let name = match self {
            Self::Unary { in_flight, .. } => format!("unary-{in_flight}"),
            Self::BatchOfKeys { keys, .. } => {
                let kind = match keys {
                    Keys::Ordered => "keys",
                    Keys::Random => "random-keys",
                };
                format!("batch-{}-{kind}", Batch::MAX_LEN)
            }
            Self::Batch => format!("batch-{}", Batch::MAX_LEN),
        };
        match self.accounts() {
            ACCOUNTS => name,
            accounts => format!("{name}-of-{accounts}"),
        }
    }

    /// The number of accounts.
    pub(crate) fn accounts(self) -> u64 {
        match self {
            Self::Unary { accounts, .. } | Self::BatchOfKeys { accounts, .. } => accounts,
            Self::Batch => ACCOUNTS,
        }
    }

    /// Whether one transaction a call is a useful comparison. A batch is one transaction in any implementation.
    pub(crate) fn has_naive(self) -> bool {
        matches!(self, Self::Unary { .. }) && self.accounts() == ACCOUNTS
    }

    /// The work that costs as much for a server that does nothing: neither accounts nor keys matter to it.
    pub(crate) fn for_nothing(self) -> Self {
        match self {
            Self::Unary { in_flight, .. } => Self::unary(in_flight, ACCOUNTS),
            Self::BatchOfKeys { .. } => Self::keyed(Keys::Ordered, ACCOUNTS),
            Self::Batch => Self::Batch,
        }
    }

    pub(crate) fn in_flight(self) -> usize {
        match self {
            Self::Unary { in_flight, .. } => in_flight,
            Self::BatchOfKeys { .. } | Self::Batch => BATCHES_IN_FLIGHT,
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
        self.run_with_key(endpoint, None)
    }

    /// The same with an API key.
    pub(crate) fn run_with_key(self, endpoint: &str, key: Option<&str>) -> Measured {
        let runtime = Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let mut clients = Vec::new();
            for _ in 0..self.connections.max(1) {
                let builder = UsageClient::builder(endpoint);
                let builder = match key {
                    Some(key) => builder.api_key(key),
                    None => builder,
                };
                clients.push(builder.connect().await.expect("a connection"));
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
        let mut accounts = Accounts::new(seed, self.work.accounts());
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
pub(crate) enum Call {
    Unary(Increment),
    Batch(Batch),
}

impl Work {
    pub(crate) fn request(self, accounts: &mut Accounts) -> Call {
        let mut increments =
            std::iter::repeat_with(|| Increment::new(accounts.next())).take(Batch::MAX_LEN);
        match self {
            Self::Unary { .. } => Call::Unary(increments.next().expect("the first of them")),
            Self::BatchOfKeys { keys, .. } => {
                let key = match keys {
                    Keys::Ordered => Uuid::now_v7,
                    Keys::Random => Uuid::new_v4,
                };
                let keyed = increments.map(|item| item.key(key().to_string()));
                Call::Batch(keyed.collect::<Batch>().without_key())
            }
            Self::Batch => Call::Batch(increments.collect()),
        }
    }
}

impl Call {
    /// Sends the call; returns the number of acknowledged increments, which must be all.
    pub(crate) async fn send(self, client: &UsageClient) -> u64 {
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
pub(crate) struct Accounts {
    state: u64,
    number: u64,
}

impl Accounts {
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        Self {
            state: seed,
            number,
        }
    }

    pub(crate) fn next(&mut self) -> String {
        account(self.number())
    }

    /// The number of the next one.
    pub(crate) fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % self.number
    }
}

/// The name of an account.
pub(crate) fn account(number: u64) -> String {
    format!("account-{number:07}")
}

pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(MAX_LATENCY_US, 3).expect("valid bounds")
}
