//! A period of time, as the public types use it.

use chrono::{DateTime, Utc};

/// A half-open interval of time: `start` is inside, `end` is outside.
///
/// The service truncates times to whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Period {
    /// The first instant of the period.
    pub start: DateTime<Utc>,
    /// The first instant after the period.
    pub end: DateTime<Utc>,
}

impl Period {
    /// The period from `start` until just before `end`.
    pub fn new(start: impl Into<DateTime<Utc>>, end: impl Into<DateTime<Utc>>) -> Self {
        Self {
            start: start.into(),
            end: end.into(),
        }
    }

    /// Whether this instant is inside the period.
    pub fn contains(&self, instant: DateTime<Utc>) -> bool {
        self.start <= instant && instant < self.end
    }
}
