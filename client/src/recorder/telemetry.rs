//! The counters of a recorder as metrics of the `metrics` facade. Several recorders share the same metrics.

use super::{Recorded, RecorderStats};
use metrics::{counter, describe_counter, describe_gauge, gauge};

/// Publishes the differences between two readings.
#[derive(Debug, Default)]
pub(super) struct Telemetry {
    last: RecorderStats,
}

impl Telemetry {
    pub(super) fn new() -> Self {
        describe_counter!("usage_recorder_units", "Units of usage by outcome");
        describe_counter!("usage_recorder_calls", "Calls of record by outcome");
        describe_gauge!(
            "usage_recorder_pending_units",
            "Units of usage that the server has not answered yet"
        );
        Self::default()
    }

    /// Publishes the changes since the previous call.
    pub(super) fn publish(&mut self, now: RecorderStats) {
        let last = self.last;
        for (outcome, now, last) in [
            ("recorded", now.recorded, last.recorded),
            ("counted", now.counted, last.counted),
            ("refused", now.refused, last.refused),
            ("dropped", now.dropped, last.dropped),
        ] {
            let Recorded { calls, units } = now;
            counter!("usage_recorder_calls", "outcome" => outcome)
                .increment(calls.saturating_sub(last.calls));
            counter!("usage_recorder_units", "outcome" => outcome)
                .increment(units.saturating_sub(last.units));
        }
        let pending = gauge!("usage_recorder_pending_units");
        pending.increment(lossy(now.pending.units.saturating_sub(last.pending.units)));
        pending.decrement(lossy(last.pending.units.saturating_sub(now.pending.units)));
        self.last = now;
    }
}

/// A gauge is a floating point number, exact up to 2^53.
#[allow(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "the type that the facade requires"
)]
fn lossy(units: u64) -> f64 {
    units as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    fn units(units: u64) -> Recorded {
        Recorded { calls: 1, units }
    }

    #[test]
    fn metrics_of_two_recorders_add_up() {
        let seen = DebuggingRecorder::new();
        let snapshotter = seen.snapshotter();
        metrics::with_local_recorder(&seen, || {
            let mut recorders = [Telemetry::new(), Telemetry::new()];
            for recorder in &mut recorders {
                recorder.publish(RecorderStats {
                    recorded: units(7),
                    pending: units(7),
                    ..RecorderStats::default()
                });
            }
            recorders[0].publish(RecorderStats {
                recorded: units(7),
                counted: units(7),
                ..RecorderStats::default()
            });
        });
        let mut shown: Vec<(String, DebugValue)> = snapshotter
            .snapshot()
            .into_vec()
            .into_iter()
            .filter(|(key, ..)| key.key().name().contains("units"))
            .map(|(key, _, _, value)| {
                let labels = key.key().labels().map(|label| label.value().to_owned());
                let labels: String = labels.collect();
                (format!("{} {labels}", key.key().name()), value)
            })
            .collect();
        shown.sort_by(|one, other| one.0.cmp(&other.0));
        let counter = |outcome, count| {
            let name = format!("usage_recorder_units {outcome}");
            (name, DebugValue::Counter(count))
        };
        assert_eq!(
            shown,
            [
                (
                    "usage_recorder_pending_units ".to_owned(),
                    DebugValue::Gauge(7.0.into())
                ),
                counter("counted", 7),
                counter("dropped", 0),
                counter("recorded", 14),
                counter("refused", 0),
            ]
        );
    }
}
