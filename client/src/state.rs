//! The states of usage reports.

use crate::proto::UsageReportState as Wire;
use std::fmt;

const PREFIX: &str = "USAGE_REPORT_STATE_";

/// How far a usage report has come on its way to an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReportState {
    /// Counting: increments of its window are added to it.
    Open,
    /// Its quantity no longer changes, and it waits to be sent.
    Closed,
    /// Sent to Stripe at least once, without a final answer so far.
    Sending,
    /// Stripe accepted the meter event.
    Accepted,
    /// Stripe's own meter totals include it.
    Confirmed,
    /// The final invoices of its billing period charge all usage that Stripe's meter totals include.
    Invoiced,
    /// Stripe accepted it, but a day later its meter totals do not include it.
    Missing,
    /// Stripe rejected it permanently.
    Rejected,
    /// The Stripe customer was deleted.
    CustomerDeleted,
    /// Stripe has not answered for 23 hours; the service checks whether it arrived.
    Unknown,
    /// Never billed: the account was free, or the usage is older than the start of its link.
    NotBillable,
    /// The account has no Stripe customer yet and is not free; the report waits until it is linked.
    NoCustomer,
    /// No item of a living subscription charges the meter at its time; it waits for one.
    Uncharged,
    /// Older than the 35 days that Stripe accepts, or its invoice was finalized before Stripe had the usage.
    TooLate,
    /// An admin decided not to bill it.
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
        Self::Uncharged,
        Self::Invoiced,
    ];

    /// Whether Stripe may still accept it without an admin's decision.
    ///
    /// True for a state that this version does not know.
    pub fn is_in_progress(self) -> bool {
        matches!(
            self,
            Self::Open
                | Self::Closed
                | Self::Sending
                | Self::Unknown
                | Self::NoCustomer
                | Self::Uncharged
                | Self::Unrecognised(_)
        )
    }

    /// Whether it stays in this state until an admin resolves it.
    pub fn needs_decision(self) -> bool {
        matches!(
            self,
            Self::Missing | Self::Rejected | Self::CustomerDeleted | Self::TooLate
        )
    }

    pub(crate) fn to_wire(self) -> i32 {
        match self {
            Self::Unrecognised(number) => number,
            known => known.known_wire().into(),
        }
    }

    pub(crate) fn from_wire(number: i32) -> Self {
        let mut known = Self::ALL.iter().copied();
        let found = known.find(|state| i32::from(state.known_wire()) == number);
        found.unwrap_or(Self::Unrecognised(number))
    }

    /// The value of the proto; `Unspecified` for a state that this version does not know.
    fn known_wire(self) -> Wire {
        match self {
            Self::Open => Wire::Open,
            Self::Closed => Wire::Closed,
            Self::Sending => Wire::Sending,
            Self::Accepted => Wire::Accepted,
            Self::Confirmed => Wire::Confirmed,
            Self::Invoiced => Wire::Invoiced,
            Self::Missing => Wire::Missing,
            Self::Rejected => Wire::Rejected,
            Self::CustomerDeleted => Wire::CustomerDeleted,
            Self::Unknown => Wire::Unknown,
            Self::NotBillable => Wire::NotBillable,
            Self::NoCustomer => Wire::NoCustomer,
            Self::Uncharged => Wire::Uncharged,
            Self::TooLate => Wire::TooLate,
            Self::WrittenOff => Wire::WrittenOff,
            Self::Unrecognised(_) => Wire::Unspecified,
        }
    }
}

impl fmt::Display for ReportState {
    /// The name in the proto, in lower case and without its prefix, such as `not_billable`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Unrecognised(number) = self {
            return write!(f, "unrecognised state {number}");
        }
        let name = self.known_wire().as_str_name();
        let name = name.strip_prefix(PREFIX).unwrap_or(name);
        f.write_str(&name.to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_proto_state_is_known() {
        let known = (1..)
            .take_while(|number| Wire::try_from(*number).is_ok())
            .inspect(|number| {
                let state = ReportState::from_wire(*number);
                assert!(!matches!(state, ReportState::Unrecognised(_)), "{number}");
                assert_eq!(state.to_wire(), *number);
                let name = Wire::try_from(*number).unwrap().as_str_name();
                let name = name.strip_prefix(PREFIX).unwrap();
                assert_eq!(state.to_string(), name.to_lowercase());
                assert!(ReportState::ALL.contains(&state));
            })
            .count();
        assert_eq!(known, ReportState::ALL.len());
    }

    #[test]
    fn state_of_a_newer_server_is_in_progress() {
        let state = ReportState::from_wire(99);
        assert_eq!(state, ReportState::Unrecognised(99));
        assert!(state.is_in_progress());
        assert_eq!(state.to_wire(), 99);
    }

    #[test]
    fn a_state_in_progress_needs_no_decision() {
        for number in 0..20 {
            let state = ReportState::from_wire(number);
            assert!(
                !(state.is_in_progress() && state.needs_decision()),
                "{state:?}"
            );
        }
    }
}
