//! The watchers of a run: callers that read its events to the last one.

use tokio::task::JoinSet;
use usage_client::{ForceReport, ReportEvent, ReportRun, ReportSummary, UsageClient};

use crate::usage::Usage;

/// The running watchers of one run.
pub(crate) struct Watchers {
    reading: JoinSet<(ReportSummary, u64)>,
}

impl Watchers {
    /// Begins a run over everything. The first watcher is its caller, if there is one; the others join.
    pub(crate) async fn start(client: &UsageClient, number: usize) -> Self {
        let mut reading = JoinSet::new();
        let run = force_report(client, ForceReport::all()).await;
        let id = run.run_id().expect("the run's id").to_owned();
        let mut runs = Vec::new();
        if number > 0 {
            runs.push(run);
        } else {
            // The run goes on without its caller.
            drop(run);
        }
        for _ in 1..number {
            runs.push(force_report(client, ForceReport::watch(&id)).await);
        }
        for run in runs {
            reading.spawn(read(run));
        }
        Self { reading }
    }

    /// Waits for every watcher's summary, which must be complete. Returns how many times they were told of progress.
    pub(crate) async fn finish(mut self, usage: &Usage) -> u64 {
        let mut updates = 0;
        while let Some(read) = self.reading.join_next().await {
            let (summary, progress) = read.expect("no panic in a watcher");
            let accepted = (summary.accepted.reports, summary.accepted.quantity);
            let reports = i64::try_from(usage.reports()).expect("a number of reports");
            assert_eq!(accepted, (reports, usage.total()), "{summary:?}");
            assert_eq!(summary.closed, summary.accepted, "{summary:?}");
            assert!(progress > 0, "a watcher was not told of any progress");
            updates += progress;
        }
        updates
    }
}

async fn force_report(client: &UsageClient, scope: ForceReport) -> ReportRun {
    client.force_report(scope).await.expect("a run")
}

/// Reads a run's events; returns its summary and the number of events about its progress.
async fn read(mut run: ReportRun) -> (ReportSummary, u64) {
    let mut progress = 0;
    while let Some(event) = run.next().await.expect("an event") {
        match event {
            ReportEvent::Progress(_) => progress += 1,
            ReportEvent::Summary(summary) => return (summary, progress),
            _ => {}
        }
    }
    panic!("the run ended without a summary");
}
