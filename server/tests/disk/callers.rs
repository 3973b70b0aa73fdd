//! Callers that count with keys until they are stopped, and repeat what is refused under the same key.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use usage_client::{Error, Increment, Reason, UsageClient};

use crate::{process::Process, wait_until, within};

const CALLERS: usize = 4;
const ACCOUNTS: usize = 3;
/// The calls that are repeated at a time.
const REPEATED: usize = 64;
/// The pause of a caller after a refusal.
const REPEAT_AFTER: Duration = Duration::from_millis(20);

/// One increment of one unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    account: String,
    key: String,
}

impl Call {
    pub(crate) fn new(account: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            account: account.into(),
            key: key.into(),
        }
    }

    /// Sends it. Whether it is a duplicate.
    pub(crate) async fn send(&self, client: &UsageClient) -> Result<bool, Error> {
        let increment = Increment::new(&self.account).key(&self.key);
        client
            .increment(increment)
            .await
            .map(|counted| counted.duplicate)
    }
}

/// Calls, and whether each was acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) acknowledged: Vec<Call>,
    pub(crate) unknown: Vec<Call>,
}

impl Calls {
    fn extend(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.unknown.extend(other.unknown);
    }

    /// Repeats all calls on a server. Those that were acknowledged are duplicates, and each counts once.
    pub(crate) async fn repeat(&self, process: &Process, when: &str) {
        let client = process.client();
        let calls = self.acknowledged.iter();
        let mut repeated = stream::iter(calls.map(|call| repeat(call, &client))).buffered(REPEATED);
        while let Some((call, is_duplicate)) = repeated.next().await {
            assert!(is_duplicate, "{when}: {call:?} was lost");
        }
        for call in &self.unknown {
            repeat(call, &client).await;
        }
        let all = || self.acknowledged.iter().chain(&self.unknown);
        let mut accounts: Vec<&str> = all().map(|call| call.account.as_str()).collect();
        accounts.sort_unstable();
        accounts.dedup();
        for account in accounts {
            let calls = all().filter(|call| call.account == account).count();
            let total = process.total(account).await;
            assert_eq!(usize::try_from(total), Ok(calls), "{when}: {account}");
        }
    }
}

/// Sends a call again. Whether it is a duplicate.
async fn repeat<'a>(call: &'a Call, client: &UsageClient) -> (&'a Call, bool) {
    let repeated = within("a repeated call", call.send(client)).await;
    (call, repeated.unwrap())
}

/// Asserts that a refusal tells its caller to repeat the call.
pub(crate) fn assert_retryable(error: &Error) {
    let reason = error.reason();
    assert_eq!(reason, Some(&Reason::DatabaseUnavailable), "{error}");
    assert!(error.is_retryable(), "{error}");
}

/// Running callers.
pub(crate) struct Callers {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<Calls>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    acknowledged: AtomicUsize,
    refused: AtomicUsize,
}

impl Callers {
    pub(crate) fn start(client: &UsageClient) -> Self {
        let stop = CancellationToken::new();
        let counts = Arc::<Counts>::default();
        let tasks = (0..CALLERS)
            .map(|caller| {
                let work = call_until(stop.clone(), client.clone(), Arc::clone(&counts), caller);
                tokio::spawn(work)
            })
            .collect();
        Self {
            stop,
            tasks,
            counts,
        }
    }

    /// Waits until more calls were acknowledged.
    pub(crate) async fn wait_for_more(&self, calls: usize) {
        wait_for_more(&self.counts.acknowledged, calls, "acknowledged calls").await;
    }

    /// Waits until more calls were refused.
    pub(crate) async fn wait_for_refusals(&self, calls: usize) {
        wait_for_more(&self.counts.refused, calls, "refused calls").await;
    }

    /// Kills the server under the callers, and returns their calls.
    pub(crate) async fn kill(self, process: Process) -> Calls {
        // What fails from here on may fail because of the kill.
        self.stop.cancel();
        process.kill();
        let mut calls = Calls::default();
        for task in self.tasks {
            calls.extend(within("a caller", task).await.unwrap());
        }
        assert!(!calls.acknowledged.is_empty());
        calls
    }
}

async fn wait_for_more(counter: &AtomicUsize, calls: usize, what: &str) {
    let before = counter.load(Ordering::SeqCst);
    wait_until(what, || async {
        counter.load(Ordering::SeqCst) >= before + calls
    })
    .await;
}

async fn call_until(
    stop: CancellationToken,
    client: UsageClient,
    counts: Arc<Counts>,
    caller: usize,
) -> Calls {
    let mut calls = Calls::default();
    for number in 0.. {
        let account = format!("account-{}", (caller + number) % ACCOUNTS);
        let call = Call::new(account, format!("{caller}-{number}"));
        loop {
            let answer = call.send(&client).await;
            match answer {
                Ok(_) => break,
                Err(_) if stop.is_cancelled() => {
                    calls.unknown.push(call);
                    return calls;
                }
                Err(error) => assert_retryable(&error),
            }
            counts.refused.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(REPEAT_AFTER).await;
        }
        counts.acknowledged.fetch_add(1, Ordering::SeqCst);
        calls.acknowledged.push(call);
        if stop.is_cancelled() {
            break;
        }
    }
    calls
}
