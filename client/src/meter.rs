//! The meters that a server counts.

use crate::proto;

/// A meter that the server counts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Meter {
    /// Its name, as increments give it.
    pub name: String,
    /// What one of its units is, such as `call`.
    pub unit: String,
    /// The `event_name` of its Stripe meter.
    pub stripe_event_name: String,
    /// Whether it is that of increments without a meter.
    pub is_default: bool,
}

impl Meter {
    pub(crate) fn all_from_wire(response: proto::ListMetersResponse) -> Vec<Self> {
        let meters = response.meters.into_iter().map(|meter| Self {
            name: meter.name,
            unit: meter.unit,
            stripe_event_name: meter.stripe_event_name,
            is_default: meter.is_default,
        });
        meters.collect()
    }
}
