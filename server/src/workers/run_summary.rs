//! The results of the reports that a run closed, summed by what they mean for an admin.

use crate::{domain::report::State, store::runs::StateCount};

/// A number of reports, and the sum of their quantities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) reports: i64,
    pub(crate) quantity: i64,
}

impl Count {
    pub(super) fn add(&mut self, reports: i64, quantity: i64) {
        self.reports = self.reports.saturating_add(reports);
        self.quantity = self.quantity.saturating_add(quantity);
    }
}

/// The results of the reports that a run closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) closed: Count,
    pub(crate) accepted: Count,
    pub(crate) rejected: Count,
    pub(crate) retried_later: Count,
    pub(crate) not_billable: Count,
    pub(crate) no_customer: Count,
    /// Not sent yet; part of `retried_later` in the last summary.
    pub(crate) pending: Count,
}

impl Summary {
    pub(crate) fn of(counts: &[StateCount]) -> Self {
        let mut summary = Self::default();
        for count in counts {
            summary.closed.add(count.reports, count.quantity);
            let part = match count.state {
                State::Accepted | State::Confirmed | State::Invoiced | State::Missing => {
                    &mut summary.accepted
                }
                State::Rejected | State::CustomerDeleted | State::TooLate | State::WrittenOff => {
                    &mut summary.rejected
                }
                State::NotBillable => &mut summary.not_billable,
                State::NoCustomer => &mut summary.no_customer,
                State::Unknown => &mut summary.retried_later,
                State::Closed | State::Sending | State::Uncharged if count.is_waiting => {
                    &mut summary.retried_later
                }
                State::Open | State::Closed | State::Sending | State::Uncharged => {
                    &mut summary.pending
                }
            };
            part.add(count.reports, count.quantity);
        }
        summary
    }

    /// The number of reports that have a result.
    pub(crate) fn done(&self) -> i64 {
        self.closed.reports.saturating_sub(self.pending.reports)
    }

    pub(super) fn finished(mut self) -> Self {
        self.retried_later
            .add(self.pending.reports, self.pending.quantity);
        self.pending = Count::default();
        self
    }
}
