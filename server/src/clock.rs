//! The clock: the only place that reads the system's time. Rules take `now` as an argument.

use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::Millis;

/// The current time, for the edges of the service.
///
/// Tests and the demo use a manual clock, so that months pass in seconds. No setting reaches it.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// The times of a manual clock; absent for the system's clock.
    manual: Option<Arc<Mutex<Manual>>>,
}

/// The times that a manual clock shows until they are moved.
#[derive(Clone, Copy, Debug)]
struct Manual {
    now: Millis,
    /// What the database's clock shows at the same moment.
    database_now: Millis,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self { manual: None }
    }

    /// A clock that shows `now` until [`Clock::set`] moves it.
    pub fn manual(now: Millis) -> Self {
        let manual = Manual {
            now,
            database_now: now,
        };
        Self {
            manual: Some(Arc::new(Mutex::new(manual))),
        }
    }

    /// The present moment.
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the edge that reads the clock"
    )]
    pub fn now(&self) -> Millis {
        match self.read_manual() {
            Some(manual) => manual.now,
            None => chrono::Utc::now().timestamp_millis(),
        }
    }

    /// Moves a manual clock, and the database's clock with it; does nothing to the system's.
    pub fn set(&self, now: Millis) {
        self.change(|manual| {
            manual.now = now;
            manual.database_now = now;
        });
    }

    /// Moves a manual clock and the database's clock by the same time.
    pub fn advance(&self, by: Millis) {
        self.change(|manual| {
            manual.now = manual.now.saturating_add(by);
            manual.database_now = manual.database_now.saturating_add(by);
        });
    }

    /// Moves a manual clock and leaves the database's clock, as when somebody sets the wall clock of one replica.
    pub fn step(&self, by: Millis) {
        self.change(|manual| manual.now = manual.now.saturating_add(by));
    }

    /// What the database's clock shows on a manual clock; absent on the system's.
    pub(crate) fn manual_database_now(&self) -> Option<Millis> {
        self.read_manual().map(|manual| manual.database_now)
    }

    fn read_manual(&self) -> Option<Manual> {
        let manual = self.manual.as_ref()?;
        Some(*manual.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: impl FnOnce(&mut Manual)) {
        if let Some(manual) = &self.manual {
            change(&mut manual.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
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
}
