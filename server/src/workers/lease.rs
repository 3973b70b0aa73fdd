//! The lease of one job, from the view of one replica.
//!
//! The database's clock decides when a lease ends. The monotonic clock decides how long this replica can be sure to
//! have it, measured from before it requested the lease.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::{
    domain::Millis,
    error::Result,
    metrics,
    store::{Store, leases::Lease},
};

/// How long a lease lasts without being extended: the time for which a job pauses if its replica dies.
pub(super) const LEASE: Duration = Duration::from_secs(13);
/// How often it is extended.
const HEARTBEAT: Duration = Duration::from_secs(4);
/// The wait after a failed heartbeat.
const HEARTBEAT_RETRY: Duration = Duration::from_secs(2);
/// The number of attempts to release a lease. Other replicas wait until a lease that is not released ends.
const MAX_RELEASES: u32 = 3;

/// A lease that this replica has or requests.
#[derive(Debug)]
pub(super) struct HeldLease {
    store: Store,
    job: &'static str,
    replica: String,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// While this replica has the lease: until when that is certain, and when to extend it.
    ours: Option<Ours>,
    /// Another replica's lease, and since when it has not been extended.
    others: Option<(Lease, Instant)>,
}

#[derive(Clone, Copy, Debug)]
struct Ours {
    until: Instant,
    prolong_at: Instant,
}

impl Ours {
    fn since(begun: Instant) -> Self {
        Self {
            until: begun.checked_add(LEASE).unwrap_or(begun),
            prolong_at: begun.checked_add(HEARTBEAT).unwrap_or(begun),
        }
    }
}

impl HeldLease {
    pub(super) fn new(store: Store, job: &'static str, replica: String) -> Self {
        Self {
            store,
            job,
            replica,
            state: Mutex::default(),
        }
    }

    /// Takes or extends the lease if that is due. Returns whether this replica certainly has it.
    pub(super) async fn hold(&self) -> Result<bool> {
        let held = self.try_to_hold().await;
        metrics::lease_held(self.job, *held.as_ref().unwrap_or(&false));
        held
    }

    /// Shows in the metrics whether this replica certainly has it.
    pub(super) fn show(&self) {
        let now = Instant::now();
        let is_held = self.state().ours.is_some_and(|ours| now < ours.until);
        metrics::lease_held(self.job, is_held);
    }

    async fn try_to_hold(&self) -> Result<bool> {
        let ours = self.state().ours;
        match ours {
            Some(ours) if Instant::now() < ours.prolong_at => {}
            Some(_) => {
                self.prolong().await?;
            }
            None => self.try_to_take().await?,
        }
        // The database may have taken longer to answer than the lease lasts.
        let ours = self.state().ours;
        Ok(ours.is_some_and(|ours| Instant::now() < ours.until))
    }

    /// Extends the lease repeatedly. Returns when another replica has it or may have it.
    pub(super) async fn keep(&self) {
        loop {
            let Some(ours) = self.state().ours else {
                return;
            };
            sleep_until(ours.prolong_at).await;
            match self.prolong().await {
                Ok(true) => {}
                Ok(false) => {
                    metrics::lease_held(self.job, false);
                    return;
                }
                Err(error) => {
                    tracing::warn!(job = self.job, %error, "a lease could not be extended");
                    let now = Instant::now();
                    if now >= ours.until {
                        self.state().ours = None;
                        metrics::lease_held(self.job, false);
                        return;
                    }
                    let prolong_at = now.checked_add(HEARTBEAT_RETRY).unwrap_or(now);
                    self.state().ours = Some(Ours { prolong_at, ..ours });
                }
            }
        }
    }

    /// Releases the lease, if this replica has it.
    pub(super) async fn release(&self) -> Result<()> {
        if self.state().ours.take().is_none() {
            return Ok(());
        }
        metrics::lease_held(self.job, false);
        let mut released = Ok(());
        for _ in 0..MAX_RELEASES {
            released = self.store.release_lease(self.job, &self.replica).await;
            if released.is_ok() {
                break;
            }
        }
        released
    }

    /// The stored row while this replica has the lease; `None` if another replica has taken it.
    pub(super) async fn read(&self) -> Result<Option<Lease>> {
        let stored = self.store.find_lease(self.job).await?;
        let stored = stored.filter(|stored| stored.holder == self.replica);
        if stored.is_none() {
            self.state().ours = None;
        }
        Ok(stored)
    }

    /// Records when the job ran.
    pub(super) async fn record_run(&self, at: Millis) -> Result<()> {
        if !self
            .store
            .record_job_run(self.job, &self.replica, at)
            .await?
        {
            self.state().ours = None;
        }
        Ok(())
    }

    async fn prolong(&self) -> Result<bool> {
        let begun = Instant::now();
        let until = self.end().await?;
        let is_ours = self
            .store
            .prolong_lease(self.job, &self.replica, until)
            .await?;
        self.state().ours = is_ours.then(|| Ours::since(begun));
        Ok(is_ours)
    }

    /// Takes the lease if it has ended. Regardless of clocks, it has also ended if it was not extended for its whole
    /// duration.
    async fn try_to_take(&self) -> Result<()> {
        let begun = Instant::now();
        let seen = self.store.find_lease(self.job).await?;
        let now = self.store.shared_now().await?;
        if let Some(lease) = &seen
            && lease.holder != self.replica
            && lease.held_until >= now
            && !self.is_abandoned(lease, begun)
        {
            return Ok(());
        }
        let until = now.saturating_add(length_ms());
        let is_taken = self
            .store
            .take_lease(self.job, &self.replica, until, seen.as_ref())
            .await?;
        if is_taken {
            *self.state() = State {
                ours: Some(Ours::since(begun)),
                others: None,
            };
        }
        Ok(())
    }

    fn is_abandoned(&self, lease: &Lease, now: Instant) -> bool {
        let mut state = self.state();
        match &state.others {
            Some((seen, since))
                if seen.holder == lease.holder && seen.held_until == lease.held_until =>
            {
                now.saturating_duration_since(*since) > LEASE
            }
            _ => {
                state.others = Some((lease.clone(), now));
                false
            }
        }
    }

    async fn end(&self) -> Result<Millis> {
        Ok(self.store.shared_now().await?.saturating_add(length_ms()))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn length_ms() -> Millis {
    Millis::try_from(LEASE.as_millis()).unwrap_or(Millis::MAX)
}
