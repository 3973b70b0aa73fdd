//! Usage reports: their states, every transition between them, and their name at Stripe.

use uuid::Uuid;

use super::{DAY_MS, HOUR_MS, Millis, account::BillingTarget};

/// Stripe's largest quantity in one meter event: fifteen digits.
pub const MAX_REPORT_QUANTITY: i64 = 999_999_999_999_999;
/// Usage older than this closes as soon as it is counted, so that Stripe's 35 days are not missed.
pub const CLOSE_AT_ONCE_MS: Millis = 33 * DAY_MS;
/// Stripe takes no event older than this.
pub const MAX_EVENT_AGE_MS: Millis = 35 * DAY_MS;
/// Stripe forgets an identifier after 24 hours at the earliest: from here on, look before sending.
pub const UNANSWERED_MS: Millis = 23 * HOUR_MS;
/// How often a report may be sent under a new identifier.
pub const MAX_GENERATION: i32 = 2;

/// Where a report is on its way from a call to an invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// It counts.
    Open,
    /// Frozen, and waiting to be sent.
    Closed,
    /// Given to Stripe at least once, without a final answer.
    Sending,
    /// Stripe took it.
    Accepted,
    /// Stripe's totals contain it.
    Confirmed,
    /// Stripe took it and its totals lack it.
    Missing,
    /// Stripe refused it for good.
    Rejected,
    /// The customer is gone.
    CustomerDeleted,
    /// Too long without an answer: looked up before anything is sent again.
    Unknown,
    /// Free, or older than what its link bills from.
    NotBillable,
    /// Waits for a link.
    NoCustomer,
    /// Too old for Stripe, or its invoice was final before Stripe had it: an admin decides.
    TooLate,
    /// An admin decided that it is never billed.
    WrittenOff,
}

/// What each state is called in the database and in the contract.
const NAMES: [(State, &str); 13] = [
    (State::Open, "open"),
    (State::Closed, "closed"),
    (State::Sending, "sending"),
    (State::Accepted, "accepted"),
    (State::Confirmed, "confirmed"),
    (State::Missing, "missing"),
    (State::Rejected, "rejected"),
    (State::CustomerDeleted, "customer_deleted"),
    (State::Unknown, "unknown"),
    (State::NotBillable, "not_billable"),
    (State::NoCustomer, "no_customer"),
    (State::TooLate, "too_late"),
    (State::WrittenOff, "written_off"),
];

impl State {
    /// Every state.
    pub const ALL: [Self; 13] = {
        let mut all = [Self::Open; 13];
        let mut index = 0;
        while index < all.len() {
            all[index] = NAMES[index].0;
            index += 1;
        }
        all
    };
    /// What the sender still has work with.
    pub const DUE: [Self; 3] = [Self::Closed, Self::Sending, Self::Unknown];
    /// What stays where it is until an admin decides.
    pub const UNDECIDED: [Self; 5] = [
        Self::Missing,
        Self::Rejected,
        Self::CustomerDeleted,
        Self::Unknown,
        Self::TooLate,
    ];
    /// What Stripe has.
    pub const REPORTED: [Self; 2] = [Self::Accepted, Self::Confirmed];

    /// The state's name, such as `not_billable`.
    pub fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(state, _)| *state == self)
            .map_or("open", |(_, name)| name)
    }

    /// The state of a name, where there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(state, _)| *state)
    }

    /// Whether Stripe has it.
    pub fn is_reported(self) -> bool {
        Self::REPORTED.contains(&self)
    }
}

/// What happens to a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Counting ends; the links at its window's start say the rest.
    Close(BillingTarget),
    /// The account's links changed for its window's start.
    Relink(BillingTarget),
    /// It is about to be given to Stripe.
    Send,
    /// Stripe took it, or had it already.
    Accept,
    /// Stripe refused it for good.
    Reject,
    /// Stripe knows no such customer.
    MarkCustomerDeleted,
    /// 23 hours without an answer.
    MarkUnknown,
    /// Stripe is known to lack it: send it under the next generation.
    SendUnderNewIdentifier,
    /// Stripe would not take it any more, or not put it on its invoice.
    MarkTooLate,
    /// Stripe's totals contain it.
    Confirm,
    /// A day later Stripe's totals still lack it.
    MarkMissing,
    /// An admin has it sent under a new identifier.
    Retry,
    /// An admin has it never billed.
    WriteOff,
}

impl State {
    /// The state after an event; `None` where the event cannot happen. Every transition is here.
    pub fn after(self, event: &Transition) -> Option<Self> {
        let closed_as = |target: &BillingTarget| match target {
            BillingTarget::NoCustomer => Self::NoCustomer,
            BillingTarget::NotBillable => Self::NotBillable,
            BillingTarget::Billed(_) => Self::Closed,
        };
        match (self, event) {
            // What is closed and was never given to Stripe follows a link that is learned late.
            (Self::Open, Transition::Close(target))
            | (Self::NoCustomer | Self::NotBillable | Self::Closed, Transition::Relink(target)) => {
                Some(closed_as(target))
            }
            (Self::Closed | Self::Sending, Transition::Send) => Some(Self::Sending),
            (Self::Sending | Self::Unknown, Transition::Accept) => Some(Self::Accepted),
            (Self::Sending, Transition::Reject) => Some(Self::Rejected),
            (Self::Closed | Self::Sending, Transition::MarkCustomerDeleted) => {
                Some(Self::CustomerDeleted)
            }
            (Self::Sending, Transition::MarkUnknown) => Some(Self::Unknown),
            (Self::Unknown, Transition::SendUnderNewIdentifier) => Some(Self::Closed),
            // `Sending` and `Unknown` expire only where no attempt can have arrived.
            (
                Self::Closed | Self::Sending | Self::NoCustomer | Self::Unknown,
                Transition::MarkTooLate,
            ) => Some(Self::TooLate),
            (Self::Accepted | Self::Missing, Transition::Confirm) => Some(Self::Confirmed),
            (Self::Accepted, Transition::MarkMissing) => Some(Self::Missing),
            (undecided, Transition::Retry) if Self::UNDECIDED.contains(&undecided) => {
                Some(Self::Closed)
            }
            (undecided, Transition::WriteOff) if Self::UNDECIDED.contains(&undecided) => {
                Some(Self::WrittenOff)
            }
            _ => None,
        }
    }
}

/// What a report holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What was counted.
    Usage,
    /// What an admin added or took away.
    Correction,
}

impl Kind {
    /// The kind's name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Correction => "correction",
        }
    }

    /// The kind of a name; anything else was counted.
    pub fn from_name(name: &str) -> Self {
        if name == Self::Correction.name() {
            Self::Correction
        } else {
            Self::Usage
        }
    }
}

/// The meter event's unique name at Stripe: the same on every retry of a generation.
pub fn identifier(id: Uuid, generation: i32) -> String {
    if generation == 0 {
        format!("usage_{}", id.simple())
    } else {
        format!("usage_{}_{generation}", id.simple())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Vec<Transition> {
        let standings = [
            BillingTarget::NoCustomer,
            BillingTarget::NotBillable,
            BillingTarget::Billed("cus".to_owned()),
        ];
        let mut events: Vec<Transition> = standings
            .iter()
            .flat_map(|target| {
                [
                    Transition::Close(target.clone()),
                    Transition::Relink(target.clone()),
                ]
            })
            .collect();
        events.extend([
            Transition::Send,
            Transition::Accept,
            Transition::Reject,
            Transition::MarkCustomerDeleted,
            Transition::MarkUnknown,
            Transition::SendUnderNewIdentifier,
            Transition::MarkTooLate,
            Transition::Confirm,
            Transition::MarkMissing,
            Transition::Retry,
            Transition::WriteOff,
        ]);
        events
    }

    #[test]
    fn nothing_that_stripe_has_is_ever_sent_again() {
        let settled = [State::Accepted, State::Confirmed, State::WrittenOff];
        for (state, event) in settled
            .iter()
            .flat_map(|state| events().into_iter().map(move |event| (*state, event)))
        {
            let next = state.after(&event);
            assert!(
                matches!(next, None | Some(State::Confirmed | State::Missing)),
                "{state:?} {event:?} {next:?}"
            );
        }
    }

    #[test]
    fn only_an_admin_has_sent_again_what_was_decided_or_lost() {
        for (state, event) in State::UNDECIDED
            .iter()
            .flat_map(|state| events().into_iter().map(move |event| (*state, event)))
        {
            let is_proven_absent =
                state == State::Unknown && event == Transition::SendUnderNewIdentifier;
            if state.after(&event) == Some(State::Closed) && !is_proven_absent {
                assert_eq!(event, Transition::Retry, "{state:?}");
            }
        }
    }

    #[test]
    fn only_closing_leaves_the_open_state_and_nothing_enters_it() {
        for state in State::ALL {
            for event in events() {
                let next = state.after(&event);
                assert_ne!(next, Some(State::Open));
                if state == State::Open {
                    assert_eq!(next.is_some(), matches!(event, Transition::Close(_)));
                }
            }
        }
    }

    #[test]
    fn every_state_has_a_name_that_leads_back_to_it() {
        for state in State::ALL {
            assert_eq!(State::from_name(state.name()), Some(state));
        }
    }

    #[test]
    fn an_identifier_is_stable_unique_to_its_generation_and_short_enough() {
        let id = Uuid::now_v7();
        assert_eq!(identifier(id, 0), identifier(id, 0));
        assert_ne!(identifier(id, 0), identifier(id, 1));
        assert!(identifier(id, i32::MAX).len() <= 100);
    }
}
