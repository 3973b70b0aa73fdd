//! Decisions: what an admin may do with a report that the service leaves alone.

use super::report::Transition;

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send it again, in its own window's period.
    Retry,
    /// Send it again, in the period of now.
    BillInCurrentPeriod,
    /// Never bill it.
    WriteOff,
}

/// What each action is called in the database.
const NAMES: [(Action, &str); 3] = [
    (Action::Retry, "retry"),
    (Action::BillInCurrentPeriod, "bill_in_current_period"),
    (Action::WriteOff, "write_off"),
];

impl Action {
    /// The action's name, such as `write_off`.
    pub fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(action, _)| *action == self)
            .map_or("retry", |(_, name)| name)
    }

    /// The action of a name, where there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(action, _)| *action)
    }

    /// What it means for the report.
    pub fn event(self) -> Transition {
        match self {
            Self::Retry | Self::BillInCurrentPeriod => Transition::Retry,
            Self::WriteOff => Transition::WriteOff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_a_name_that_leads_back_to_it() {
        for (action, name) in NAMES {
            assert_eq!(action.name(), name);
            assert_eq!(Action::from_name(name), Some(action));
        }
    }
}
