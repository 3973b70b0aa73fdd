//! A stream: the meter events of one Stripe customer and one meter.

use serde::{Deserialize, Serialize};

/// One Stripe customer and one meter. Stripe has one total for each.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Stream {
    /// `cus_...`
    pub customer: String,
    /// The meter's name here, not its event name at Stripe.
    pub meter: String,
}
