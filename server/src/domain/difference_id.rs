//! The name of a difference between invoices and what was reported, by which an admin acknowledges it. It contains when the
//! result last changed, so that only what was seen is acknowledged.

use std::fmt;

use super::{Millis, invoice_comparison::PeriodComparison};

/// Names one result of one comparison of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DifferenceId {
    /// The start of the billing period.
    pub period_start: Millis,
    /// When the finding or a figure last changed.
    pub changed_at: Millis,
    /// The subscription item; of usage in no billing period, the customer.
    pub item: String,
    /// The meter.
    pub meter: String,
}

impl DifferenceId {
    /// The name of a comparison's result.
    pub fn of(comparison: &PeriodComparison) -> Self {
        let item = if comparison.item.is_empty() {
            &comparison.customer
        } else {
            &comparison.item
        };
        Self {
            period_start: comparison.period.start,
            changed_at: comparison.changed_at,
            item: item.clone(),
            meter: comparison.meter.clone(),
        }
    }

    /// Reads a name; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ':');
        let mut next = || parts.next();
        Some(Self {
            period_start: next()?.parse().ok()?,
            changed_at: next()?.parse().ok()?,
            item: next().filter(|item| !item.is_empty())?.to_owned(),
            meter: next()?.to_owned(),
        })
    }
}

impl fmt::Display for DifferenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            period_start,
            changed_at,
            item,
            meter,
        } = self;
        write!(f, "{period_start}:{changed_at}:{item}:{meter}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn anything_else_is_no_name() {
        for text in ["", "1", "1:2:si", "1:x:si:m", "1:2::m", "a:2:si:m"] {
            assert_eq!(DifferenceId::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_read_as_it_was_written(
            period_start: Millis,
            changed_at: Millis,
            item in "[a-z]{2}_[A-Za-z0-9]{1,9}",
            meter in "[a-z_:]{1,9}",
        ) {
            let id = DifferenceId { period_start, changed_at, item, meter };
            prop_assert_eq!(DifferenceId::parse(&id.to_string()), Some(id));
        }
    }
}
