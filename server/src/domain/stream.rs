//! A stream: the meter events of one Stripe customer and one meter.

/// One Stripe customer and one meter. Stripe has one total for each.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    /// `cus_...`
    pub customer: String,
    /// The meter's name here, not its event name at Stripe.
    pub meter: String,
}
