//! The list of report runs.

use crate::{
    Error, ReportCount, proto,
    wire::{non_empty, optional_time, optional_time_to_wire, page_size_to_wire, required_time},
};
use chrono::{DateTime, Utc};
use std::fmt;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RunState {
    /// It closes the reports of its accounts.
    Closing,
    /// It has not closed all of them, and no server has worked on it for 15 seconds.
    Stalled,
    /// All are closed. Its reports say what became of them.
    Closed,
    /// A state that this version of the client does not know, by its number.
    Unrecognised(i32),
}

impl RunState {
    /// All states that this version knows.
    pub const ALL: [Self; 3] = [Self::Closing, Self::Stalled, Self::Closed];

    fn from_wire(number: i32) -> Self {
        let known = Self::ALL.into_iter();
        let mut known = known.filter(|state| state.to_wire() == number);
        known.next().unwrap_or(Self::Unrecognised(number))
    }

    fn to_wire(self) -> i32 {
        use proto::ReportRunState as Wire;
        match self {
            Self::Closing => Wire::Closing.into(),
            Self::Stalled => Wire::Stalled.into(),
            Self::Closed => Wire::Closed.into(),
            Self::Unrecognised(number) => number,
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closing => f.write_str("closing"),
            Self::Stalled => f.write_str("stalled"),
            Self::Closed => f.write_str("closed"),
            Self::Unrecognised(number) => write!(f, "{number}"),
        }
    }
}

/// What began a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RunTrigger {
    /// The schedule.
    Schedule,
    /// [`force_report`](crate::UsageClient::force_report).
    Force,
    /// The end of a billing period.
    PeriodEnd,
    /// A trigger that this version of the client does not know, by its number.
    Unrecognised(i32),
}

impl RunTrigger {
    fn from_wire(number: i32) -> Self {
        use proto::ReportRunTrigger as Wire;
        match Wire::try_from(number) {
            Ok(Wire::Schedule) => Self::Schedule,
            Ok(Wire::Force) => Self::Force,
            Ok(Wire::PeriodEnd) => Self::PeriodEnd,
            Ok(Wire::Unspecified) | Err(_) => Self::Unrecognised(number),
        }
    }
}

impl fmt::Display for RunTrigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Schedule => f.write_str("schedule"),
            Self::Force => f.write_str("force"),
            Self::PeriodEnd => f.write_str("period end"),
            Self::Unrecognised(number) => write!(f, "{number}"),
        }
    }
}

/// Which runs to list.
///
/// ```
/// use usage_client::{ListRuns, RunState};
///
/// let unfinished = ListRuns::new().states([RunState::Closing, RunState::Stalled]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "nothing is listed until it is sent"]
pub struct ListRuns {
    from: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    states: Vec<RunState>,
    run: String,
    page_size: u32,
    page_token: String,
}

impl ListRuns {
    /// All runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only runs that began at this time or later.
    pub fn from(mut self, from: DateTime<Utc>) -> Self {
        self.from = Some(from);
        self
    }

    /// Only runs that began before this time.
    pub fn until(mut self, until: DateTime<Utc>) -> Self {
        self.until = Some(until);
        self
    }

    /// Only runs in these states.
    pub fn states(mut self, states: impl IntoIterator<Item = RunState>) -> Self {
        self.states = states.into_iter().collect();
        self
    }

    /// Only the run with this id.
    pub fn run(mut self, id: impl Into<String>) -> Self {
        self.run = id.into();
        self
    }

    /// The maximum number of runs on the page, up to 1,000.
    pub fn page_size(mut self, page_size: u32) -> Self {
        self.page_size = page_size;
        self
    }

    /// The page that follows the one with this [`RunPage::next_page_token`], for the same filter.
    pub fn page_token(mut self, page_token: impl Into<String>) -> Self {
        self.page_token = page_token.into();
        self
    }

    pub(crate) fn into_wire(self) -> Result<proto::ListRunsRequest, Error> {
        Ok(proto::ListRunsRequest {
            from: optional_time_to_wire(self.from, "from")?,
            until: optional_time_to_wire(self.until, "until")?,
            states: self.states.into_iter().map(RunState::to_wire).collect(),
            page_size: page_size_to_wire(self.page_size),
            page_token: self.page_token,
            run_id: self.run,
        })
    }
}

/// What became of the reports that a run closed; see [`ReportSummary`](crate::ReportSummary).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RunResults {
    /// Accepted by Stripe.
    pub accepted: ReportCount,
    /// Not billed: rejected, customer deleted, too late or written off.
    pub rejected: ReportCount,
    /// Not sent yet for the first time.
    pub pending: ReportCount,
    /// No final answer yet; the service continues to retry by itself.
    pub retried_later: ReportCount,
    /// Never billed.
    pub not_billable: ReportCount,
    /// Waiting because the account has no Stripe customer.
    pub no_customer: ReportCount,
}

/// A run in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedRun {
    /// Its id.
    pub id: String,
    /// What began it.
    pub trigger: RunTrigger,
    /// Who requested it, if a caller did.
    pub requested_by: Option<String>,
    /// How many accounts it was for; none if all.
    pub accounts: Option<u32>,
    /// How far it is.
    pub state: RunState,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When everything was closed; none until then.
    pub closed_at: Option<DateTime<Utc>>,
    /// The reports that it has closed.
    pub closed: ReportCount,
    /// What became of them; none if they are too many to be counted in a list.
    pub results: Option<RunResults>,
}

impl ListedRun {
    fn from_wire(run: proto::ListedRun) -> Result<Self, Error> {
        let count = |of: Option<proto::ReportCount>| ReportCount::from(of);
        let accounts = u32::try_from(run.accounts).ok();
        Ok(Self {
            id: run.id,
            trigger: RunTrigger::from_wire(run.trigger),
            requested_by: non_empty(run.requested_by),
            accounts: accounts.filter(|accounts| *accounts > 0),
            state: RunState::from_wire(run.state),
            started_at: required_time(run.started_at, "runs.started_at")?,
            closed_at: optional_time(run.closed_at, "runs.closed_at")?,
            closed: count(run.closed),
            results: run.results.map(|results| RunResults {
                accepted: count(results.accepted),
                rejected: count(results.rejected),
                pending: count(results.pending),
                retried_later: count(results.retried_later),
                not_billable: count(results.not_billable),
                no_customer: count(results.no_customer),
            }),
        })
    }
}

/// A page of runs, the latest first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunPage {
    /// The runs.
    pub runs: Vec<ListedRun>,
    /// The token of the next page; none on the last page.
    pub next_page_token: Option<String>,
}

impl RunPage {
    pub(crate) fn from_wire(response: proto::ListRunsResponse) -> Result<Self, Error> {
        let runs = response.runs.into_iter().map(ListedRun::from_wire);
        Ok(Self {
            runs: runs.collect::<Result<_, _>>()?,
            next_page_token: non_empty(response.next_page_token),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_proto_state_and_trigger_is_known() {
        let states = (1..).take_while(|number| proto::ReportRunState::try_from(*number).is_ok());
        let states: Vec<RunState> = states.map(RunState::from_wire).collect();
        assert_eq!(states, RunState::ALL);
        let triggers =
            (1..).take_while(|number| proto::ReportRunTrigger::try_from(*number).is_ok());
        let triggers: Vec<String> = triggers
            .map(|number| RunTrigger::from_wire(number).to_string())
            .collect();
        assert_eq!(triggers, ["schedule", "force", "period end"]);
    }
}
