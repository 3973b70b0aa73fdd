//! A billing period of a subscription item, as Stripe last showed it.

use super::{DAY_MS, Millis, account_id::AccountId, invoice_draft::InvoiceState, window::Interval};

/// A period that ended longer ago changes nothing any more: its invoice is final, and increments are at most 34 days old.
pub const RELEVANT_MS: Millis = 40 * DAY_MS;

/// A billing period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BillingPeriod {
    /// The account.
    pub account_id: AccountId,
    /// The subscription item; empty while it is not known.
    pub item: String,
    /// Its first moment.
    pub period_start: Millis,
    /// The first moment after it.
    pub period_end: Millis,
    /// When it was recorded.
    pub recorded_at: Millis,
    /// `sub_...`
    pub subscription: Option<String>,
    /// The meter that the item charges for.
    pub meter: Option<String>,
    /// `price_...`
    pub price: Option<String>,
    /// The time from which Stripe charges usage to this item, if that is later than the start.
    pub bills_from: Option<Millis>,
    /// `in_...`
    pub invoice: Option<String>,
    /// The state of its invoice.
    pub invoice_state: InvoiceState,
}

impl BillingPeriod {
    /// The period's interval.
    pub fn interval(&self) -> Interval {
        Interval {
            start: self.period_start,
            end: self.period_end,
        }
    }
}
