//! Deleting old batch keys, webhook events, verifications, changes of boundaries and sessions, and rolling up old commits.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, ConnectionTrait as _, DbBackend, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, Statement,
    sea_query::{Expr, ExprTrait as _, OnConflict},
};
use uuid::Uuid;

use super::Store;
use crate::{
    domain::{DAY_MS, Millis},
    entity::commit,
    error::Result,
    planted_defects::{Defect, planted},
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

/// The largest id of a row that holds the sum of old commits. The ids of commits are far above it.
const LAST_SUM: Uuid = Uuid::from_u128(0xffff_ffff);

/// The time of such rows, before that of any commit.
const AGE_OF_SUMS: Millis = 0;

/// The sum of some commits.
#[derive(Clone, Copy, Debug, Default)]
struct RollUp {
    increments: i64,
    quantity: i64,
}

impl RollUp {
    /// None if the sum has more than 64 bits.
    fn plus(self, increments: i64, quantity: i64) -> Option<Self> {
        Some(Self {
            increments: self.increments.checked_add(increments)?,
            quantity: if planted(Defect::SumOfCommitsWrong) {
                self.quantity
            } else {
                self.quantity.checked_add(quantity)?
            },
        })
    }
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

    /// Adds one step of old commits to the row that holds their sum; false when none are left. When the sum would have more
    /// than 64 bits, the next row goes on.
    pub(crate) async fn roll_up_commits(&self, now: Millis) -> Result<bool> {
        use commit::Column;
        let tx = self.begin().await?;
        let old = commit::Entity::find()
            .filter(Column::CommittedAt.lt(now.saturating_sub(COMMITS_KEPT_MS)))
            .filter(Column::CommittedAt.gt(AGE_OF_SUMS))
            .order_by_asc(Column::CommittedAt)
            .limit(ROWS_PER_STEP)
            // Without the lock, two replicas would both add what only one of them deletes.
            .lock_exclusive()
            .all(&tx)
            .await?;
        if old.is_empty() {
            tx.rollback().await?;
            return Ok(false);
        }
        let (step, added) = fitting(old);
        let last = commit::Entity::find()
            .filter(Column::Id.lte(LAST_SUM))
            .order_by_desc(Column::Id)
            .limit(1)
            .lock_exclusive()
            .one(&tx)
            .await?;
        let add = |column: Column| {
            (
                column,
                Expr::col((commit::Entity, column)).add(Expr::col(("excluded", column))),
            )
        };
        let row = commit::ActiveModel {
            id: Set(place_of_sum(last.as_ref(), added)),
            increments: Set(added.increments),
            quantity: Set(added.quantity),
            committed_at: Set(AGE_OF_SUMS),
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
            .filter(Column::Id.is_in(step))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// The first of some commits whose sum has 64 bits, and the sum. One always has.
fn fitting(commits: Vec<commit::Model>) -> (Vec<Uuid>, RollUp) {
    let (mut ids, mut sum) = (Vec::new(), RollUp::default());
    for commit in commits {
        let Some(next) = sum.plus(commit.increments, commit.quantity) else {
            break;
        };
        sum = next;
        ids.push(commit.id);
    }
    (ids, sum)
}

/// The id of the row that a sum is added to: the last one, or one after it if that is full.
fn place_of_sum(last: Option<&commit::Model>, added: RollUp) -> Uuid {
    let Some(last) = last else {
        return Uuid::nil();
    };
    match added.plus(last.increments, last.quantity) {
        Some(_) => last.id,
        None => Uuid::from_u128(last.id.as_u128().saturating_add(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(number: u128, quantity: i64) -> commit::Model {
        commit::Model {
            id: Uuid::from_u128(number),
            increments: 1,
            quantity,
            committed_at: 0,
        }
    }

    #[test]
    fn a_step_ends_before_its_sum_has_more_than_64_bits() {
        let commits = vec![commit(7, i64::MAX - 1), commit(8, 1), commit(9, 1)];
        let (ids, sum) = fitting(commits);
        assert_eq!(ids, [Uuid::from_u128(7), Uuid::from_u128(8)]);
        assert_eq!((sum.increments, sum.quantity), (2, i64::MAX));
    }

    #[test]
    fn a_full_row_is_followed_by_another() {
        let one = RollUp {
            increments: 1,
            quantity: 1,
        };
        assert_eq!(place_of_sum(None, one), Uuid::nil());
        let place = |quantity| place_of_sum(Some(&commit(3, quantity)), one);
        assert_eq!(place(i64::MAX - 1), Uuid::from_u128(3));
        assert_eq!(place(i64::MAX), Uuid::from_u128(4));
    }
}
