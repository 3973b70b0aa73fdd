//! Reads how much usage has to be sent in the fullest hour. The rule is in `domain::send_load`.

use crate::{
    domain::{
        Millis,
        send_load::{SendLoad, TOO_SLOW},
        window::Slots,
    },
    error::Result,
    store::Store,
    workers::schedule::Schedule,
};

impl SendLoad {
    /// Reads the load from the known billing periods.
    pub(crate) async fn read(
        store: &Store,
        (schedule, slots): (&Schedule, Slots),
        per_sec: u32,
        now: Millis,
    ) -> Result<Self> {
        let ends = store.fullest_hour(now).await?;
        Ok(Self::new(ends, slots, schedule.longest_gap(now), per_sec))
    }
}

/// Warns at the start if the rate is too low for the fullest hour.
pub(crate) async fn warn_if_too_slow(
    store: &Store,
    reporting: (&Schedule, Slots),
    per_sec: u32,
    now: Millis,
) {
    match SendLoad::read(store, reporting, per_sec, now).await {
        Ok(load) if load.is_in_time() => {
            tracing::info!(events_per_sec = per_sec, "the highest rate of meter events");
        }
        Ok(load) => {
            tracing::error!(events_per_sec = per_sec, %load, advice = TOO_SLOW, "the highest rate of meter events is too low");
        }
        Err(error) => {
            tracing::warn!(%error, "whether the rate of meter events suffices could not be checked");
        }
    }
}
