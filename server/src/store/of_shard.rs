//! Statements that have to be made for each shard of a distributed database: those that lock rows, and those that find rows
//! by their places, which are places within a shard.

use std::collections::BTreeSet;

use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, QueryFilter as _,
    QuerySelect as _, QueryTrait as _, Select, Statement, Value,
};

use super::{
    connection::{Examined, Transaction},
    distribution::read_shards,
    postgres_arrays::texts,
};
use crate::domain::{account_id::AccountId, shards::ShardMap};

/// Some accounts of one shard, or whatever accounts of a database that is not distributed. No other list of accounts may be
/// in the same statement: Citus would not see that one shard has them.
#[derive(Clone, Debug)]
pub(super) struct OfShard(Option<Vec<AccountId>>);

impl OfShard {
    /// The accounts that a query finds, by shard, in the order of the shards. Rows are locked in this order. A database that
    /// is not distributed is not asked. The shards are read again: a statement for accounts of two would fail.
    pub(super) async fn of<C>(db: &Examined<C>, accounts: Statement) -> Result<Vec<Self>, DbErr>
    where
        C: ConnectionTrait + Send,
    {
        if !db.shards().is_distributed() {
            return Ok(vec![Self(None)]);
        }
        let rows = db.query_all_raw(accounts).await?;
        let found = rows.iter().map(|row| row.try_get("", "account_id"));
        let found: BTreeSet<AccountId> = found.collect::<Result<_, _>>()?;
        Self::of_accounts(db, found.iter().collect()).await
    }

    /// Accounts by shard, in the order of the shards; all of them if the database is not distributed.
    pub(super) async fn of_accounts<C>(
        db: &Examined<C>,
        accounts: BTreeSet<&AccountId>,
    ) -> Result<Vec<Self>, DbErr>
    where
        C: ConnectionTrait + Send,
    {
        let shards = if db.shards().is_distributed() {
            read_shards(db).await?
        } else {
            ShardMap::default()
        };
        let shards = shards.split(accounts.into_iter().cloned(), |account| account);
        Ok(shards.into_iter().map(|shard| Self(Some(shard))).collect())
    }

    /// The condition in SQL, after others, with the number of its value.
    pub(super) fn sql(&self, number: usize) -> String {
        match self.0 {
            Some(_) => format!(" AND account_id = ANY(${number})"),
            None => String::new(),
        }
    }

    /// The value of that condition, where it has one.
    pub(super) fn value(&self) -> Option<Value> {
        let accounts = self.0.as_ref()?;
        Some(texts(accounts.iter().map(AccountId::as_str)))
    }

    /// The condition on the column of the account.
    pub(super) fn condition(&self, account: impl ColumnTrait) -> Condition {
        let accounts = self.0.as_ref();
        Condition::all().add_option(accounts.map(|accounts| account.is_in(accounts)))
    }
}

/// Locks the rows that a query finds and returns them, shard after shard. A limit is that of each shard.
pub(super) async fn lock_rows<E: EntityTrait>(
    tx: &Transaction,
    query: Select<E>,
    account: E::Column,
) -> Result<Vec<E::Model>, DbErr> {
    let accounts = query.clone().select_only().column(account);
    let accounts = accounts.build(tx.get_database_backend());
    let mut locked = Vec::new();
    for shard in OfShard::of(tx, accounts).await? {
        let of_shard = match shard.0 {
            Some(_) => query.clone().filter(shard.condition(account)),
            None => query.clone(),
        };
        locked.extend(of_shard.lock_exclusive().all(tx).await?);
    }
    Ok(locked)
}
