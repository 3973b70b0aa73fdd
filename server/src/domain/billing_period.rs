//! A billing period of a subscription item, as Stripe last showed it.

use super::{Millis, account_id::AccountId, invoice::InvoiceState, window::Interval};

/// A billing period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BillingPeriod {
    /// The account.
    pub account_id: AccountId,
    /// The subscription item; empty while it is not known.
    pub item: String,
    /// Its first moment.
    pub period_start: Millis,
    /// Its bound.
    pub period_end: Millis,
    /// When it was recorded.
    pub recorded_at: Millis,
    /// `sub_...`
    pub subscription: Option<String>,
    /// The meter that the item charges for.
    pub meter: Option<String>,
    /// `price_...`
    pub price: Option<String>,
    /// The first moment whose usage Stripe bills to this item, where that is later than the start.
    pub bills_from: Option<Millis>,
    /// `in_...`
    pub invoice: Option<String>,
    /// What is known of its invoice.
    pub invoice_state: InvoiceState,
}

impl BillingPeriod {
    /// Its time.
    pub fn interval(&self) -> Interval {
        Interval {
            start: self.period_start,
            end: self.period_end,
        }
    }
}
