//! Deleting old idempotency keys.
//!
//! They are stored in the order of the keys, and an index of their ages would take as much space again. So all keys are
//! read, in small steps, once a day, and again after an account was deleted: its keys are deleted too.

use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DbErr, EntityTrait as _, QueryFilter as _, Statement,
    Value,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Store,
    cleanup::KEYS_KEPT_MS,
    deleted_accounts::{find_deleted, read_salts},
};
use crate::{
    domain::{DAY_MS, Millis, account_id::AccountId},
    entity::idempotency_key,
    error::{Error, Result},
    planted_defects::{Defect, planted},
};

/// The cursor's name in `job_cursors`.
const CURSOR: &str = "old_keys";
/// How many keys one step reads, and deletes at most, so that counting never waits long.
const KEYS_PER_STEP: i64 = 2_000;
/// How often all keys are read.
const SWEEP_INTERVAL_MS: Millis = DAY_MS;

/// Where the search for old keys continues.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Sweep {
    begun_at: Millis,
    /// The last key that was read, and its account; absent when all were.
    after: Option<(String, String)>,
}

/// A place in the table.
type Place = (Uuid, String);

/// Whether all keys are read again. A time in the future is of a wrong clock.
fn is_due_after(begun_at: Millis, now: Millis) -> bool {
    !(begun_at..begun_at.saturating_add(SWEEP_INTERVAL_MS)).contains(&now)
}

impl Store {
    /// Searches the next keys for old ones and deletes them; false when all keys were searched lately.
    pub(crate) async fn forget_old_keys(&self, now: Millis) -> Result<bool> {
        let sweep = self.find_sweep().await?;
        let (begun_at, after) = match sweep {
            Some(Sweep {
                begun_at,
                after: Some((key, account)),
            }) => (
                begun_at,
                (Uuid::try_parse(&key).unwrap_or_default(), account),
            ),
            Some(Sweep { begun_at, .. })
                if !is_due_after(begun_at, now) && !self.has_deletion_after(begun_at).await? =>
            {
                return Ok(false);
            }
            _ => (now, (Uuid::nil(), String::new())),
        };
        let last = self.last_key_of_step(&after).await?;
        if let Some(last) = &last {
            let kept_ms = if planted(Defect::KeysDeletedEarly) {
                DAY_MS.saturating_mul(5)
            } else {
                KEYS_KEPT_MS
            };
            self.forget_keys_between(&after, last, now.saturating_sub(kept_ms))
                .await?;
            self.forget_keys_of_deleted(&after, last).await?;
        }
        let has_more = last.is_some() || is_due_after(begun_at, now);
        let sweep = Sweep {
            begun_at,
            after: last.map(|(key, account)| (key.to_string(), account)),
        };
        self.set_cursor(CURSOR, Some(&sweep)).await?;
        Ok(has_more)
    }

    /// The sweep in progress. A damaged place must not stop every cleanup: all keys are read again then.
    async fn find_sweep(&self) -> Result<Option<Sweep>> {
        match self.find_cursor(CURSOR).await {
            Err(Error::Internal(why)) => {
                tracing::error!(%why, "the search for old keys begins again");
                Ok(None)
            }
            found => found,
        }
    }

    /// The last of the next keys; absent after the last key of all.
    async fn last_key_of_step(&self, after: &Place) -> std::result::Result<Option<Place>, DbErr> {
        const SQL: &str = "SELECT key, account_id FROM (SELECT key, account_id FROM idempotency_keys \
            WHERE (key, account_id) > ($1, $2) ORDER BY key, account_id LIMIT $3) AS step \
            ORDER BY key DESC, account_id DESC LIMIT 1";
        let values = [
            after.0.into(),
            after.1.as_str().into(),
            KEYS_PER_STEP.into(),
        ];
        let statement = Statement::from_sql_and_values(self.backend(), SQL, values);
        let row = self.reader.query_one_raw(statement).await?;
        row.map(|row| {
            let account: AccountId = row.try_get("", "account_id")?;
            Ok((row.try_get("", "key")?, account.to_string()))
        })
        .transpose()
    }

    /// Deletes the keys of a range that are of deleted accounts.
    async fn forget_keys_of_deleted(
        &self,
        after: &Place,
        last: &Place,
    ) -> std::result::Result<(), DbErr> {
        const ACCOUNTS: &str = "SELECT DISTINCT account_id FROM idempotency_keys \
            WHERE key BETWEEN $1 AND $3 AND (key, account_id) > ($1, $2) AND (key, account_id) <= ($3, $4)";
        let salts = read_salts(&self.reader).await?;
        if salts.is_empty() {
            return Ok(());
        }
        let values: [Value; 4] = [
            after.0.into(),
            after.1.as_str().into(),
            last.0.into(),
            last.1.as_str().into(),
        ];
        let accounts = Statement::from_sql_and_values(self.backend(), ACCOUNTS, values);
        let rows = self.reader.query_all_raw(accounts).await?;
        let accounts = rows.iter().map(|row| row.try_get("", "account_id"));
        let accounts: Vec<AccountId> = accounts.collect::<std::result::Result<_, _>>()?;
        for account in find_deleted(&self.reader, &salts, accounts.iter()).await? {
            idempotency_key::Entity::delete_many()
                .filter(idempotency_key::Column::Key.between(after.0, last.0))
                .filter(idempotency_key::Column::AccountId.eq(account))
                .exec(&self.writer)
                .await?;
        }
        Ok(())
    }

    /// Deletes the keys of a range that were stored before a time. Most ranges have none, and are only read.
    async fn forget_keys_between(
        &self,
        after: &Place,
        last: &Place,
        oldest: Millis,
    ) -> std::result::Result<(), DbErr> {
        // PostgreSQL takes two comparisons of pairs for two conditions that half of the rows meet each. It knows what
        // BETWEEN is.
        const OLD: &str = "FROM idempotency_keys WHERE key BETWEEN $1 AND $3 \
            AND (key, account_id) > ($1, $2) AND (key, account_id) <= ($3, $4) AND created_at < $5";
        let statement = |sql: String| {
            let values: [Value; 5] = [
                after.0.into(),
                after.1.as_str().into(),
                last.0.into(),
                last.1.as_str().into(),
                oldest.into(),
            ];
            Statement::from_sql_and_values(self.backend(), sql, values)
        };
        let count = statement(format!("SELECT COUNT(*) AS number {OLD}"));
        let row = self.reader.query_one_raw(count).await?;
        let old: i64 = row.map_or(Ok(0), |row| row.try_get("", "number"))?;
        if old > 0 {
            let delete = statement(format!("DELETE {OLD}"));
            self.writer.execute_raw(delete).await?;
        }
        Ok(())
    }
}
