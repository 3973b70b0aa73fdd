//! Queries of API keys. None is ever deleted: in a database in which one was created, every call needs a key for ever.

use std::{sync::LazyLock, time::Duration};

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, ConnectionTrait, DbBackend, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, Statement, TryInsertResult, Value,
    sea_query::{Expr, ExprTrait as _},
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{
    FIRST_KEY_LOCK, Store, audit::write_entry, columns::columns, key_entries, lock,
    postgres_arrays::texts, retried::retried, value_rows::ValueRows,
};
use crate::{
    domain::{
        HOUR_MS, Millis,
        access::Scope,
        api_key::{ApiKey, KeyId, NewKey, PresentedKey, SecretHash},
        audit::Actor,
    },
    entity::api_key::{self, Column},
    error::{Error, Result},
};

/// How long each of two attempts to read who calls may take.
const ACCESS_LIMIT: Duration = Duration::from_secs(2);

/// A key with the hash of its secret.
#[derive(Clone, Debug)]
pub(crate) struct StoredKey {
    pub(crate) key: ApiKey,
    pub(crate) hash: SecretHash,
}

/// Keys as they were read.
#[derive(Debug)]
pub(crate) struct StoredKeys {
    /// In any order.
    pub(crate) found: Vec<StoredKey>,
    /// Those whose rows cannot be read.
    pub(crate) damaged: Vec<KeyId>,
}

static FIND_POSTGRES: LazyLock<String> = LazyLock::new(|| {
    let columns = columns::<api_key::Entity>("k");
    format!("SELECT {columns} FROM api_keys AS k WHERE k.id = ANY($1)")
});

static FIND_SQLITE: ValueRows<1> = ValueRows::new(|| {
    ValueRows::<1>::around_rows(
        &format!("SELECT {} FROM ", columns::<api_key::Entity>("k")),
        " CROSS JOIN api_keys AS k WHERE k.id = column1",
    )
});

/// The column `scope`.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StoredScope {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    accounts: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    account_prefixes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    meters: Vec<String>,
}

impl Store {
    /// Whether a key was ever created.
    pub(crate) async fn has_api_keys(&self) -> Result<bool> {
        self.read_access(|| has_any(&self.access)).await
    }

    /// Reads who calls, a second time on another connection if the first one does not respond: all calls wait for it.
    async fn read_access<T, F>(&self, read: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, DbErr>>,
    {
        if !self.has_parallel_writers() {
            return Ok(read().await?);
        }
        if let Ok(found) = timeout(ACCESS_LIMIT, read()).await {
            return Ok(found?);
        }
        let error = self.access.give_up().await;
        match timeout(ACCESS_LIMIT, read()).await {
            Ok(found) => Ok(found?),
            Err(_) => Err(error.into()),
        }
    }

    /// The keys with some ids, also those that are not valid any more. A row that cannot be read is logged.
    pub(crate) async fn find_api_keys(&self, ids: &[KeyId]) -> Result<StoredKeys> {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let statements = if self.backend() == DbBackend::Sqlite {
            let rows = ids.iter().map(|id| [Value::from(id.as_str())]);
            FIND_SQLITE.statements(rows, &[Value::String(None)])?
        } else {
            let values = [texts(ids.iter().map(String::as_str))];
            vec![Statement::from_sql_and_values(
                DbBackend::Postgres,
                FIND_POSTGRES.as_str(),
                values,
            )]
        };
        let find = || async {
            let mut rows = Vec::new();
            for statement in statements.clone() {
                let found = api_key::Entity::find().from_raw_sql(statement);
                rows.extend(found.all(&self.access).await?);
            }
            Ok(rows)
        };
        let mut keys = StoredKeys {
            found: Vec::new(),
            damaged: Vec::new(),
        };
        for row in self.read_access(find).await? {
            let id = KeyId::parse(&row.id);
            match stored_key(row) {
                Ok(key) => keys.found.push(key),
                Err(error) => {
                    Error::from(error).log();
                    keys.damaged.extend(id);
                }
            }
        }
        Ok(keys)
    }

    /// The ids of all keys, up to a limit.
    pub(crate) async fn api_key_ids(&self, limit: u64) -> Result<Vec<KeyId>> {
        let read = || async {
            let query = api_key::Entity::find().select_only().column(Column::Id);
            let query = query.order_by_asc(Column::Id).limit(limit);
            query.into_tuple::<String>().all(&self.access).await
        };
        let ids = self.read_access(read).await?;
        let ids = ids.iter().map(|id| {
            let wrong = || DbErr::Type(format!("invalid id in row {id} of api_keys"));
            Ok(KeyId::parse(id).ok_or_else(wrong)?)
        });
        ids.collect()
    }

    /// Keys after the one with an id, in the order of their ids.
    pub(crate) async fn list_api_keys(
        &self,
        after: Option<KeyId>,
        limit: u64,
    ) -> Result<Vec<ApiKey>> {
        let mut query = api_key::Entity::find();
        if let Some(after) = after {
            query = query.filter(Column::Id.gt(after.to_string()));
        }
        let rows = query
            .order_by_asc(Column::Id)
            .limit(limit)
            .all(&self.reader)
            .await?;
        let keys = rows.into_iter().map(|row| Ok(stored_key(row)?.key));
        keys.collect()
    }

    /// Stores a new key, and the audit entry of it.
    ///
    /// # Errors
    /// The database does not respond. The same key exists if its random number was drawn twice.
    pub(crate) async fn create_api_key(
        &self,
        presented: &PresentedKey,
        new: &NewKey,
        actor: &Actor,
        now: Millis,
    ) -> Result<ApiKey> {
        retried(|| self.create_api_key_once(presented, new, actor, now)).await
    }

    async fn create_api_key_once(
        &self,
        presented: &PresentedKey,
        new: &NewKey,
        actor: &Actor,
        now: Millis,
    ) -> Result<ApiKey> {
        let tx = self.begin().await?;
        let key = insert(&tx, presented, new, now).await?;
        let entry = key_entries::created(actor, "CreateKey", presented.id, new);
        write_entry(&tx, &entry, now).await?;
        tx.commit().await?;
        Ok(key)
    }

    /// Stores a key if none was ever created; otherwise returns none.
    pub(crate) async fn create_first_api_key(
        &self,
        presented: &PresentedKey,
        new: &NewKey,
        of: (&Actor, &str),
        now: Millis,
    ) -> Result<Option<ApiKey>> {
        retried(|| self.create_first_api_key_once(presented, new, of, now)).await
    }

    async fn create_first_api_key_once(
        &self,
        presented: &PresentedKey,
        new: &NewKey,
        (actor, action): (&Actor, &str),
        now: Millis,
    ) -> Result<Option<ApiKey>> {
        let tx = self.begin().await?;
        if self.backend() == DbBackend::Postgres {
            lock(&tx, "SELECT pg_advisory_xact_lock($1)", FIRST_KEY_LOCK).await?;
        }
        if has_any(&tx).await? {
            tx.rollback().await?;
            return Ok(None);
        }
        let key = insert(&tx, presented, new, now).await?;
        let entry = key_entries::created(actor, action, presented.id, new);
        write_entry(&tx, &entry, now).await?;
        tx.commit().await?;
        Ok(Some(key))
    }

    /// Revokes a key, and writes the audit entry of it. Revoking it again changes nothing: returns false then, with the key.
    pub(crate) async fn revoke_api_key(
        &self,
        id: KeyId,
        actor: &Actor,
        now: Millis,
    ) -> Result<(ApiKey, bool)> {
        retried(|| self.revoke_api_key_once(id, actor, now)).await
    }

    async fn revoke_api_key_once(
        &self,
        id: KeyId,
        actor: &Actor,
        now: Millis,
    ) -> Result<(ApiKey, bool)> {
        let tx = self.begin().await?;
        let row = api_key::Entity::find_by_id(id.to_string())
            .lock_exclusive()
            .one(&tx)
            .await?;
        let Some(row) = row else {
            tx.rollback().await?;
            return Err(Error::ApiKeyNotFound(id.to_string()));
        };
        let mut key = stored_key(row)?.key;
        let is_revoked_now = key.revoked_at.is_none();
        write_entry(&tx, &key_entries::revoked(actor, &key, now), now).await?;
        if is_revoked_now {
            api_key::Entity::update_many()
                .col_expr(Column::RevokedAt, Expr::value(now))
                .filter(Column::Id.eq(id.to_string()))
                .exec(&tx)
                .await?;
            key.revoked_at = Some(now);
        }
        tx.commit().await?;
        Ok((key, is_revoked_now))
    }

    /// Records that a key is used, at most once an hour.
    pub(crate) async fn note_api_key_use(&self, id: KeyId, now: Millis) -> Result<()> {
        let hour_ago = now.saturating_sub(HOUR_MS);
        api_key::Entity::update_many()
            .col_expr(Column::LastUsedAt, Expr::value(now))
            .filter(Column::Id.eq(id.to_string()))
            .filter(
                Column::LastUsedAt
                    .is_null()
                    .or(Column::LastUsedAt.lte(hour_ago)),
            )
            .exec(&self.writer)
            .await?;
        Ok(())
    }
}

async fn has_any(db: &impl ConnectionTrait) -> Result<bool, DbErr> {
    let id: Option<String> = api_key::Entity::find()
        .select_only()
        .column(Column::Id)
        .limit(1)
        .into_tuple()
        .one(db)
        .await?;
    Ok(id.is_some())
}

async fn insert(
    db: &impl ConnectionTrait,
    presented: &PresentedKey,
    new: &NewKey,
    now: Millis,
) -> Result<ApiKey> {
    let scope = StoredScope {
        accounts: new
            .scope
            .accounts()
            .iter()
            .map(|account| account.as_str().to_owned())
            .collect(),
        account_prefixes: new.scope.account_prefixes().to_vec(),
        meters: new.scope.meters().to_vec(),
    };
    let scope = serde_json::to_string(&scope).map_err(|error| Error::Internal(error.into()))?;
    let row = api_key::ActiveModel {
        id: Set(presented.id.to_string()),
        name: Set(new.name.clone()),
        role: Set(new.role.into()),
        scope: Set(scope),
        secret_hash: Set(presented.hash.to_text()),
        created_at: Set(now),
        expires_at: Set(new.expires_at),
        revoked_at: Set(None),
        last_used_at: Set(None),
    };
    let inserted = api_key::Entity::insert(row)
        .on_conflict_do_nothing()
        .exec_without_returning(db)
        .await?;
    if !matches!(inserted, TryInsertResult::Inserted(1)) {
        return Err(Error::Internal("a key with this id exists".into()));
    }
    Ok(ApiKey {
        id: presented.id,
        key: new.clone(),
        created_at: now,
        revoked_at: None,
        last_used_at: None,
    })
}

/// A row that cannot be read is an error, not a key without limits.
fn stored_key(row: api_key::Model) -> Result<StoredKey, DbErr> {
    let wrong = |what: &str| DbErr::Type(format!("invalid {what} in row {} of api_keys", row.id));
    let scope: StoredScope = serde_json::from_str(&row.scope).map_err(|_| wrong("scope"))?;
    let scope = Scope::new(&scope.accounts, &scope.account_prefixes, &scope.meters)
        .map_err(|_| wrong("scope"))?;
    let id = KeyId::parse(&row.id).ok_or_else(|| wrong("id"))?;
    let hash = SecretHash::from_text(&row.secret_hash).ok_or_else(|| wrong("secret_hash"))?;
    let key = ApiKey {
        id,
        key: NewKey {
            name: row.name,
            role: row.role.into(),
            scope,
            expires_at: row.expires_at,
        },
        created_at: row.created_at,
        revoked_at: row.revoked_at,
        last_used_at: row.last_used_at,
    };
    Ok(StoredKey { key, hash })
}
