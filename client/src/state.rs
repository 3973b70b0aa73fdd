//! The states of usage reports.

use crate::proto::UsageReportState as Wire;
use std::fmt;

/// Where a usage report is on its way from a call to an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReportState {
    /// It counts: increments of its window are added to it.
    Open,
    /// Frozen, and waiting to be sent.
    Closed,
    /// Given to Stripe at least once, without a final answer so far.
    Sending,
    /// Stripe took the meter event.
    Accepted,
    /// Stripe's own totals contain it.
    Confirmed,
    /// Stripe took it, and a day later its totals still lack it.
    Missing,
    /// Stripe refused it for good.
    Rejected,
    /// The Stripe customer is gone.
    CustomerDeleted,
    /// Stripe has not answered for 23 hours: whether it arrived is being looked up.
    Unknown,
    /// Never billed: the account was free, or the usage is older than what its link bills from.
    NotBillable,
    /// Nobody has said yet whom the account bills to; it waits for a link.
    NoCustomer,
    /// Too old for Stripe, or its invoice was final before Stripe had it.
    TooLate,
    /// An admin decided that it is never billed.
    WrittenOff,
    /// A state that this version of the client does not know, by its number.
    Unrecognised(i32),
}

impl ReportState {
    /// All states that this version knows.
    pub const ALL: &[Self] = &[
        Self::Open,
        Self::Closed,
        Self::Sending,
        Self::Accepted,
        Self::Confirmed,
        Self::Missing,
        Self::Rejected,
        Self::CustomerDeleted,
        Self::Unknown,
        Self::NotBillable,
        Self::NoCustomer,
        Self::TooLate,
        Self::WrittenOff,
    ];

    /// Whether Stripe has not got it and still may, without an admin's decision.
    ///
    /// A state that this version does not know is taken to be in progress.
    pub fn is_in_progress(self) -> bool {
        matches!(
            self,
            Self::Open
                | Self::Closed
                | Self::Sending
                | Self::Unknown
                | Self::NoCustomer
                | Self::Unrecognised(_)
        )
    }

    /// Whether it stays where it is until an admin decides.
    pub fn needs_a_decision(self) -> bool {
        matches!(
            self,
            Self::Missing | Self::Rejected | Self::CustomerDeleted | Self::TooLate
        )
    }

    pub(crate) fn to_wire(self) -> i32 {
        match self {
            Self::Open => Wire::Open.into(),
            Self::Closed => Wire::Closed.into(),
            Self::Sending => Wire::Sending.into(),
            Self::Accepted => Wire::Accepted.into(),
            Self::Confirmed => Wire::Confirmed.into(),
            Self::Missing => Wire::Missing.into(),
            Self::Rejected => Wire::Rejected.into(),
            Self::CustomerDeleted => Wire::CustomerDeleted.into(),
            Self::Unknown => Wire::Unknown.into(),
            Self::NotBillable => Wire::NotBillable.into(),
            Self::NoCustomer => Wire::NoCustomer.into(),
            Self::TooLate => Wire::TooLate.into(),
            Self::WrittenOff => Wire::WrittenOff.into(),
            Self::Unrecognised(number) => number,
        }
    }

    pub(crate) fn from_wire(number: i32) -> Self {
        match Wire::try_from(number) {
            Ok(Wire::Open) => Self::Open,
            Ok(Wire::Closed) => Self::Closed,
            Ok(Wire::Sending) => Self::Sending,
            Ok(Wire::Accepted) => Self::Accepted,
            Ok(Wire::Confirmed) => Self::Confirmed,
            Ok(Wire::Missing) => Self::Missing,
            Ok(Wire::Rejected) => Self::Rejected,
            Ok(Wire::CustomerDeleted) => Self::CustomerDeleted,
            Ok(Wire::Unknown) => Self::Unknown,
            Ok(Wire::NotBillable) => Self::NotBillable,
            Ok(Wire::NoCustomer) => Self::NoCustomer,
            Ok(Wire::TooLate) => Self::TooLate,
            Ok(Wire::WrittenOff) => Self::WrittenOff,
            Ok(Wire::Unspecified) | Err(_) => Self::Unrecognised(number),
        }
    }
}

impl fmt::Display for ReportState {
    /// As the contract names it, such as `not_billable`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Closed => f.write_str("closed"),
            Self::Sending => f.write_str("sending"),
            Self::Accepted => f.write_str("accepted"),
            Self::Confirmed => f.write_str("confirmed"),
            Self::Missing => f.write_str("missing"),
            Self::Rejected => f.write_str("rejected"),
            Self::CustomerDeleted => f.write_str("customer_deleted"),
            Self::Unknown => f.write_str("unknown"),
            Self::NotBillable => f.write_str("not_billable"),
            Self::NoCustomer => f.write_str("no_customer"),
            Self::TooLate => f.write_str("too_late"),
            Self::WrittenOff => f.write_str("written_off"),
            Self::Unrecognised(number) => write!(f, "unrecognised state {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_the_contract_is_known() {
        let known = (1..)
            .take_while(|number| Wire::try_from(*number).is_ok())
            .inspect(|number| {
                let state = ReportState::from_wire(*number);
                assert!(!matches!(state, ReportState::Unrecognised(_)), "{number}");
                assert_eq!(state.to_wire(), *number);
                let name = Wire::try_from(*number).unwrap().as_str_name();
                let name = name.strip_prefix("USAGE_REPORT_STATE_").unwrap();
                assert_eq!(state.to_string(), name.to_lowercase());
                assert!(ReportState::ALL.contains(&state));
            })
            .count();
        assert_eq!(known, ReportState::ALL.len());
    }

    #[test]
    fn a_state_from_a_newer_server_is_in_progress() {
        let state = ReportState::from_wire(99);
        assert_eq!(state, ReportState::Unrecognised(99));
        assert!(state.is_in_progress());
        assert_eq!(state.to_wire(), 99);
    }

    #[test]
    fn no_state_is_both_in_progress_and_waiting_for_a_decision() {
        for number in 0..20 {
            let state = ReportState::from_wire(number);
            assert!(
                !(state.is_in_progress() && state.needs_a_decision()),
                "{state:?}"
            );
        }
    }
}
