//! Queries of leases: which replica runs a background job, until when, and when the job last ran.
//!
//! All times are by the database's clock. `workers::runner` decides whether a job is due.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, DbErr, EntityTrait as _, Insert, PaginatorTrait as _, QueryFilter as _,
    TryInsertResult,
    sea_query::{Expr, ExprTrait as _, OnConflict},
};

use super::{
    Store,
    connection::Transaction,
    runs::{NewRun, without_deleted},
};
use crate::{
    domain::{Millis, run::Run},
    entity::{
        lease::{self, Column},
        report_run, subscription_change,
    },
    error::Result,
};

/// The row that is written to check that the database can be written.
const WRITE_CHECK: &str = "write check";

/// The row of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The replica that runs the job, or ran it last.
    pub(crate) holder: String,
    /// The time until which no other replica runs it.
    pub(crate) held_until: Millis,
    /// When it last ran; absent before the first run.
    pub(crate) last_run_at: Option<Millis>,
}

fn write_check() -> Insert<lease::ActiveModel> {
    let row = lease::ActiveModel {
        name: Set(WRITE_CHECK.to_owned()),
        holder: Set(String::new()),
        held_until: Set(0),
        last_run_at: Set(None),
    };
    let held_until = Expr::col((lease::Entity, Column::HeldUntil));
    let changed = OnConflict::column(Column::Name)
        .value(Column::HeldUntil, held_until.add(1))
        .to_owned();
    lease::Entity::insert(row).on_conflict(changed)
}

impl Store {
    /// Writes a row without readers: the service is ready only while that works.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(crate) async fn check_write(&self) -> Result<()> {
        // The connections that count: it shall show whether the service can.
        write_check().exec_without_returning(&self.counter).await?;
        Ok(())
    }

    /// Writes the same row, and rolls it back.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(crate) async fn try_write(&self) -> Result<()> {
        let tx = self.begin().await?;
        write_check().exec_without_returning(&tx).await?;
        tx.rollback().await?;
        Ok(())
    }

    /// Ends the leases and heartbeats that processes before this one left. Only for the one process that has the database:
    /// it need not wait for theirs to expire.
    pub(crate) async fn end_left_leases(&self) -> Result<()> {
        let tx = self.begin().await?;
        lease::Entity::update_many()
            .col_expr(Column::HeldUntil, Expr::value(0_i64))
            .filter(Column::Name.ne(WRITE_CHECK))
            .exec(&tx)
            .await?;
        report_run::Entity::update_many()
            .col_expr(report_run::Column::HeartbeatAt, Expr::value(0_i64))
            .filter(report_run::Column::ClosingFinishedAt.is_null())
            .exec(&tx)
            .await?;
        subscription_change::Entity::update_many()
            .col_expr(subscription_change::Column::HeartbeatAt, Expr::value(0_i64))
            .filter(subscription_change::Column::FinishedAt.is_null())
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// How many leases replicas hold now.
    pub(super) async fn held_leases(&self) -> Result<u64> {
        let now = self.shared_now().await?;
        let held = lease::Entity::find()
            .filter(Column::Name.ne(WRITE_CHECK))
            .filter(Column::HeldUntil.gt(now));
        Ok(held.count(&self.reader).await?)
    }

    /// The row of a job.
    pub(crate) async fn find_lease(&self, job: &str) -> Result<Option<Lease>> {
        let row = lease::Entity::find_by_id(job).one(&self.reader).await?;
        Ok(row.map(Lease::from))
    }

    /// Takes a lease that was read as `seen`. Returns false if another replica changed it in between.
    pub(crate) async fn take_lease(
        &self,
        job: &str,
        holder: &str,
        until: Millis,
        seen: Option<&Lease>,
    ) -> Result<bool> {
        let Some(seen) = seen else {
            let row = lease::ActiveModel {
                name: Set(job.to_owned()),
                holder: Set(holder.to_owned()),
                held_until: Set(until),
                last_run_at: Set(None),
            };
            let inserted = lease::Entity::insert(row)
                .on_conflict_do_nothing()
                .exec_without_returning(&self.writer)
                .await?;
            return Ok(matches!(inserted, TryInsertResult::Inserted(1)));
        };
        let done = lease::Entity::update_many()
            .col_expr(Column::Holder, Expr::value(holder))
            .col_expr(Column::HeldUntil, Expr::value(until))
            .filter(Column::Name.eq(job))
            .filter(Column::Holder.eq(&seen.holder))
            .filter(Column::HeldUntil.eq(seen.held_until))
            .exec(&self.writer)
            .await?;
        Ok(done.rows_affected == 1)
    }

    /// Extends a lease. Returns false if another replica has it.
    pub(crate) async fn prolong_lease(
        &self,
        job: &str,
        holder: &str,
        until: Millis,
    ) -> Result<bool> {
        let done = lease::Entity::update_many()
            .col_expr(Column::HeldUntil, Expr::value(until))
            .filter(Column::Name.eq(job))
            .filter(Column::Holder.eq(holder))
            .exec(&self.writer)
            .await?;
        Ok(done.rows_affected == 1)
    }

    /// Releases a lease, so that another replica does not wait for its end.
    pub(crate) async fn release_lease(&self, job: &str, holder: &str) -> Result<()> {
        self.prolong_lease(job, holder, 0).await.map(|_| ())
    }

    /// Records when a job ran. Returns false if another replica has its lease.
    pub(crate) async fn record_job_run(&self, job: &str, holder: &str, at: Millis) -> Result<bool> {
        let done = record(job, holder, at).exec(&self.writer).await?;
        Ok(done.rows_affected == 1)
    }

    /// Begins a report run for a job, and records in the same transaction that the job ran, so that a crash loses
    /// neither. Returns `None` if another replica has the job's lease.
    pub(crate) async fn insert_run_of_job(
        &self,
        job: &str,
        holder: &str,
        new: &NewRun,
        now: Millis,
    ) -> Result<Option<Run>> {
        let tx = self.begin_within_boundaries().await?;
        if !record_in(&tx, job, holder, now).await? {
            tx.rollback().await?;
            return Ok(None);
        }
        let new = without_deleted(&tx, new).await?;
        let alive_at = self.now_in(&tx).await?;
        let run = report_run::Entity::insert(new.row(now, alive_at)?)
            .exec_with_returning(&tx)
            .await?;
        tx.commit().await?;
        Ok(Some(run.try_into()?))
    }
}

fn record(job: &str, holder: &str, at: Millis) -> sea_orm::UpdateMany<lease::Entity> {
    lease::Entity::update_many()
        .col_expr(Column::LastRunAt, Expr::value(at))
        .filter(Column::Name.eq(job))
        .filter(Column::Holder.eq(holder))
}

async fn record_in(
    tx: &Transaction,
    job: &str,
    holder: &str,
    at: Millis,
) -> std::result::Result<bool, DbErr> {
    let done = record(job, holder, at).exec(tx).await?;
    Ok(done.rows_affected == 1)
}

impl From<lease::Model> for Lease {
    fn from(row: lease::Model) -> Self {
        Self {
            holder: row.holder,
            held_until: row.held_until,
            last_run_at: row.last_run_at,
        }
    }
}
