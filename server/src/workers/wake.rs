//! How jobs and calls wake each other.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// Wakes one job before its interval has passed. A wake-up while the job runs makes it run again.
///
/// Only the runner waits for it: with one waiter, `notify_one` keeps each wake-up that comes while the runner does not wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wake(Arc<Notify>);

impl Wake {
    /// Makes the job run soon.
    pub(crate) fn wake(&self) {
        self.0.notify_one();
    }

    /// Waits for a wake-up since the last one that was waited for.
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

/// Every wake-up of this replica. It only makes things happen sooner: what is to be done is in the database.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// The report schedule may be due.
    pub(crate) schedule: Wake,
    /// A run was begun.
    pub(crate) close: Wake,
    /// Reports were closed, or became sendable otherwise.
    pub(crate) send: Wake,
    /// A webhook was stored.
    pub(crate) webhook: Wake,
    /// A change of a subscription was begun.
    pub(crate) change: Wake,
    /// Stripe says that it dropped events.
    pub(crate) verify: Wake,
    /// Verification was asked for before its hour.
    pub(super) verify_request: Request,
    /// An admin asked for a report: what made the sender pause may be fixed.
    pub(super) retry_request: Request,
    /// Reports were closed or sent. For those who watch runs: there may be many, and they also poll.
    pub(super) progress: Notify,
}
