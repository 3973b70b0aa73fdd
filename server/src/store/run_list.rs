//! Pages of report runs, and what became of their reports.

use std::collections::HashMap;

use sea_orm::{
    ColumnTrait as _, Condition, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, Func},
};
use uuid::Uuid;

use super::{Store, heartbeat::is_abandoned, runs::StateCount};
use crate::{
    domain::{
        Millis,
        run::{Progress, Run, RunFilter},
    },
    entity::{
        report_run::{self, Column},
        usage_report::{self, UsageReportState},
    },
    error::Result,
};

/// The reports whose states are counted for one page.
const MAX_COUNTED: i64 = 100_000;

/// The runs of a page whose reports are counted: the first ones, with at most 100,000 reports together.
pub(crate) fn countable(runs: &[Run]) -> Vec<Uuid> {
    let mut left = MAX_COUNTED;
    let mut counted = Vec::new();
    for run in runs {
        let rest = left.saturating_sub(run.closed_reports);
        if rest >= 0 {
            left = rest;
            counted.push(run.id);
        }
    }
    counted
}

impl Store {
    /// Runs after the one with a start and an id, the latest first. A run is stalled that has not closed everything and has
    /// no heartbeat since a time.
    pub(crate) async fn list_runs(
        &self,
        filter: &RunFilter,
        alive_since: Millis,
        after: Option<(Millis, Uuid)>,
        limit: u64,
    ) -> Result<Vec<Run>> {
        let mut query = report_run::Entity::find();
        if let Some(from) = filter.from {
            query = query.filter(Column::StartedAt.gte(from));
        }
        if let Some(until) = filter.until {
            query = query.filter(Column::StartedAt.lt(until));
        }
        if let Some(id) = filter.id {
            query = query.filter(Column::Id.eq(id));
        }
        if let Some((at, id)) = after {
            let place = Expr::tuple([Expr::col(Column::StartedAt), Expr::col(Column::Id)]);
            query = query.filter(place.lt(Expr::tuple([Expr::value(at), Expr::value(id)])));
        }
        if let Some(condition) = in_states(&filter.states, alive_since) {
            query = query.filter(condition);
        }
        let rows = query
            .order_by_desc(Column::StartedAt)
            .order_by_desc(Column::Id)
            .limit(limit)
            .all(&self.reader)
            .await?;
        let runs: std::result::Result<_, _> = rows.into_iter().map(Run::try_from).collect();
        Ok(runs?)
    }

    /// The states of the reports that these runs closed, by run.
    pub(crate) async fn counts_of_runs(
        &self,
        runs: &[Uuid],
    ) -> Result<HashMap<Uuid, Vec<StateCount>>> {
        use usage_report::Column;
        if runs.is_empty() {
            return Ok(HashMap::new());
        }
        let is_waiting = Column::LastError.is_not_null();
        let counts: Vec<(Uuid, UsageReportState, bool, i64, i64)> = usage_report::Entity::find()
            .select_only()
            .column(Column::RunId)
            .column(Column::State)
            .column_as(is_waiting.clone(), "is_waiting")
            .column_as(Column::Id.count(), "reports")
            .column_as(
                Func::sum(Expr::col(Column::Quantity)).cast_as("bigint"),
                "quantity",
            )
            .filter(Column::RunId.is_in(runs.iter().copied()))
            .group_by(Column::RunId)
            .group_by(Column::State)
            .group_by(is_waiting)
            .into_tuple()
            .all(&self.reader)
            .await?;
        let mut by_run: HashMap<Uuid, Vec<StateCount>> = HashMap::new();
        for (run, state, is_waiting, reports, quantity) in counts {
            by_run.entry(run).or_default().push(StateCount {
                state: state.into(),
                is_waiting,
                reports,
                quantity,
            });
        }
        Ok(by_run)
    }
}

/// The condition that a run is in one of these states; none if every run is.
fn in_states(states: &[Progress], alive_since: Millis) -> Option<Condition> {
    if states.is_empty() {
        return None;
    }
    let is_closing = Column::ClosingFinishedAt.is_null();
    let is_stalled = is_abandoned(Column::HeartbeatAt, alive_since);
    let conditions = states.iter().map(|state| match state {
        Progress::Closing => Condition::all()
            .add(is_closing.clone())
            .add(is_stalled.clone().not()),
        Progress::Stalled => Condition::all()
            .add(is_closing.clone())
            .add(is_stalled.clone()),
        Progress::Closed => Condition::all().add(Column::ClosingFinishedAt.is_not_null()),
    });
    Some(conditions.fold(Condition::any(), Condition::add))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::run::{Scope, Trigger};

    #[test]
    fn runs_are_counted_while_their_reports_are_few() {
        let run = |number: u128, closed_reports| Run {
            id: Uuid::from_u128(number),
            trigger: Trigger::Schedule,
            requested_by: String::new(),
            scope: Scope::All,
            started_at: 0,
            heartbeat_at: 0,
            closing_finished_at: None,
            closed_reports,
            closed_quantity: 0,
        };
        let runs = [run(1, 99_000), run(2, 1_001), run(3, 1_000), run(4, 0)];
        let expected = [1, 3, 4].map(Uuid::from_u128);
        assert_eq!(countable(&runs), expected);
    }
}
