//! Comparisons with invoices that are due and were not made: the invoices cannot be read, or they were not tried.

use super::{
    HOUR_MS, Millis, account_id::AccountId, invoice_comparison::FIRST_READ_MS, window::Interval,
};

/// How long after it was due a comparison that was not tried counts as waiting.
pub const OVERDUE_MS: Millis = 2 * HOUR_MS;

/// A comparison that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingComparison {
    /// The account.
    pub account_id: AccountId,
    /// `si_...`
    pub item: String,
    /// The meter that the item charges for.
    pub meter: String,
    /// The billing period.
    pub period: Interval,
    /// Since when.
    pub since: Millis,
    /// Why; `None` if it was not tried.
    pub why: Option<String>,
}

/// What is stored about the comparisons of a billing period.
#[derive(Clone, Copy, Debug)]
pub struct ComparisonTimes {
    /// The end of the billing period.
    pub period_end: Millis,
    /// When its invoices were last read.
    pub compared_at: Option<Millis>,
    /// When they are read again.
    pub again_at: Option<Millis>,
    /// Since when they cannot be compared.
    pub failing_since: Option<Millis>,
}

impl ComparisonTimes {
    /// Since when the comparison waits, if it does.
    pub fn waits_since(self, now: Millis) -> Option<Millis> {
        let due_at = match self.compared_at {
            None => Some(self.period_end.saturating_add(FIRST_READ_MS)),
            Some(_) => self.again_at,
        };
        let overdue = due_at.filter(|due_at| due_at.saturating_add(OVERDUE_MS) <= now);
        self.failing_since.or(overdue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: ComparisonTimes = ComparisonTimes {
        period_end: 0,
        compared_at: None,
        again_at: None,
        failing_since: None,
    };

    #[test]
    fn a_comparison_waits_if_it_fails_or_was_not_tried() {
        let due = FIRST_READ_MS;
        assert_eq!(TIMES.waits_since(due + OVERDUE_MS - 1), None);
        assert_eq!(TIMES.waits_since(due + OVERDUE_MS), Some(due));
        let done = ComparisonTimes {
            compared_at: Some(due),
            ..TIMES
        };
        assert_eq!(done.waits_since(Millis::MAX), None);
        let again = ComparisonTimes {
            again_at: Some(50),
            ..done
        };
        assert_eq!(again.waits_since(50 + OVERDUE_MS), Some(50));
        let failing = ComparisonTimes {
            failing_since: Some(9),
            ..again
        };
        assert_eq!(failing.waits_since(10), Some(9));
    }
}
