//! Tests of the runner, with jobs that report each of their runs.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Runner;
use crate::{
    clock::Clock,
    domain::{HOUR_MS, Millis},
    error::{Error, Result},
    store::Store,
    workers::{
        job::{FirstRun, Job, Next, Spec, Turn},
        wake::Wake,
    },
};

const NOW: Millis = 1_800_000_000_000;
/// Longer than any test takes.
const NEVER: Duration = Duration::from_mins(10);
const SOON: Duration = Duration::from_millis(5);

type Action = Box<dyn FnMut(usize) -> Result<Next> + Send + Sync>;

/// A job that reports its runs, and returns the given results.
struct Probe {
    spec: Spec,
    runs: mpsc::UnboundedSender<Millis>,
    number: usize,
    action: Action,
    /// The first run waits for it.
    gate: Option<oneshot::Receiver<()>>,
}

impl Job for Probe {
    fn spec(&self) -> Spec {
        self.spec.clone()
    }

    fn is_due(&self, last_run_at: Millis, now: Millis) -> bool {
        now - last_run_at >= HOUR_MS
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        self.number += 1;
        self.runs.send(now).unwrap();
        if let Some(gate) = self.gate.take() {
            let _ = gate.await;
        }
        (self.action)(self.number)
    }
}

/// A probe and the runs that it reports.
fn probe(interval: Duration, turn: Turn) -> (Probe, mpsc::UnboundedReceiver<Millis>) {
    let (runs, reported) = mpsc::unbounded_channel();
    let spec = Spec {
        name: "probe",
        interval,
        turn,
        wake: Wake::default(),
    };
    let probe = Probe {
        spec,
        runs,
        number: 0,
        action: Box::new(|_| Ok(Next::Wait)),
        gate: None,
    };
    (probe, reported)
}

/// A separate database, and replicas that use it.
struct World {
    _folder: tempfile::TempDir,
    store: Store,
    clock: Clock,
    shutdown: CancellationToken,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("usage.db").display());
        let clock = Clock::manual(NOW);
        let store = Store::open(&url, 1)
            .await
            .unwrap()
            .with_clock(clock.clone());
        store.migrate().await.unwrap();
        Self {
            _folder: folder,
            store,
            clock,
            shutdown: CancellationToken::new(),
        }
    }

    fn replica(&self, name: &str) -> Runner {
        Runner::new(self.store.clone(), name.to_owned(), self.shutdown.clone())
    }

    async fn stop(&self, runner: &mut Runner) {
        self.shutdown.cancel();
        within(runner.stop(NEVER)).await;
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("it takes too long")
}

const RECORDED: Turn = Turn::Recorded {
    first: FirstRun::WhenDue,
};
const ONE_REPLICA: Turn = Turn::OneReplica;

#[tokio::test]
async fn a_job_without_database_runs_while_the_database_does_not_respond() {
    let world = World::new().await;
    world.store.clone().close().await.unwrap();
    let mut runner = world.replica("one");
    let (job, mut runs) = probe(SOON, Turn::WithoutDatabase);
    let _ = runner.start(job).await;
    for _ in 0..3 {
        assert_eq!(within(runs.recv()).await, Some(NOW));
    }
    world.shutdown.cancel();
}

#[tokio::test]
async fn a_panic_of_a_job_is_an_error_that_names_it() {
    let world = World::new().await;
    let mut runner = world.replica("one");
    let (mut job, _runs) = probe(NEVER, Turn::EveryReplica);
    job.action = Box::new(|_| panic!("no such thing"));
    let _ = runner.start(job).await;
    let error = within(runner.watch()).await.to_string();
    assert_eq!(error, "background job \"probe\" panicked: no such thing");
    world.stop(&mut runner).await;
}

#[tokio::test]
async fn a_driver_that_ends_before_the_shutdown_is_an_error() {
    let world = World::new().await;
    let mut runner = world.replica("one");
    let task = runner.drivers.spawn(async {});
    runner.names.insert(task.id(), "probe");
    let error = within(runner.watch()).await.to_string();
    assert_eq!(error, "background job \"probe\" ended");
}

#[tokio::test]
async fn a_wake_up_during_a_run_makes_the_job_run_again() {
    let world = World::new().await;
    let mut runner = world.replica("one");
    let (mut job, mut runs) = probe(NEVER, Turn::EveryReplica);
    let (open, gate) = oneshot::channel();
    job.gate = Some(gate);
    let wake = job.spec.wake.clone();
    let first_check = runner.start(job);
    within(runs.recv()).await.unwrap();
    wake.wake();
    wake.wake();
    open.send(()).unwrap();
    within(first_check).await.unwrap();
    within(runs.recv()).await.unwrap();
    world.stop(&mut runner).await;
    assert!(runs.try_recv().is_err(), "two wake-ups make one run");
}

#[tokio::test]
async fn a_failing_job_runs_again_after_a_backoff_and_its_success_ends_it() {
    let world = World::new().await;
    let mut runner = world.replica("one");
    let (mut job, mut runs) = probe(SOON, Turn::EveryReplica);
    job.action = Box::new(|number| {
        if number < 4 {
            Err(Error::Internal("not yet".into()))
        } else {
            Ok(Next::Wait)
        }
    });
    drop(runner.start(job));
    for _ in 0..5 {
        within(runs.recv()).await.unwrap();
    }
    world.stop(&mut runner).await;
}

#[tokio::test]
async fn a_run_that_does_not_end_is_dropped_at_the_shutdown() {
    let world = World::new().await;
    let mut runner = world.replica("one");
    let (mut job, mut runs) = probe(NEVER, ONE_REPLICA);
    let (_never, gate) = oneshot::channel();
    job.gate = Some(gate);
    drop(runner.start(job));
    within(runs.recv()).await.unwrap();
    world.shutdown.cancel();
    within(runner.stop(SOON)).await;
    assert!(runner.drivers.is_empty());
}

#[tokio::test]
async fn one_of_two_replicas_runs_a_job_until_it_stops() {
    let world = World::new().await;
    let (mut one, mut two) = (world.replica("one"), world.replica("two"));
    two.shutdown = CancellationToken::new();
    let (job, mut runs_of_one) = probe(SOON, ONE_REPLICA);
    let _ = one.start(job).await;
    let (job, mut runs_of_two) = probe(SOON, ONE_REPLICA);
    let _ = two.start(job).await;
    for _ in 0..3 {
        within(runs_of_one.recv()).await.unwrap();
    }
    assert!(runs_of_two.try_recv().is_err());
    world.stop(&mut one).await;
    within(runs_of_two.recv()).await.unwrap();
    two.shutdown.cancel();
    within(two.stop(NEVER)).await;
}

#[tokio::test]
async fn a_recorded_job_runs_when_it_is_due_by_the_clock_of_the_database() {
    let world = World::new().await;
    let mut runner = world.replica("one");
    let (job, mut runs) = probe(SOON, RECORDED);
    let _ = runner.start(job).await;
    assert!(runs.try_recv().is_err(), "the first check is no run");
    world.clock.step(-24 * HOUR_MS);
    world.clock.advance(HOUR_MS);
    assert_eq!(within(runs.recv()).await, Some(NOW + HOUR_MS));
    world.stop(&mut runner).await;
    assert!(runs.try_recv().is_err(), "it runs once");
}

#[tokio::test]
async fn a_last_run_ahead_of_the_clock_is_due_once() {
    let world = World::new().await;
    let mut runner = world.replica("one");
    let (job, mut runs) = probe(SOON, RECORDED);
    let _ = runner.start(job).await;
    world.clock.set(NOW - 24 * HOUR_MS);
    assert_eq!(within(runs.recv()).await, Some(NOW - 24 * HOUR_MS));
    world.stop(&mut runner).await;
    assert!(runs.try_recv().is_err(), "then it waits for its hour");
    let stored = world.store.find_lease("probe").await.unwrap().unwrap();
    assert_eq!(stored.last_run_at, Some(NOW - 24 * HOUR_MS));
}
