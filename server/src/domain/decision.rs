//! Decisions: how an admin resolves a report that the service does not retry.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{
    Millis,
    account_id::AccountId,
    hex::hex,
    names::names,
    report::{Report, State, Transition},
};

/// The hexadecimal digits of an etag.
const ETAG_CHARS: usize = 16;

/// The action of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Send it again, billed in the period of its window.
    Retry,
    /// Send it again, billed in the current period.
    BillInCurrentPeriod,
    /// Never bill it.
    WriteOff,
}

names!(Action {
    Retry = "retry",
    BillInCurrentPeriod = "bill_in_current_period",
    WriteOff = "write_off",
});

impl Action {
    /// The transition of the report.
    pub fn transition(self) -> Transition {
        match self {
            Self::Retry | Self::BillInCurrentPeriod => Transition::Retry,
            Self::WriteOff => Transition::WriteOff,
        }
    }
}

/// Names a report and its decisions, as far as another decision depends on them.
pub fn etag(report: &Report, last: Option<&Decision>) -> String {
    let seen = format!(
        "{} {} {} {:?} {:?}",
        report.state.name(),
        report.generation,
        report.quantity,
        report.customer,
        last.map(|decision| (decision.decided_at, decision.action)),
    );
    let mut etag = hex(&Sha256::digest(seen.as_bytes()));
    etag.truncate(ETAG_CHARS);
    etag
}

/// A decision as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedDecision {
    /// The account of the report.
    pub account_id: AccountId,
    /// A `UUIDv7`.
    pub id: Uuid,
    /// The decision.
    pub decision: Decision,
}

/// A decision on a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The report.
    pub report_id: Uuid,
    /// The action.
    pub action: Action,
    /// Why.
    pub reason: String,
    /// Who decided.
    pub requested_by: String,
    /// The report's state before the decision.
    pub from_state: State,
    /// The report's generation after the decision.
    pub generation: i32,
    /// When it was decided.
    pub decided_at: Millis,
}

/// What is kept of a decision with the sum that its report is folded into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decided {
    /// When it was decided.
    pub at: Millis,
    /// The action.
    pub action: Action,
}

impl From<&Decision> for Decided {
    fn from(decision: &Decision) -> Self {
        Self {
            at: decision.decided_at,
            action: decision.action,
        }
    }
}

impl Decided {
    /// Decisions as they are stored, such as `1792000000000:retry 1792000000001:write_off`; `None` if there are none.
    pub fn texts(all: &[Self]) -> Option<String> {
        let one = |decided: &Self| format!("{}:{}", decided.at, decided.action.name());
        let texts: Vec<String> = all.iter().map(one).collect();
        (!texts.is_empty()).then(|| texts.join(" "))
    }

    /// Decisions that were stored. What another version stored in another way is left out.
    pub fn parse(stored: Option<&str>) -> Vec<Self> {
        let one = |text: &str| {
            let (at, name) = text.split_once(':')?;
            let action = Action::ALL.into_iter().find(|one| one.name() == name)?;
            let at = at.parse().ok()?;
            Some(Self { at, action })
        };
        let stored = stored.unwrap_or_default().split_whitespace();
        stored.filter_map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_decisions_are_read_as_they_were() {
        let all = Action::ALL.map(|action| Decided { at: 7, action });
        let text = Decided::texts(&all);
        assert_eq!(
            text.as_deref(),
            Some("7:retry 7:bill_in_current_period 7:write_off")
        );
        assert_eq!(Decided::parse(text.as_deref()), all);
        assert_eq!(Decided::texts(&[]), None);
        assert_eq!(Decided::parse(None), []);
    }
}
