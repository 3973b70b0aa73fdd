//! The database's clock. Leases, due times, heartbeats and expiry use it, because all replicas share it.
//!
//! Only this file reads it. A reading is used for a second: the elapsed time of the monotonic clock is added to it, so
//! that changes of the wall clock have no effect.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use sea_orm::{ColumnTrait, ConnectionTrait, DbBackend, DbErr, Statement, sea_query::Expr};

use super::{Store, connection::Transaction};
use crate::{
    clock::{Clock, Moves},
    domain::{HOUR_MS, Millis, SECOND_MS, clock_check::Doubt},
    error::{Error, Result},
    planted_defects::{Defect, planted},
};

/// How long one reading is used.
const READING_KEPT: Duration = Duration::from_secs(1);
/// A reading that took longer says too little about the present moment to compare clocks.
const SLOW_READING_MS: Millis = 10 * SECOND_MS;

/// No stored due time is further ahead: reports wait for an hour at most, syncs for less.
pub(super) const MAX_WAIT_MS: Millis = 2 * HOUR_MS;

/// The last reading, and the clock that tests and the demo move.
#[derive(Debug, Default)]
pub(super) struct DatabaseClock {
    clock: Clock,
    reading: Mutex<Option<Reading>>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    /// What the system's clock showed then.
    system: Millis,
    database: Millis,
    /// The difference of the database's clock to the system's; zero if the reading lies between two readings of the
    /// system's clock.
    skew: Millis,
}

impl Reading {
    /// Whether it may still be used, when the system's clock shows `system`. The monotonic clock stands still while the
    /// machine is suspended; the system's does not.
    fn is_recent(&self, system: Millis) -> bool {
        let passed = u128::from(system.abs_diff(self.system));
        self.at.elapsed() < READING_KEPT && passed < READING_KEPT.as_millis()
    }
}

impl DatabaseClock {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            reading: Mutex::new(None),
        }
    }

    /// The current time, from a recent reading.
    fn carried_on(&self) -> Option<Millis> {
        let system = Clock::system().now();
        let reading = (*self.lock()).filter(|reading| reading.is_recent(system))?;
        Some(self.now_by(reading))
    }

    fn now_by(&self, reading: Reading) -> Millis {
        // A manual clock moves the database's clock by the same time.
        if let Some(moved_to) = self.clock.manual_database_now() {
            return moved_to.saturating_add(reading.skew);
        }
        let elapsed = Millis::try_from(reading.at.elapsed().as_millis()).unwrap_or(0);
        reading.database.saturating_add(elapsed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Reading>> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// The moves of the clock, if tests or the demo move it.
    pub(crate) fn clock_moves(&self) -> Moves {
        self.clock.clock.moves()
    }

    /// The current time by the database's clock as last read, or by this machine's before that.
    pub(crate) fn last_known_now(&self) -> Millis {
        self.clock.clock.now()
    }

    /// The current time by the database's clock, for what closes, sends, expires or deletes.
    ///
    /// # Errors
    /// The database does not respond, or its time cannot be relied on.
    pub(crate) async fn now(&self) -> Result<Millis> {
        let now = self.shared_now().await?;
        self.doubt()
            .map_or(Ok(now), |doubt| Err(Error::ClockInDoubt(doubt)))
    }

    /// The same, read from the database at this moment. This machine may have stood still since the last reading without
    /// a trace in its clocks, as a virtual machine does that is stopped and continued.
    ///
    /// # Errors
    /// As for [`Store::now`].
    pub(crate) async fn now_as_read(&self) -> Result<Millis> {
        *self.clock.lock() = None;
        self.now().await
    }

    /// The same, read with a transaction once it has its locks: what it writes is then not as old as its wait for them.
    ///
    /// # Errors
    /// As for [`Store::now`].
    pub(super) async fn now_in(&self, tx: &Transaction) -> Result<Millis> {
        let now = self.shared_now_by(tx).await?;
        self.doubt()
            .map_or(Ok(now), |doubt| Err(Error::ClockInDoubt(doubt)))
    }

    /// Why the time must not be relied on, if so.
    pub(crate) fn doubt(&self) -> Option<Doubt> {
        let doubt = self.clock.clock.doubt();
        doubt.filter(|_| !planted(Defect::ClockNotCompared))
    }

    /// The current time by the database's clock, right or wrong: all replicas see the same, which is all that a lease
    /// needs.
    ///
    /// # Errors
    /// The database does not respond.
    pub(crate) async fn shared_now(&self) -> Result<Millis> {
        self.shared_now_by(&self.reader).await
    }

    async fn shared_now_by(&self, db: &impl ConnectionTrait) -> Result<Millis> {
        if let Some(now) = self.clock.carried_on() {
            if self.clock.clock.manual_database_now().is_some() {
                // Only a manual clock can jump between two readings.
                self.clock.clock.observe(now);
            }
            return Ok(now);
        }
        let system = Clock::system();
        let before = system.now();
        let database = read_database_clock(db).await?;
        let after = system.now().max(before);
        let reading = Reading {
            at: Instant::now(),
            system: after,
            database,
            skew: database.saturating_sub(database.clamp(before, after)),
        };
        *self.clock.lock() = Some(reading);
        let now = self.clock.now_by(reading);
        if after.saturating_sub(before) < SLOW_READING_MS {
            self.clock.clock.observe(now);
        }
        Ok(now)
    }

    /// The database's clock, not moved by tests or the demo.
    pub(super) async fn read_database_clock(&self) -> Result<Millis> {
        read_database_clock(&self.reader).await
    }
}

async fn read_database_clock(db: &impl ConnectionTrait) -> Result<Millis> {
    let backend = db.get_database_backend();
    let sql = if backend == DbBackend::Postgres {
        // A cast alone would round up, to a time that no clock has shown yet.
        "SELECT FLOOR(EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint AS now"
    } else {
        // Rounded, because the product of a float and 1000 can be slightly below the whole number.
        "SELECT CAST(ROUND(unixepoch('subsec') * 1000) AS INTEGER) AS now"
    };
    let row = db
        .query_one_raw(Statement::from_string(backend, sql))
        .await?
        .ok_or_else(|| DbErr::RecordNotFound("the database's clock".to_owned()))?;
    Ok(row.try_get("", "now")?)
}

/// The two ranges of a due time that is not in the future, as comparisons with a time. One that is further ahead than
/// the longest wait was written by a clock that was ahead, and is due.
pub(super) fn due_bounds(now: Millis) -> [(&'static str, Millis); 2] {
    [("<=", now), (">", now.saturating_add(MAX_WAIT_MS))]
}

/// The two ranges of [`due_bounds`] of a column, for a query each: an index of the column finds one range in its order.
pub(super) fn due_ranges(due: impl ColumnTrait, now: Millis) -> [Expr; 2] {
    let [(_, past), (_, ahead)] = due_bounds(now);
    [due.lte(past), due.gt(ahead)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_from_before_the_machine_was_suspended_is_not_used() {
        let system = 1_800_000_000_000;
        let reading = Reading {
            // It stands still meanwhile.
            at: Instant::now(),
            system,
            database: system,
            skew: 0,
        };
        assert!(reading.is_recent(system));
        assert!(!reading.is_recent(system + 24 * HOUR_MS));
        assert!(!reading.is_recent(system - HOUR_MS), "it was set back");
    }

    #[tokio::test]
    async fn a_machine_that_stood_still_without_a_trace_reads_the_time_before_it_sends() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("usage.db").display());
        let store = Store::open(&url, 1).await.unwrap();
        let system = Clock::system().now();
        let day_ago = system.saturating_sub(24 * HOUR_MS);
        *store.clock.lock() = Some(Reading {
            at: Instant::now(),
            system,
            database: day_ago,
            skew: 0,
        });
        assert!(store.now().await.unwrap() < system.saturating_sub(HOUR_MS));
        let sent_at = store.now_as_read().await.unwrap();
        assert!(sent_at.saturating_sub(day_ago) >= 24 * HOUR_MS);
    }
}
