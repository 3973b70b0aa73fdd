//! The usage of a range of time: measured while it can still grow, final once it is invoiced or discarded.

use crate::meters::Meter;
use crate::state::State;
use crate::summaries::Aggregate;

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
    pub(crate) fn received(state: &State) -> Visibility {
        Visibility {
            events: state.events.len(),
            until_ms: i64::MAX,
        }
    }

    /// Only aggregated events. A change that takes effect at once bills only what Stripe has aggregated by then.
    pub(crate) fn aggregated(state: &State) -> Visibility {
        Visibility {
            events: state.events.len(),
            until_ms: state.clock.now_ms().saturating_sub(state.summary_delay_ms),
        }
    }
}

/// Why usage will not be on an invoice, or `None` where it is.
pub(crate) type Reason = Option<&'static str>;

/// Usage of a range that no longer changes.
#[derive(Debug, Clone)]
pub(crate) struct FinalUsage {
    pub(crate) usage: Usage,
    pub(crate) quantity: i64,
    pub(crate) discard_reason: Reason,
    pub(crate) at: i64,
    visibility: Visibility,
}

impl Usage {
    /// The quantity; negative if corrections exceed usage.
    pub(crate) fn measure(&self, state: &State, visibility: Visibility) -> i64 {
        self.aggregate(state, |index, received_ms| {
            index < visibility.events && received_ms <= visibility.until_ms
        })
    }

    /// Measures for the last time and stores the result.
    pub(crate) fn make_final(
        self,
        state: &mut State,
        visibility: Visibility,
        discard_reason: Reason,
        at: i64,
    ) -> i64 {
        let quantity = self.measure(state, visibility);
        state.billing.final_usage.push(FinalUsage {
            usage: self,
            quantity,
            discard_reason,
            at,
            visibility,
        });
        quantity
    }

    fn aggregate(&self, state: &State, sees: impl Fn(usize, i64) -> bool) -> i64 {
        let mut aggregate = Aggregate::default();
        let events = state
            .events
            .numbered_range(&self.customer, &self.meter, self.from, self.to);
        for (index, event) in events {
            if !event.cancelled && sees(index, event.received_at_ms) {
                aggregate.add(event);
            }
        }
        let formula = state.meters.get(&self.meter).map(|meter| meter.formula);
        let value = formula.map_or(0, |formula| aggregate.value(formula));
        i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
    }
}

impl FinalUsage {
    /// Usage of this range that arrived after it became final.
    pub(crate) fn late(&self, state: &State) -> i64 {
        self.usage.aggregate(state, |index, received_ms| {
            index >= self.visibility.events || received_ms > self.visibility.until_ms
        })
    }
}

/// The event name of a meter.
pub(crate) fn event_name(state: &State, meter: &str) -> String {
    state
        .meters
        .get(meter)
        .map(|meter: &Meter| meter.event_name.clone())
        .unwrap_or_default()
}
