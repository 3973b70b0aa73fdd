//! The parts of a report that totals need.

use super::{
    Millis,
    account_id::AccountId,
    billed_usage::BilledUsage,
    report::{State, is_billed_elsewhere},
};
use uuid::Uuid;

/// The parts of a report that totals of billing periods need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportFigure {
    /// Its account.
    pub account_id: AccountId,
    /// Its id.
    pub id: Uuid,
    /// Its meter.
    pub meter: String,
    /// Its state.
    pub state: State,
    /// The Stripe customer it is billed to.
    pub customer: Option<String>,
    /// Its times and its quantity.
    pub usage: BilledUsage,
    /// How many reports it is: more than one only if they were folded.
    pub reports: i64,
    /// Whether it is of the folded ones.
    pub is_folded: bool,
}

impl ReportFigure {
    /// Whether another integration bills it.
    pub fn is_billed_elsewhere(&self) -> bool {
        is_billed_elsewhere(
            self.state,
            self.customer.as_deref(),
            self.usage.event_timestamp,
        )
    }
}

/// Usage from before a time that Stripe has not accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// Open reports.
    pub open: u64,
    /// Reports that are open, closed or being sent.
    pub waiting: u64,
    /// Reports that need an admin's decision.
    pub needs_decision: u64,
}

impl Outstanding {
    /// States of usage that is sent without a decision.
    pub const WAITING: [State; 3] = [State::Open, State::Closed, State::Sending];

    /// Whether usage in a state is on an invoice only after a decision. What no subscription charges is not lost by a
    /// change of one.
    fn needs_decision(state: State) -> bool {
        State::NEEDS_DECISION.contains(&state) && state != State::Uncharged
    }

    /// The outstanding reports that are billed before a time. Those that need a decision and are billed before `since`
    /// do not count.
    pub fn of(figures: &[ReportFigure], since: Millis, before: Millis) -> Self {
        let mut outstanding = Self::default();
        for figure in figures {
            let at = figure.usage.billed_at();
            if at >= before {
                continue;
            }
            if Self::WAITING.contains(&figure.state) {
                outstanding.waiting = outstanding.waiting.saturating_add(1);
                if figure.state == State::Open {
                    outstanding.open = outstanding.open.saturating_add(1);
                }
            } else if Self::needs_decision(figure.state) && at >= since {
                outstanding.needs_decision = outstanding.needs_decision.saturating_add(1);
            }
        }
        outstanding
    }
}

/// The sum of quantities. It saturates.
pub fn total<'a>(figures: impl IntoIterator<Item = &'a ReportFigure>) -> i64 {
    figures.into_iter().fold(0, |sum: i64, figure| {
        sum.saturating_add(figure.usage.quantity)
    })
}
