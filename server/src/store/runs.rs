//! Runs of the reporter: begun, closed, synced.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, EntityTrait as _, FromQueryResult, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, Func},
};
use uuid::Uuid;

use super::{Store, close::Scope, database_clock::HEARTBEAT_AHEAD_MS};
use crate::{
    domain::{Millis, report::State},
    entity::{report_run, usage_report},
    error::{Error, Result},
};

/// How many runs one look finds that somebody left unfinished.
const ABANDONED_PER_LOOK: u64 = 16;

/// A run as it stands in the database.
pub(crate) type Run = report_run::Model;

/// What is to be begun.
#[derive(Clone, Debug)]
pub(crate) struct NewRun {
    /// What started it: `schedule`, `force` or `period end`.
    pub(crate) trigger: &'static str,
    /// Who asked for it.
    pub(crate) requested_by: String,
    /// Whose reports it closes.
    pub(crate) scope: Scope,
}

/// How many reports of a run are in one state, and how much they hold.
#[derive(Debug, FromQueryResult)]
pub(crate) struct StateCount {
    /// A name of [`State`].
    pub(crate) state: String,
    /// Whether they wait for a retry: given to Stripe and not taken, so far.
    pub(crate) is_waiting: bool,
    /// How many.
    pub(crate) reports: i64,
    /// How much.
    pub(crate) quantity: i64,
}

impl NewRun {
    pub(super) fn row(&self, now: Millis) -> Result<report_run::ActiveModel> {
        let scope = match &self.scope {
            Scope::All => None,
            Scope::Accounts(accounts) => Some(
                serde_json::to_string(accounts)
                    .map_err(|error| Error::Internal(Box::new(error)))?,
            ),
        };
        Ok(report_run::ActiveModel {
            id: Set(Uuid::now_v7()),
            trigger: Set(self.trigger.to_owned()),
            requested_by: Set(self.requested_by.clone()),
            scope: Set(scope),
            started_at: Set(now),
            heartbeat_at: Set(now),
            closing_finished_at: Set(None),
            closed_reports: Set(0),
            closed_quantity: Set(0),
        })
    }
}

/// Whose reports a run closes.
pub(crate) fn scope_of(run: &Run) -> Result<Scope> {
    match &run.scope {
        None => Ok(Scope::All),
        Some(text) => serde_json::from_str(text)
            .map(Scope::Accounts)
            .map_err(|error| Error::Internal(Box::new(error))),
    }
}

impl Store {
    /// Begins a run.
    pub(crate) async fn insert_run(&self, new: &NewRun, now: Millis) -> Result<Run> {
        Ok(report_run::Entity::insert(new.row(now)?)
            .exec_with_returning(&self.writer)
            .await?)
    }

    /// The run of an id.
    pub(crate) async fn get_run(&self, id: Uuid) -> Result<Run> {
        report_run::Entity::find_by_id(id)
            .one(&self.reader)
            .await?
            .ok_or_else(|| Error::RunNotFound(id.to_string()))
    }

    /// Notes that a run has closed everything it means to close.
    pub(crate) async fn finish_closing(&self, id: Uuid, now: Millis) -> Result<()> {
        report_run::Entity::update_many()
            .col_expr(report_run::Column::ClosingFinishedAt, Expr::value(now))
            .filter(report_run::Column::Id.eq(id))
            .filter(report_run::Column::ClosingFinishedAt.is_null())
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Runs that nobody has worked on since a moment although they have more to close.
    pub(crate) async fn abandoned_runs(&self, since: Millis) -> Result<Vec<Run>> {
        Ok(report_run::Entity::find()
            .filter(report_run::Column::ClosingFinishedAt.is_null())
            .filter(
                report_run::Column::HeartbeatAt
                    .lt(since)
                    .or(report_run::Column::HeartbeatAt
                        .gt(since.saturating_add(HEARTBEAT_AHEAD_MS))),
            )
            .order_by_asc(report_run::Column::HeartbeatAt)
            .limit(ABANDONED_PER_LOOK)
            .all(&self.reader)
            .await?)
    }

    /// Notes that somebody works on a run.
    pub(crate) async fn touch_run(&self, id: Uuid, now: Millis) -> Result<()> {
        report_run::Entity::update_many()
            .col_expr(report_run::Column::HeartbeatAt, Expr::value(now))
            .filter(report_run::Column::Id.eq(id))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// What became of the reports that a run closed.
    pub(crate) async fn run_counts(&self, id: Uuid) -> Result<Vec<StateCount>> {
        use usage_report::Column;
        let is_waiting = Column::LastError.is_not_null();
        Ok(usage_report::Entity::find()
            .select_only()
            .column(Column::State)
            .column_as(is_waiting.clone(), "is_waiting")
            .column_as(Column::Id.count(), "reports")
            .column_as(
                Func::sum(Expr::col(Column::Quantity)).cast_as("bigint"),
                "quantity",
            )
            .filter(Column::RunId.eq(id))
            .group_by(Column::State)
            .group_by(is_waiting)
            .into_model::<StateCount>()
            .all(&self.reader)
            .await?)
    }

    /// How many reports of a scope, closed until a moment and not by this run, were not answered since they
    /// were closed or retry_requested.
    pub(crate) async fn unanswered_elsewhere(
        &self,
        run: &Run,
        scope: &Scope,
        meters: &[&str],
        until: Millis,
    ) -> Result<u64> {
        use sea_orm::PaginatorTrait as _;
        use usage_report::Column;
        Ok(scope
            .narrow(usage_report::Entity::find())
            .filter(Column::State.is_in([State::Closed.name(), State::Sending.name()]))
            .filter(Column::LastError.is_null())
            .filter(Column::Meter.is_in(meters.iter().copied()))
            .filter(Column::ClosedAt.lte(until))
            .filter(Column::RunId.is_null().or(Column::RunId.ne(run.id)))
            .count(&self.reader)
            .await?)
    }
}
