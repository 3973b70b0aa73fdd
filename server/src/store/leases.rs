//! Leases: which replica runs which job, by the database's clock, and when each job last ran.

use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DbBackend, EntityTrait as _, QueryFilter as _,
    Statement, sea_query::Expr,
};

use super::{
    Store,
    runs::{NewRun, Run},
};
use crate::{
    domain::Millis,
    entity::{lease, report_run},
    error::Result,
};

impl Store {
    /// Takes or prolongs a lease; false when another replica holds it.
    pub(crate) async fn hold_lease(
        &self,
        name: &str,
        holder: &str,
        ttl_ms: Millis,
    ) -> Result<bool> {
        let backend = self.backend();
        let now = if backend == DbBackend::Postgres {
            "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint"
        } else {
            "CAST(unixepoch('subsec') * 1000 AS INTEGER)"
        };
        let sql = format!(
            "INSERT INTO leases (name, holder, held_until) VALUES ($1, $2, {now} + $3) \
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until \
             WHERE leases.holder = excluded.holder OR leases.held_until < {now}"
        );
        let values = [name.into(), holder.into(), ttl_ms.into()];
        let done = self
            .writer
            .execute_raw(Statement::from_sql_and_values(backend, sql, values))
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Gives a lease back, so that another replica need not wait for its end.
    pub(crate) async fn release_lease(&self, name: &str, holder: &str) -> Result<()> {
        lease::Entity::update_many()
            .col_expr(lease::Column::HeldUntil, Expr::value(0_i64))
            .filter(lease::Column::Name.eq(name))
            .filter(lease::Column::Holder.eq(holder))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// When a job last ran. The first time somebody asks, it is taken to have run just now.
    pub(crate) async fn last_run_at(&self, job: &str, now: Millis) -> Result<Millis> {
        if let Some(Some(at)) = lease::Entity::find_by_id(job)
            .one(&self.reader)
            .await?
            .map(|row| row.last_run_at)
        {
            return Ok(at);
        }
        let row = lease::ActiveModel {
            name: sea_orm::Set(job.to_owned()),
            holder: sea_orm::Set(String::new()),
            held_until: sea_orm::Set(0),
            last_run_at: sea_orm::Set(Some(now)),
        };
        lease::Entity::insert(row)
            .on_conflict_do_nothing()
            .exec_without_returning(&self.writer)
            .await?;
        lease::Entity::update_many()
            .col_expr(lease::Column::LastRunAt, Expr::value(now))
            .filter(lease::Column::Name.eq(job))
            .filter(lease::Column::LastRunAt.is_null())
            .exec(&self.writer)
            .await?;
        let row = lease::Entity::find_by_id(job).one(&self.writer).await?;
        Ok(row.and_then(|row| row.last_run_at).unwrap_or(now))
    }

    /// Notes that a job runs now, unless another replica noted it first; false then.
    pub(crate) async fn claim_job(&self, job: &str, seen: Millis, now: Millis) -> Result<bool> {
        let tx = self.begin().await?;
        let won = claim(&tx, job, seen, now).await?;
        tx.commit().await?;
        Ok(won)
    }

    /// As [`Store::claim_job`], and begins its run in the same transaction: a crash loses neither.
    pub(crate) async fn claim_scheduled_run(
        &self,
        job: &str,
        seen: Millis,
        new: &NewRun,
        now: Millis,
    ) -> Result<Option<Run>> {
        let tx = self.begin().await?;
        if !claim(&tx, job, seen, now).await? {
            tx.rollback().await?;
            return Ok(None);
        }
        let run = report_run::Entity::insert(new.row(now)?)
            .exec_with_returning(&tx)
            .await?;
        tx.commit().await?;
        Ok(Some(run))
    }
}

async fn claim(
    tx: &sea_orm::DatabaseTransaction,
    job: &str,
    seen: Millis,
    now: Millis,
) -> std::result::Result<bool, sea_orm::DbErr> {
    let claimed = lease::Entity::update_many()
        .col_expr(lease::Column::LastRunAt, Expr::value(now))
        .filter(lease::Column::Name.eq(job))
        .filter(lease::Column::LastRunAt.eq(seen))
        .exec(tx)
        .await?;
    Ok(claimed.rows_affected == 1)
}
