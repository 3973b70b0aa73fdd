//! The database's clock: the one that leases, due times, heartbeats and expiry go by, because all replicas share it.
//!
//! It is read here and nowhere else. A reading is good for a second: in between it is carried on by the monotonic clock,
//! which no step of the wall clock reaches.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, Statement};

use super::Store;
use crate::{
    clock::Clock,
    domain::{MINUTE_MS, Millis},
    error::Result,
};

/// Heartbeats this far ahead of the moment before which they count as stopped were stored before the clock was set back.
pub(super) const HEARTBEAT_AHEAD_MS: Millis = 2 * MINUTE_MS;
/// For how long one reading is carried on.
const READING_KEPT: Duration = Duration::from_secs(1);

/// The last reading, and the clock that tests and the demo move.
#[derive(Debug, Default)]
pub(super) struct DatabaseClock {
    clock: Clock,
    reading: Mutex<Option<Reading>>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    database: Millis,
    /// How far the database's clock was from the system's: zero where the reading lies between two of the system's.
    skew: Millis,
}

impl DatabaseClock {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            reading: Mutex::new(None),
        }
    }

    /// What a fresh reading says of this moment.
    fn carried_on(&self) -> Option<Millis> {
        let reading = (*self.lock()).filter(|reading| reading.at.elapsed() < READING_KEPT)?;
        Some(self.now_by(reading))
    }

    fn now_by(&self, reading: Reading) -> Millis {
        // A manual clock moves the database's as if both were the system's.
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
    /// What time it is by the database's clock.
    ///
    /// # Errors
    /// A database that does not answer.
    pub(crate) async fn now(&self) -> Result<Millis> {
        if let Some(now) = self.clock.carried_on() {
            return Ok(now);
        }
        let system = Clock::system();
        let before = system.now();
        let database = self.read_database_clock().await?;
        let after = system.now().max(before);
        let reading = Reading {
            at: Instant::now(),
            database,
            skew: database.saturating_sub(database.clamp(before, after)),
        };
        *self.clock.lock() = Some(reading);
        Ok(self.clock.now_by(reading))
    }

    /// The database's clock as it is, whatever tests and the demo do.
    pub(super) async fn read_database_clock(&self) -> Result<Millis> {
        let backend = self.backend();
        let sql = if backend == DbBackend::Postgres {
            "SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint AS now"
        } else {
            // Rounded, because the product of a float and 1000 may lie just below the whole number.
            "SELECT CAST(ROUND(unixepoch('subsec') * 1000) AS INTEGER) AS now"
        };
        let row = self
            .reader
            .query_one_raw(Statement::from_string(backend, sql))
            .await?
            .ok_or_else(|| DbErr::RecordNotFound("the database's clock".to_owned()))?;
        Ok(row.try_get("", "now")?)
    }
}
