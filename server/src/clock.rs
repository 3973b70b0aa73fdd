//! The clock: the only place that reads the system's time. Rules take `now` as an argument.

use std::{
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::watch;

use crate::domain::{
    Millis,
    clock_check::{ClockCheck, DOUBT_MS, Doubt, Reading},
};

/// Where the monotonic time begins.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The current time, for the edges of the service.
///
/// Tests and the demo use a manual clock, so that months pass in seconds. No setting reaches it.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// The times of a manual clock; absent for the system's clock.
    manual: Option<Arc<Manual>>,
    /// The database's clock as last read; absent for a clock that shows this machine's time.
    shared: Option<Arc<Mutex<DatabaseTime>>>,
}

/// A clock that tests and the demo move.
#[derive(Debug)]
struct Manual {
    times: Mutex<ManualTimes>,
    moved: watch::Sender<()>,
}

/// The times that a manual clock shows until they are moved.
#[derive(Clone, Copy, Debug)]
struct ManualTimes {
    now: Millis,
    /// What the database's clock shows at the same moment.
    database_now: Millis,
    /// What the monotonic clock shows.
    elapsed: Millis,
}

/// The database's clock, between its readings.
#[derive(Debug, Default)]
struct DatabaseTime {
    check: ClockCheck,
    /// The latest time that was shown: time does not go back when a correction is small.
    shown: Millis,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that shows `now` until [`Clock::set`] moves it.
    pub fn manual(now: Millis) -> Self {
        let times = ManualTimes {
            now,
            database_now: now,
            elapsed: now,
        };
        let manual = Manual {
            times: Mutex::new(times),
            moved: watch::Sender::new(()),
        };
        Self {
            manual: Some(Arc::new(manual)),
            shared: None,
        }
    }

    /// The same clock, which shows the database's time once that was read.
    pub(crate) fn following_database(&self) -> Self {
        Self {
            manual: self.manual.clone(),
            shared: Some(Arc::default()),
        }
    }

    /// The present moment: the database's time as last read, at the pace of the monotonic clock; otherwise this
    /// machine's.
    pub fn now(&self) -> Millis {
        let Some(shared) = &self.shared else {
            return self.machine_now();
        };
        let mut shared = lock(shared);
        let Some(now) = shared.check.now(self.elapsed()) else {
            return self.machine_now();
        };
        // A larger step back was accepted deliberately.
        let is_small = now > shared.shown.saturating_sub(DOUBT_MS);
        shared.shown = if is_small { now.max(shared.shown) } else { now };
        shared.shown
    }

    /// What the clock of this machine shows.
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the edge that reads the clock"
    )]
    pub(crate) fn machine_now(&self) -> Millis {
        match self.read_manual() {
            Some(manual) => manual.now,
            None => chrono::Utc::now().timestamp_millis(),
        }
    }

    /// Milliseconds since an arbitrary moment, by the monotonic clock.
    pub(crate) fn elapsed(&self) -> Millis {
        match self.read_manual() {
            Some(manual) => manual.elapsed,
            None => Millis::try_from(ORIGIN.elapsed().as_millis()).unwrap_or(Millis::MAX),
        }
    }

    /// Takes a reading of the database's clock.
    pub(crate) fn observe(&self, database: Millis) {
        if let Some(shared) = &self.shared {
            let reading = Reading {
                database,
                machine: self.machine_now(),
                elapsed: self.elapsed(),
            };
            lock(shared).check.observe(reading);
        }
    }

    /// Takes a comparison of the database's clock with Stripe's; `None` if Stripe does not answer.
    pub(crate) fn compare_with_stripe(&self, database_ahead: Option<Millis>) {
        if let Some(shared) = &self.shared {
            lock(shared).check.compare_with_stripe(database_ahead);
        }
    }

    /// Why the time must not be relied on, if so.
    pub(crate) fn doubt(&self) -> Option<Doubt> {
        self.check().doubt()
    }

    /// What is known of the clocks.
    pub(crate) fn check(&self) -> ClockCheck {
        let shared = self.shared.as_ref();
        shared.map_or_else(ClockCheck::default, |shared| lock(shared).check)
    }

    /// Moves a manual clock, and the database's clock with it; does nothing to the system's.
    pub fn set(&self, now: Millis) {
        self.change(|manual| {
            let passed = now.saturating_sub(manual.database_now);
            manual.elapsed = manual.elapsed.saturating_add(passed);
            manual.now = now;
            manual.database_now = now;
        });
    }

    /// Moves a manual clock and the database's clock by the same time.
    pub fn advance(&self, by: Millis) {
        self.change(|manual| {
            manual.now = manual.now.saturating_add(by);
            manual.database_now = manual.database_now.saturating_add(by);
            manual.elapsed = manual.elapsed.saturating_add(by);
        });
    }

    /// Moves a manual clock and leaves the database's clock, as when somebody sets the wall clock of one replica.
    pub fn step(&self, by: Millis) {
        self.change(|manual| manual.now = manual.now.saturating_add(by));
    }

    /// Moves the database's clock and leaves the rest of a manual clock, as when somebody sets it.
    pub fn step_database(&self, by: Millis) {
        self.change(|manual| manual.database_now = manual.database_now.saturating_add(by));
    }

    /// What the database's clock shows on a manual clock; absent on the system's.
    pub(crate) fn manual_database_now(&self) -> Option<Millis> {
        self.read_manual().map(|manual| manual.database_now)
    }

    /// The moves of a manual clock from now on.
    pub(crate) fn moves(&self) -> Moves {
        Moves(self.manual.as_ref().map(|manual| manual.moved.subscribe()))
    }

    fn read_manual(&self) -> Option<ManualTimes> {
        self.manual.as_ref().map(|manual| *lock(&manual.times))
    }

    fn change(&self, change: impl FnOnce(&mut ManualTimes)) {
        if let Some(manual) = &self.manual {
            change(&mut lock(&manual.times));
            manual.moved.send_replace(());
        }
    }
}

/// The moves of a manual clock. What is due then is done at once, while on the system's clock it is found by polling.
#[derive(Debug)]
pub(crate) struct Moves(Option<watch::Receiver<()>>);

impl Moves {
    /// Waits for a move since the last call; forever on the system's clock.
    pub(crate) async fn next(&mut self) {
        if let Some(moved) = &mut self.0
            && moved.changed().await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_leaves_the_clock_of_the_database() {
        let clock = Clock::manual(10_000);
        clock.step(-3_000);
        assert_eq!(clock.now(), 7_000);
        assert_eq!(clock.manual_database_now(), Some(10_000));
        clock.advance(500);
        assert_eq!(
            (clock.now(), clock.manual_database_now()),
            (7_500, Some(10_500))
        );
        clock.set(8_000);
        assert_eq!(clock.manual_database_now(), Some(8_000));
        assert_eq!(Clock::system().manual_database_now(), None);
    }

    #[test]
    fn the_database_is_followed_and_small_corrections_stop_time_instead_of_turning_it_back() {
        let source = Clock::manual(1_000_000);
        let clock = source.following_database();
        assert_eq!(
            clock.now(),
            1_000_000,
            "the machine's, until the database was read"
        );
        clock.observe(1_005_000);
        assert_eq!(clock.now(), 1_005_000);
        source.advance(1_000);
        assert_eq!(clock.now(), 1_006_000);
        clock.observe(1_004_000);
        assert_eq!(clock.now(), 1_006_000, "it waits");
        source.advance(3_000);
        assert_eq!(clock.now(), 1_007_000);
        clock.observe(9_999_000);
        assert!(clock.doubt().is_some());
        assert_eq!(clock.now(), 1_007_000);
    }
}
