//! Queries of report runs: begin, finish closing, and the states of their reports.

use std::collections::HashSet;

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, DbBackend, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, TryInsertResult,
    sea_query::{Expr, ExprTrait as _, Func},
};
use uuid::Uuid;

use super::{
    FORCED_RUN_LOCK, Store,
    connection::Transaction,
    deleted_accounts::{find_deleted, read_salts},
    heartbeat::is_abandoned,
    lock,
    report_states::is_due,
    reports::in_scope,
    retried::retried,
};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        report::State,
        run::{Run, Scope, Trigger},
    },
    entity::{
        report_run::{self, ReportRunTrigger},
        usage_report::{self, UsageReportState},
    },
    error::{Error, Result},
};

/// How many abandoned runs one query reads.
const BATCH_SIZE: u64 = 16;

/// A run to begin.
#[derive(Clone, Debug)]
pub(crate) struct NewRun {
    /// What started it.
    pub(crate) trigger: Trigger,
    /// Who requested it.
    pub(crate) requested_by: String,
    /// The accounts whose reports it closes.
    pub(crate) scope: Scope,
    /// Its id, if the caller chose one.
    pub(crate) id: Option<Uuid>,
}

/// The number of a run's reports in one state, and their total.
#[derive(Debug)]
pub(crate) struct StateCount {
    /// The state.
    pub(crate) state: State,
    /// Whether they wait for a retry after a failed attempt.
    pub(crate) is_waiting: bool,
    /// The number of reports.
    pub(crate) reports: i64,
    /// The sum of their quantities.
    pub(crate) quantity: i64,
}

impl NewRun {
    /// The row of one that was requested at one time, and that a replica works on from another time.
    pub(super) fn row(&self, now: Millis, alive_at: Millis) -> Result<report_run::ActiveModel> {
        let scope = match &self.scope {
            Scope::All => None,
            Scope::Accounts(accounts) => {
                let ids: Vec<&str> = accounts.iter().map(AccountId::as_str).collect();
                Some(serde_json::to_string(&ids).map_err(|error| Error::Internal(error.into()))?)
            }
        };
        Ok(report_run::ActiveModel {
            id: Set(self.id.unwrap_or_else(Uuid::now_v7)),
            trigger: Set(self.trigger.into()),
            requested_by: Set(self.requested_by.clone()),
            scope: Set(scope),
            started_at: Set(now),
            heartbeat_at: Set(Ord::max(now, alive_at)),
            closing_finished_at: Set(None),
            closed_reports: Set(0),
            closed_quantity: Set(0),
        })
    }
}

/// A run without the accounts that were deleted since it was requested. Their ids must not be stored again.
///
/// # Errors
/// A caller names one.
pub(super) async fn without_deleted(tx: &Transaction, new: &NewRun) -> Result<NewRun> {
    let mut new = new.clone();
    if let Scope::Accounts(accounts) = &mut new.scope {
        let salts = read_salts(tx).await?;
        let found = find_deleted(tx, &salts, accounts.iter()).await?;
        let deleted: HashSet<AccountId> = found.into_iter().cloned().collect();
        if !deleted.is_empty() && new.trigger == Trigger::Force {
            return Err(Error::AccountDeleted);
        }
        accounts.retain(|account| !deleted.contains(account));
    }
    Ok(new)
}

/// How many forced runs have not closed all of their reports, up to a limit.
async fn count_forced_runs(tx: &Transaction, limit: usize) -> std::result::Result<usize, DbErr> {
    use report_run::Column;
    let found: Vec<Uuid> = report_run::Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::ClosingFinishedAt.is_null())
        .filter(Column::Trigger.eq(ReportRunTrigger::from(Trigger::Force)))
        .limit(u64::try_from(limit).unwrap_or(u64::MAX))
        .into_tuple()
        .all(tx)
        .await?;
    Ok(found.len())
}

impl Store {
    /// Begins a run.
    pub(crate) async fn insert_run(&self, new: &NewRun, now: Millis) -> Result<Run> {
        retried(|| self.insert_run_once(new, now)).await
    }

    async fn insert_run_once(&self, new: &NewRun, now: Millis) -> Result<Run> {
        let tx = self.begin_within_boundaries().await?;
        let new = without_deleted(&tx, new).await?;
        let alive_at = self.now_in(&tx).await?;
        let row = report_run::Entity::insert(new.row(now, alive_at)?)
            .exec_with_returning(&tx)
            .await?;
        tx.commit().await?;
        Ok(row.try_into()?)
    }

    /// Begins a run that a caller requested, unless so many have not closed all of their reports; none if a run has its id.
    ///
    /// These transactions are serialized, so of two at the limit one counts the other. On SQLite, the single writer does
    /// that.
    ///
    /// # Errors
    /// There are so many, and nothing was stored; or the database fails.
    pub(crate) async fn insert_forced_run(
        &self,
        new: &NewRun,
        limit: usize,
        now: Millis,
    ) -> Result<Option<Run>> {
        let inserted = retried(|| self.insert_forced_run_once(new, limit, now)).await?;
        match inserted {
            Some(id) => self.get_run(id).await.map(Some),
            None => Ok(None),
        }
    }

    async fn insert_forced_run_once(
        &self,
        new: &NewRun,
        limit: usize,
        now: Millis,
    ) -> Result<Option<Uuid>> {
        let tx = self.begin_within_boundaries().await?;
        if self.backend() == DbBackend::Postgres {
            lock(&tx, "SELECT pg_advisory_xact_lock($1)", FORCED_RUN_LOCK).await?;
        }
        if let Some(id) = new.id
            && report_run::Entity::find_by_id(id).one(&tx).await?.is_some()
        {
            tx.rollback().await?;
            return Ok(None);
        }
        if count_forced_runs(&tx, limit).await? >= limit {
            tx.rollback().await?;
            return Err(Error::TooManyRuns { limit });
        }
        let new = without_deleted(&tx, new).await?;
        // A run that began otherwise may have got the id meanwhile.
        let row = new.row(now, self.now_in(&tx).await?)?;
        let id = row.id.clone();
        let inserted = report_run::Entity::insert(row)
            .on_conflict_do_nothing()
            .exec_without_returning(&tx)
            .await?;
        tx.commit().await?;
        match (inserted, id) {
            (TryInsertResult::Inserted(1), Set(id)) => Ok(Some(id)),
            _ => Ok(None),
        }
    }

    /// The run with an id.
    pub(crate) async fn get_run(&self, id: Uuid) -> Result<Run> {
        let run = self.find_run(id).await?;
        run.ok_or_else(|| Error::RunNotFound(id.to_string()))
    }

    /// The same, which may not exist.
    pub(crate) async fn find_run(&self, id: Uuid) -> Result<Option<Run>> {
        let found = report_run::Entity::find_by_id(id).one(&self.reader).await?;
        Ok(found.map(Run::try_from).transpose()?)
    }

    /// Records that a run has closed everything in its scope.
    pub(crate) async fn finish_closing(&self, id: Uuid, now: Millis) -> Result<()> {
        report_run::Entity::update_many()
            .col_expr(report_run::Column::ClosingFinishedAt, Expr::value(now))
            .filter(report_run::Column::Id.eq(id))
            .filter(report_run::Column::ClosingFinishedAt.is_null())
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Runs that have not finished closing and have had no heartbeat since a time.
    pub(crate) async fn abandoned_runs(&self, since: Millis) -> Result<Vec<Run>> {
        let rows = report_run::Entity::find()
            .filter(report_run::Column::ClosingFinishedAt.is_null())
            .filter(is_abandoned(report_run::Column::HeartbeatAt, since))
            .order_by_asc(report_run::Column::HeartbeatAt)
            .limit(BATCH_SIZE)
            .all(&self.reader)
            .await?;
        let runs: std::result::Result<_, _> = rows.into_iter().map(Run::try_from).collect();
        Ok(runs?)
    }

    /// Renews a run's heartbeat.
    pub(crate) async fn touch_run(&self, id: Uuid) -> Result<()> {
        retried(|| self.touch_run_once(id)).await
    }

    async fn touch_run_once(&self, id: Uuid) -> Result<()> {
        let tx = self.begin().await?;
        let run = report_run::Entity::find_by_id(id).lock_exclusive();
        run.one(&tx).await?;
        let now = self.now_in(&tx).await?;
        report_run::Entity::update_many()
            .col_expr(report_run::Column::HeartbeatAt, Expr::value(now))
            .filter(report_run::Column::Id.eq(id))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The states of the reports that a run closed.
    pub(crate) async fn run_counts(&self, id: Uuid) -> Result<Vec<StateCount>> {
        use usage_report::Column;
        let is_waiting = Column::LastError.is_not_null();
        let counts: Vec<(UsageReportState, bool, i64, i64)> = usage_report::Entity::find()
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
            .into_tuple()
            .all(&self.reader)
            .await?;
        Ok(counts
            .into_iter()
            .map(|(state, is_waiting, reports, quantity)| StateCount {
                state: state.into(),
                is_waiting,
                reports,
                quantity,
            })
            .collect())
    }

    /// Counts the reports in a run's scope that other runs closed until a time, and that have had no response from
    /// Stripe since they were closed or a retry was forced.
    pub(crate) async fn count_pending_elsewhere(
        &self,
        run: &Run,
        meters: &[&str],
        until: Millis,
    ) -> Result<u64> {
        use sea_orm::PaginatorTrait as _;
        use usage_report::Column;
        Ok(
            in_scope(&run.scope, usage_report::Entity::find(), Column::AccountId)
                .filter(is_due())
                .filter(Column::State.ne(UsageReportState::Unknown))
                .filter(Column::LastError.is_null())
                .filter(Column::Meter.is_in(meters.iter().copied()))
                .filter(Column::ClosedAt.lte(until))
                .filter(Column::RunId.is_null().or(Column::RunId.ne(run.id)))
                .count(&self.reader)
                .await?,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::MINUTE_MS;

    fn run_of(trigger: Trigger) -> NewRun {
        NewRun {
            trigger,
            requested_by: "a test".to_owned(),
            scope: Scope::All,
            id: None,
        }
    }

    #[tokio::test]
    async fn what_waited_long_for_a_lock_is_not_old_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("usage.db").display());
        let store = Store::open(&url, 1).await.unwrap();
        store.migrate().await.unwrap();
        let now = store.now().await.unwrap();
        let asked = now - MINUTE_MS;
        let forced = run_of(Trigger::Force);
        let ended = run_of(Trigger::PeriodEnd);
        let forced = store.insert_forced_run(&forced, 1, asked).await.unwrap();
        let ended = store.insert_run(&ended, asked).await.unwrap();
        assert!(store.take_lease("a job", "here", now, None).await.unwrap());
        let scheduled = run_of(Trigger::Schedule);
        let scheduled = store.insert_run_of_job("a job", "here", &scheduled, asked);
        let scheduled = scheduled.await.unwrap();
        for run in [forced.unwrap(), ended, scheduled.unwrap()] {
            assert_eq!(run.started_at, asked);
            assert!(run.heartbeat_at >= now, "{run:?}");
        }
        // None of them was left alone.
        let left = store.abandoned_runs(now).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
        store.close().await.unwrap();
    }
}
