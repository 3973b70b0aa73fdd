//! The report folding job: writes old finished reports to archives, and replaces them by their sums.
//!
//! A file is on the disk before the transaction that replaces its reports begins. After a crash in between the reports are
//! still there, and the next run writes them to another file; the first one is left over, and `doctor` names it. No run
//! deletes a file that it did not write itself: it may be of another replica, or of another database.

use std::{path::PathBuf, time::Duration};

use super::{
    job::{FirstRun, Job, Next, Spec, Turn},
    steady_clock::SteadyClock,
    wake::Wake,
};
use crate::{
    clock::Clock,
    domain::{
        Millis,
        report_fold::{FinishedReport, fold, may_fold},
    },
    error::{Error, Result},
    metrics,
    report_archive_file::{self, NewArchive},
    store::{
        Store,
        report_folding::{FinishedPage, FoldCursor, FoldResult, NewFold},
    },
};

/// How often the runner checks whether the job is due.
const INTERVAL: Duration = Duration::from_secs(2);
/// The maximum number of steps in one run; each folds the reports of one file at most.
const STEPS_PER_RUN: usize = 2_000;
/// The wait between steps leaves the database to the counting of usage.
const STEP_INTERVAL: Duration = Duration::from_millis(250);

/// Folds reports.
pub(crate) struct ReportFolding {
    store: Store,
    clock: SteadyClock,
    options: FoldOptions,
    /// Where the run that is not complete continues.
    after: Option<FoldCursor>,
    /// The number of its steps.
    steps: usize,
}

/// Which reports are folded, and where they are archived.
#[derive(Clone, Debug)]
pub(crate) struct FoldOptions {
    pub(crate) folder: PathBuf,
    pub(crate) age_ms: Millis,
}

impl ReportFolding {
    pub(crate) fn new(store: Store, clock: Clock, options: FoldOptions) -> Self {
        Self {
            store,
            clock: SteadyClock::new(clock),
            options,
            after: None,
            steps: 0,
        }
    }

    /// Archives and folds some reports. Nothing is folded if one of them changed meanwhile; they are found again.
    async fn fold_page(&self, page: Vec<FinishedReport>, now: Millis) -> Result<()> {
        let context = self.store.fold_context(&page).await?;
        let fold = fold(&page, &context);
        let database = self.store.sending().await?.database_id;
        let folder = self.options.folder.clone();
        let write = move || {
            let archive = NewArchive {
                database,
                reports: &page,
                fold: &fold,
                now,
            };
            let written = report_archive_file::write(&folder, &archive);
            let written = written.map_err(|error| archive_error(&folder, &error));
            written.map(|file| (page, fold, file))
        };
        let written = tokio::task::spawn_blocking(write).await;
        let (page, fold, file) = written.map_err(|error| Error::Internal(error.into()))??;
        let new = NewFold {
            reports: &page,
            fold: &fold,
            file: &file,
        };
        // If the answer to the COMMIT is lost, the file may be recorded: it stays.
        let failed = match self.store.fold_reports(&new, now).await? {
            FoldResult::Folded => {
                record(&new);
                return Ok(());
            }
            FoldResult::Changed => None,
            FoldResult::Failed(error) => Some(error),
        };
        let path = report_archive_file::path_of(&self.options.folder, &file);
        let removed = tokio::fs::remove_file(&path).await;
        if let Some(error) = failed {
            return Err(error);
        }
        tracing::info!(
            file = file.name,
            "reports changed while they were archived; they are not folded now"
        );
        removed.map_err(|error| archive_error(&self.options.folder, &error))
    }
}

fn record(new: &NewFold<'_>) {
    metrics::reports_folded(new.reports.len());
    tracing::info!(
        file = new.file.name,
        sha256 = new.file.sha256,
        reports = new.reports.len(),
        rows = new.fold.rows.len(),
        "old reports were archived and folded"
    );
}

fn archive_error(folder: &std::path::Path, error: &std::io::Error) -> Error {
    let folder = folder.display();
    Error::Internal(format!("cannot write to the folder of archives {folder}: {error}").into())
}

impl Job for ReportFolding {
    fn spec(&self) -> Spec {
        Spec {
            name: "report folding",
            interval: INTERVAL,
            turn: Turn::Recorded {
                first: FirstRun::WhenDue,
            },
            wake: Wake::default(),
        }
    }

    fn is_due(&self, last_run_at: Millis, now: Millis) -> bool {
        // A clock that is a year ahead would fold nearly everything.
        self.clock.is_due(last_run_at, now)
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        if self.store.sending().await?.is_restoring() {
            return Ok(Next::Wait);
        }
        let before = now.saturating_sub(self.options.age_ms);
        let page = self.store.finished_reports(self.after.as_ref(), before);
        let FinishedPage { mut reports, next } = page.await?;
        reports.retain(|report| may_fold(report, self.options.age_ms, now));
        if !reports.is_empty() {
            self.fold_page(reports, now).await?;
        }
        self.after = next;
        self.steps = self.steps.saturating_add(1);
        if self.after.is_some() && self.steps < STEPS_PER_RUN {
            return Ok(Next::ContinueAfter(STEP_INTERVAL));
        }
        (self.after, self.steps) = (None, 0);
        Ok(Next::Wait)
    }
}
