//! Heartbeats of work that a replica does: a run, a change. Another replica continues work whose heartbeat is old.

use sea_orm::{ColumnTrait, Condition};

use crate::domain::{Millis, SECOND_MS, run::AHEAD_MS};

/// Work without a heartbeat for this long was abandoned.
pub(crate) const ABANDONED_MS: Millis = 15 * SECOND_MS;

/// The condition that the heartbeat in a column is older than `since`, or from a clock that was ahead.
pub(super) fn is_abandoned(heartbeat: impl ColumnTrait, since: Millis) -> Condition {
    Condition::any()
        .add(heartbeat.lt(since))
        .add(heartbeat.gt(since.saturating_add(AHEAD_MS)))
}
