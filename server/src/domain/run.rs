//! Report runs: a run closes the open reports of a scope, and the sender sends them.

use uuid::Uuid;

use super::{MINUTE_MS, Millis, account_id::AccountId, names::names};

/// What started a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The schedule.
    Schedule,
    /// `ForceReport`.
    Force,
    /// The end of a billing period.
    PeriodEnd,
}

names!(Trigger {
    Schedule = "schedule",
    Force = "force",
    PeriodEnd = "period end",
});

/// The accounts whose reports a run closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All accounts.
    All,
    /// These accounts.
    Accounts(Vec<AccountId>),
}

impl Scope {
    /// Whether both are of the same accounts, in whatever order, and however often each is named.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, Self::All) => true,
            (Self::Accounts(one), Self::Accounts(other)) => sorted(one) == sorted(other),
            (Self::All, Self::Accounts(_)) | (Self::Accounts(_), Self::All) => false,
        }
    }
}

/// Each account once.
fn sorted(accounts: &[AccountId]) -> Vec<&AccountId> {
    let mut sorted: Vec<&AccountId> = accounts.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    sorted
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// A `UUIDv7`.
    pub id: Uuid,
    /// What started it.
    pub trigger: Trigger,
    /// Who requested it.
    pub requested_by: String,
    /// The accounts whose reports it closes.
    pub scope: Scope,
    /// When it began.
    pub started_at: Millis,
    /// When a replica last closed reports for it.
    pub heartbeat_at: Millis,
    /// When everything in scope was closed.
    pub closing_finished_at: Option<Millis>,
    /// How many reports it closed.
    pub closed_reports: i64,
    /// The sum of their quantities.
    pub closed_quantity: i64,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// It closes reports.
    Closing,
    /// It has not closed all of them, and no replica works on it.
    Stalled,
    /// All are closed.
    Closed,
}

impl Run {
    /// How far it is. Without a heartbeat since a time, or with one from a clock that was ahead, no replica works on it.
    pub fn progress(&self, alive_since: Millis) -> Progress {
        if self.closing_finished_at.is_some() {
            Progress::Closed
        } else if is_abandoned(self.heartbeat_at, alive_since) {
            Progress::Stalled
        } else {
            Progress::Closing
        }
    }
}

/// Whether a heartbeat is older than `since`, or so far after it that a clock was ahead.
fn is_abandoned(heartbeat: Millis, since: Millis) -> bool {
    heartbeat < since || heartbeat > since.saturating_add(AHEAD_MS)
}

/// A heartbeat that is later than the limit of staleness by this much was stored before the clock was set back.
pub(crate) const AHEAD_MS: Millis = 2 * MINUTE_MS;

/// Which runs to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Only runs that began at this time or later.
    pub from: Option<Millis>,
    /// Only runs that began before this time.
    pub until: Option<Millis>,
    /// Only runs that are this far; empty means all.
    pub states: Vec<Progress>,
    /// Only this run.
    pub id: Option<Uuid>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_a_heartbeat_is_stalled_until_all_is_closed() {
        let mut run = Run {
            id: Uuid::nil(),
            trigger: Trigger::Force,
            requested_by: String::new(),
            scope: Scope::All,
            started_at: 0,
            heartbeat_at: 1_000,
            closing_finished_at: None,
            closed_reports: 0,
            closed_quantity: 0,
        };
        assert_eq!(run.progress(1_000), Progress::Closing);
        assert_eq!(run.progress(1_001), Progress::Stalled);
        run.heartbeat_at = 1_001 + AHEAD_MS;
        assert_eq!(run.progress(1_000), Progress::Stalled);
        run.closing_finished_at = Some(5);
        assert_eq!(run.progress(1_001), Progress::Closed);
    }

    #[test]
    fn the_order_of_accounts_makes_no_other_scope() {
        let of = |ids: &[&str]| {
            let accounts = ids.iter().map(|id| AccountId::parse(id).unwrap());
            Scope::Accounts(accounts.collect())
        };
        assert!(of(&["a", "b"]).is_same(&of(&["b", "a", "b"])));
        assert!(!of(&["a", "b"]).is_same(&of(&["a"])));
        assert!(!of(&["a"]).is_same(&Scope::All));
        assert!(Scope::All.is_same(&Scope::All));
    }
}
