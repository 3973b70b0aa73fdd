//! Usage of a time range. It can grow until it is invoiced or discarded; then it is final.

use crate::metering::Metering;
use crate::meters::Aggregate;

/// The usage that one subscription item bills: a customer's events on a meter with `from <= timestamp < to`.
#[derive(Debug, Clone)]
pub(crate) struct Usage {
    pub(crate) customer: String,
    pub(crate) subscription: String,
    pub(crate) item: String,
    pub(crate) price: String,
    pub(crate) meter: String,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

/// Which events a measurement includes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visibility {
    /// The number of events received by then.
    events: usize,
    /// Only events received up to this time.
    until_ms: i64,
}

impl Visibility {
    /// All events received, as drafts and finalization use.
    pub(crate) fn received(metering: Metering<'_>) -> Visibility {
        Visibility {
            events: metering.events.len(),
            until_ms: i64::MAX,
        }
    }

    /// Only aggregated events. A change that takes effect at once bills only what Stripe has aggregated by then.
    pub(crate) fn aggregated(metering: Metering<'_>) -> Visibility {
        Visibility {
            events: metering.events.len(),
            until_ms: metering.aggregated_until_ms,
        }
    }
}

/// Usage of a range that no longer changes.
#[derive(Debug, Clone)]
pub(crate) struct FinalUsage {
    pub(crate) usage: Usage,
    pub(crate) quantity: i64,
    /// Why the usage will not be on an invoice, or `None` if it is.
    pub(crate) discard_reason: Option<&'static str>,
    pub(crate) at: i64,
    visibility: Visibility,
}

impl Usage {
    /// The quantity; negative if corrections exceed usage.
    pub(crate) fn measure(&self, metering: Metering<'_>, visibility: Visibility) -> i64 {
        self.aggregate(metering, |index, received_ms| {
            index < visibility.events && received_ms <= visibility.until_ms
        })
    }

    /// Measures for the last time.
    pub(crate) fn make_final(
        self,
        metering: Metering<'_>,
        visibility: Visibility,
        discard_reason: Option<&'static str>,
        at: i64,
    ) -> FinalUsage {
        FinalUsage {
            quantity: self.measure(metering, visibility),
            usage: self,
            discard_reason,
            at,
            visibility,
        }
    }

    fn aggregate(&self, metering: Metering<'_>, sees: impl Fn(usize, i64) -> bool) -> i64 {
        let mut aggregate = Aggregate::default();
        let events =
            metering
                .events
                .numbered_range(&self.customer, &self.meter, self.from, self.to);
        for (index, event) in events {
            if !event.cancelled && sees(index, event.received_at_ms) {
                aggregate.add(event.value);
            }
        }
        let formula = metering.meters.get(&self.meter).map(|meter| meter.formula);
        let value = formula.map_or(0, |formula| aggregate.value(formula));
        i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
    }
}

impl FinalUsage {
    /// Usage of this range that arrived after it became final.
    pub(crate) fn late(&self, metering: Metering<'_>) -> i64 {
        self.usage.aggregate(metering, |index, received_ms| {
            index >= self.visibility.events || received_ms > self.visibility.until_ms
        })
    }
}
