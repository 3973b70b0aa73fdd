//! A stream: everything that one Stripe customer uses of one meter.

/// One Stripe customer and one meter: what Stripe keeps a total of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    /// `cus_...`
    pub customer: String,
    /// The meter's name here, not its event name at Stripe.
    pub meter: String,
}
