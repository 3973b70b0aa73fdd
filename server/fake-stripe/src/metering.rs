//! The input of every measurement of usage: the meters and their events at one moment.

use crate::list::Collection;
use crate::meter_events::EventStore;
use crate::meters::Meter;

/// A view of the stored meters and meter events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metering<'a> {
    pub(crate) meters: &'a Collection<Meter>,
    pub(crate) events: &'a EventStore,
    /// Events received after this time are not aggregated yet.
    pub(crate) aggregated_until_ms: i64,
}

impl Metering<'_> {
    /// The event name of a meter; empty if there is no such meter.
    pub(crate) fn event_name(self, meter: &str) -> String {
        self.meters
            .get(meter)
            .map(|meter| meter.event_name.clone())
            .unwrap_or_default()
    }
}
