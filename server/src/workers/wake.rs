//! Signals by which jobs and calls wake each other.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// Wakes one job before its interval has passed. A wake-up while the job runs makes it run again.
///
/// Only the runner waits for it. With one waiter, `notify_one` stores a wake-up that arrives while the runner does not
/// wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wake(Arc<Notify>);

impl Wake {
    /// Wakes the job.
    pub(crate) fn wake(&self) {
        self.0.notify_one();
    }

    /// Waits for a wake-up since the last call.
    pub(super) async fn woken(&self) {
        self.0.notified().await;
    }
}

/// A request for a job that stays until the job takes it.
#[derive(Debug, Default)]
pub(crate) struct Request(AtomicBool);

impl Request {
    pub(super) fn make(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_made(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

/// All signals of this replica. They only make work start sooner: the work itself is in the database.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// The report schedule may be due.
    pub(crate) schedule: Wake,
    /// A run was begun.
    pub(crate) close: Wake,
    /// Reports were closed or became sendable.
    pub(crate) send: Wake,
    /// A webhook was stored.
    pub(crate) webhook: Wake,
    /// A subscription change was begun.
    pub(crate) change: Wake,
    /// Stripe reported that it dropped meter events.
    pub(crate) verify: Wake,
    /// Verification was requested before its hourly run.
    pub(super) verify_request: Request,
    /// An admin forced a report run: the cause of the sender's pause may be fixed.
    pub(super) retry_request: Request,
    /// Reports were closed or sent. Wakes all watchers of runs; they also poll.
    pub(super) progress: Notify,
}
