//! Callers that count while something is killed: one unit after the other, each repeated under its key until it is
//! acknowledged. Beside them, reads and forced runs.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use usage_client::{Error, ForceReport, UsageClient};

use crate::{
    callers::{Call, Calls},
    process::{Process, total_of},
    wait_until, within,
};

/// The accounts that are counted for.
pub(crate) const ACCOUNTS: usize = 3;
const CALLERS: usize = 8;
/// The limit of one attempt: a server that is frozen does not answer.
const ATTEMPT: Duration = Duration::from_secs(3);
/// The limit of one forced run that is watched.
const RUN: Duration = Duration::from_secs(10);
/// A caller begins no more often, so that the calls can be repeated in the end.
const CALL_EVERY: Duration = Duration::from_millis(5);
const REPEAT_AFTER: Duration = Duration::from_millis(20);
const READ_EVERY: Duration = Duration::from_millis(30);
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// What runs beside the callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    /// Nothing.
    Nothing,
    /// Reads, which must show what was acknowledged before, and forced runs.
    ReadsAndRuns,
}

/// The name of an account.
pub(crate) fn account(number: usize) -> String {
    format!("account-{}", number % ACCOUNTS)
}

/// Running callers. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    callers: Vec<JoinHandle<Calls>>,
    others: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: CancellationToken,
    /// No server is left: a call that fails is not repeated.
    over: CancellationToken,
    /// A client of each server.
    clients: Mutex<Vec<UsageClient>>,
    /// Of each account.
    acknowledged: [AtomicI64; ACCOUNTS],
    repeated: AtomicUsize,
    runs: AtomicUsize,
}

impl Load {
    /// Starts callers of these servers.
    pub(crate) fn start(servers: &[&Process], beside: Beside) -> Self {
        let shared = Arc::new(Shared::default());
        *shared.clients() = servers.iter().map(|server| client(server)).collect();
        let callers = (0..CALLERS).map(|caller| tokio::spawn(count(Arc::clone(&shared), caller)));
        let callers = callers.collect();
        let mut others = Vec::new();
        if beside == Beside::ReadsAndRuns {
            others.push(tokio::spawn(read(Arc::clone(&shared))));
            others.push(tokio::spawn(report(Arc::clone(&shared))));
        }
        Self {
            shared,
            callers,
            others,
        }
    }

    /// Calls another process from now on, in the place of one that was killed.
    pub(crate) fn replace(&self, place: usize, server: &Process) {
        self.shared.clients()[place] = client(server);
    }

    /// Waits until more units were acknowledged.
    pub(crate) async fn wait_for_more(&self, units: i64) {
        let before = self.shared.acknowledged();
        wait_until("acknowledged units", || async {
            self.shared.acknowledged() >= before + units
        })
        .await;
    }

    /// Waits until more calls were repeated.
    pub(crate) async fn wait_for_repeats(&self, calls: usize) {
        let repeated = &self.shared.repeated;
        let before = repeated.load(Ordering::SeqCst);
        wait_until("repeated calls", || async {
            repeated.load(Ordering::SeqCst) >= before + calls
        })
        .await;
    }

    /// Ends the callers after their last calls were acknowledged. Returns the calls, and what to say of them.
    pub(crate) async fn stop(mut self) -> (Calls, String) {
        self.shared.stop.cancel();
        let calls = self.ended().await;
        let told = format!(
            "{} units, {} calls repeated, {} forced runs",
            calls.acknowledged.len(),
            self.shared.repeated.load(Ordering::SeqCst),
            self.shared.runs.load(Ordering::SeqCst)
        );
        (calls, told)
    }

    /// Kills the only server under the callers, and returns their calls.
    pub(crate) async fn kill(mut self, server: Process) -> Calls {
        self.shared.over.cancel();
        self.shared.stop.cancel();
        server.kill();
        self.ended().await
    }

    async fn ended(&mut self) -> Calls {
        let mut calls = Calls::default();
        for caller in std::mem::take(&mut self.callers) {
            let of_caller = within("a caller", caller).await.unwrap();
            calls.acknowledged.extend(of_caller.acknowledged);
            calls.unknown.extend(of_caller.unknown);
        }
        for other in std::mem::take(&mut self.others) {
            within("reads and runs", other).await.unwrap();
        }
        calls
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Shared {
    fn clients(&self) -> std::sync::MutexGuard<'_, Vec<UsageClient>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client of one of the servers.
    fn client(&self, number: usize) -> UsageClient {
        let clients = self.clients();
        clients[number % clients.len()].clone()
    }

    /// All that was acknowledged.
    fn acknowledged(&self) -> i64 {
        let all = self.acknowledged.iter();
        all.map(|of_account| of_account.load(Ordering::SeqCst))
            .sum()
    }
}

fn client(server: &Process) -> UsageClient {
    server.client().with_timeout(ATTEMPT)
}

/// Whatever is killed, a caller is told to repeat its call, and nothing else.
#[track_caller]
fn assert_repeatable(error: &Error) {
    assert!(error.is_retryable(), "{error}");
}

async fn count(shared: Arc<Shared>, caller: usize) -> Calls {
    let mut calls = Calls::default();
    let mut pace = interval(CALL_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0.. {
        pace.tick().await;
        if shared.stop.is_cancelled() {
            break;
        }
        let own = (caller + number) % ACCOUNTS;
        let call = Call::new(account(own), format!("{caller}-{number}"));
        let mut attempt = number;
        while let Err(error) = call.send(&shared.client(attempt)).await {
            if shared.over.is_cancelled() {
                calls.unknown.push(call);
                return calls;
            }
            assert_repeatable(&error);
            shared.repeated.fetch_add(1, Ordering::SeqCst);
            // Another server, if there is one.
            attempt += 1;
            sleep(REPEAT_AFTER).await;
        }
        shared.acknowledged[own].fetch_add(1, Ordering::SeqCst);
        calls.acknowledged.push(call);
    }
    calls
}

async fn read(shared: Arc<Shared>) {
    let mut number = 0;
    while !shared.stop.is_cancelled() {
        let before = shared.acknowledged[number % ACCOUNTS].load(Ordering::SeqCst);
        match total_of(&shared.client(number), &account(number)).await {
            Ok(total) => assert!(total >= before, "{total} of {before} acknowledged units"),
            Err(error) => assert_repeatable(&error),
        }
        number += 1;
        sleep(READ_EVERY).await;
    }
}

async fn report(shared: Arc<Shared>) {
    let mut number = 0;
    while !shared.stop.is_cancelled() {
        match shared.client(number).force_report(ForceReport::all()).await {
            // Its stream ends with the server.
            Ok(run) => {
                let ended = timeout(RUN, run.summary()).await;
                let has_ended = matches!(ended, Ok(Ok(_)));
                shared
                    .runs
                    .fetch_add(usize::from(has_ended), Ordering::SeqCst);
            }
            Err(error) => assert_repeatable(&error),
        }
        number += 1;
        sleep(REPORT_EVERY).await;
    }
}
