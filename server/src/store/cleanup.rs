//! Deleting old batch keys, webhook events, verifications, changes of boundaries and sessions, and rolling up old commits.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, ConnectionTrait as _, DbBackend, DbErr, EntityTrait as _, FromQueryResult,
    QueryFilter as _, QueryOrder as _, QuerySelect as _, Statement,
    sea_query::{Expr, ExprTrait as _, Func, OnConflict},
};
use uuid::Uuid;

use super::Store;
use crate::{
    domain::{DAY_MS, Millis},
    entity::commit,
    error::Result,
};

/// How long idempotency keys are kept: longer than the oldest increment that is accepted.
pub(crate) const KEYS_KEPT_MS: Millis = 36 * DAY_MS;
/// How long webhook events are kept: longer than Stripe retries one, or lets it be resent by hand.
const WEBHOOKS_KEPT_MS: Millis = 36 * DAY_MS;
/// How long verifications are kept: longer than an event is verified.
const VERIFICATIONS_KEPT_MS: Millis = 100 * DAY_MS;
/// How long changes of boundaries are kept: far longer than a replica that counts needs to notice one.
const BOUNDARY_CHANGES_KEPT_MS: Millis = DAY_MS;
/// How long commits are kept one by one: far longer than a lost answer is retried.
const COMMITS_KEPT_MS: Millis = DAY_MS;
/// How many rows one transaction deletes, so that counting never waits long.
const ROWS_PER_STEP: u64 = 2_000;

#[derive(Debug, FromQueryResult)]
struct RollUp {
    increments: Option<i64>,
    quantity: Option<i64>,
}

impl Store {
    /// Deletes one step of old batch keys, verifications, changes of boundaries and sessions of the console; false when none are left.
    pub(crate) async fn forget_old_rows(&self, now: Millis) -> Result<bool> {
        let mut forgot = false;
        for (table, age, kept_ms) in [
            ("batch_keys", "created_at", KEYS_KEPT_MS),
            ("verifications", "day", VERIFICATIONS_KEPT_MS),
            ("boundary_changes", "recorded_at", BOUNDARY_CHANGES_KEPT_MS),
            ("console_sessions", "expires_at", 0),
        ] {
            forgot |= self.forget(table, age, now.saturating_sub(kept_ms)).await?;
        }
        Ok(forgot)
    }

    /// Deletes one step of old webhook events, handled or not: the poll has replaced an unhandled one long ago.
    /// False when none are left.
    pub(crate) async fn forget_old_webhook_events(&self, now: Millis) -> Result<bool> {
        let oldest = now.saturating_sub(WEBHOOKS_KEPT_MS);
        self.forget("webhook_events", "received_at", oldest).await
    }

    /// Deletes the oldest rows of a table from before a time, one step of them. Finds them by their age and deletes them
    /// by their places: by their keys, PostgreSQL would rather read the whole table.
    async fn forget(&self, table: &str, age: &str, oldest: Millis) -> Result<bool> {
        let rows = |place: &str| {
            format!(
                "SELECT {place} FROM {table} WHERE {age} < $1 ORDER BY {age} LIMIT {ROWS_PER_STEP}"
            )
        };
        let sql = if self.backend() == DbBackend::Postgres {
            format!(
                "DELETE FROM {table} WHERE ctid = ANY (ARRAY({}))",
                rows("ctid")
            )
        } else {
            format!("DELETE FROM {table} WHERE rowid IN ({})", rows("rowid"))
        };
        let statement = Statement::from_sql_and_values(self.backend(), sql, [oldest.into()]);
        Ok(self.writer.execute_raw(statement).await?.rows_affected() > 0)
    }

    /// Adds one step of old commits to the one row that holds their sum; false when none are left.
    pub(crate) async fn roll_up_commits(&self, now: Millis) -> Result<bool> {
        use commit::Column;
        let tx = self.begin().await?;
        let old: Vec<Uuid> = commit::Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(Column::CommittedAt.lt(now.saturating_sub(COMMITS_KEPT_MS)))
            .filter(Column::Id.ne(Uuid::nil()))
            .order_by_asc(Column::CommittedAt)
            .limit(ROWS_PER_STEP)
            // Without the lock, two replicas would both add what only one of them deletes.
            .lock_exclusive()
            .into_tuple()
            .all(&tx)
            .await?;
        if old.is_empty() {
            tx.rollback().await?;
            return Ok(false);
        }
        let sum = |column: Column| Func::sum(Expr::col(column)).cast_as("bigint");
        let rolled = commit::Entity::find()
            .select_only()
            .column_as(sum(Column::Increments), "increments")
            .column_as(sum(Column::Quantity), "quantity")
            .filter(Column::Id.is_in(old.iter().copied()))
            .into_model::<RollUp>()
            .one(&tx)
            .await?
            .ok_or_else(|| DbErr::RecordNotFound("the sum of old commits".to_owned()))?;
        let add = |column: Column| {
            (
                column,
                Expr::col((commit::Entity, column)).add(Expr::col(("excluded", column))),
            )
        };
        let row = commit::ActiveModel {
            id: Set(Uuid::nil()),
            increments: Set(rolled.increments.unwrap_or(0)),
            quantity: Set(rolled.quantity.unwrap_or(0)),
            committed_at: Set(0),
        };
        commit::Entity::insert(row)
            .on_conflict(
                OnConflict::column(Column::Id)
                    .values([add(Column::Increments), add(Column::Quantity)])
                    .to_owned(),
            )
            .exec_without_returning(&tx)
            .await?;
        commit::Entity::delete_many()
            .filter(Column::Id.is_in(old))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(true)
    }
}
