//! Gives the rows of a deleted account another id, in one transaction. A distributed table cannot change the column that it
//! is spread by, so each row is copied, and the old one is deleted.

use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DbBackend, DbErr, EntityTrait as _, QueryFilter as _,
    QuerySelect as _, Statement, Value, sea_query::Expr,
};
use uuid::Uuid;

use super::{
    Deletion,
    mentions::{MENTIONING, replace_mentions},
};
use crate::{
    domain::{
        Millis,
        account_deletion::{About, replaced_in_stored, token},
        account_id::AccountId,
    },
    entity::{boundary_change, customer, deleted_account},
    error::{Error, Result},
    store::{
        Store,
        account_tables::{ACCOUNT, AccountTable, Cell, account_tables, names},
        connection::Transaction,
        deleted_accounts::find_deletion,
        retried::retried,
    },
};

/// How many rows are read at once to replace the id in their texts.
const ROWS_PER_PAGE: u64 = 200;
/// The table whose rows are deleted and not copied: the keys of corrections are texts of callers, and nothing can be
/// corrected any more under the id. The corrections themselves are reports.
const NOT_COPIED: &str = "correction_keys";
/// The column that the engine gives to a new row.
const NUMBER: &str = "number";

impl Store {
    /// Gives the rows of an account whose usage is refused the id `token`. Changes nothing if that was done meanwhile.
    ///
    /// # Errors
    /// The database does not respond. Nothing was changed then, or everything: deleting the account again shows which.
    pub(crate) async fn anonymise(
        &self,
        account_id: &AccountId,
        token: &AccountId,
        deletion: Deletion,
        now: Millis,
    ) -> Result<Deletion> {
        retried(|| self.anonymise_once(account_id, token, deletion.clone(), now)).await
    }

    async fn anonymise_once(
        &self,
        account_id: &AccountId,
        token: &AccountId,
        mut deletion: Deletion,
        now: Millis,
    ) -> Result<Deletion> {
        let mut mentions = Vec::new();
        for of in MENTIONING {
            mentions.push((of, self.all_mentions(&of, account_id).await?));
        }
        let tx = self.begin().await?;
        if self.is_distributed() {
            // Copies and deletes of one table over one connection.
            let sql = "SET LOCAL citus.multi_shard_modify_mode TO 'sequential'";
            tx.execute_unprepared(sql).await?;
        }
        let known = lock_deletion(&tx, account_id).await?;
        if known.anonymised_at.is_some() {
            tx.rollback().await?;
            deletion.was_done = true;
            return Ok(deletion);
        }
        let tables = account_tables();
        for table in &tables {
            lock_rows(&tx, table, account_id).await?;
        }
        deletion.rows.clear();
        for table in &tables {
            replace_in_texts(&tx, table, (account_id, token)).await?;
            let moved = move_rows(&tx, table, (account_id, token)).await?;
            note(&mut deletion, table.name, moved);
        }
        let released = customer::Entity::delete_many()
            .filter(customer::Column::AccountId.eq(account_id))
            .exec(&tx)
            .await?;
        note(
            &mut deletion,
            "customers",
            i64::try_from(released.rows_affected).unwrap_or(i64::MAX),
        );
        // Every replica has read, or will read, all boundaries again.
        boundary_change::Entity::delete_many()
            .filter(boundary_change::Column::AccountId.eq(account_id))
            .exec(&tx)
            .await?;
        for (of, rows) in &mentions {
            // A key that is limited to the account must not lead to its rows.
            let with = if of.table == "api_keys" {
                other_token()?
            } else {
                token.clone()
            };
            let changed = replace_mentions(&tx, of, rows, (account_id, &with)).await?;
            note(&mut deletion, of.table, changed);
        }
        deleted_account::Entity::update_many()
            .col_expr(deleted_account::Column::AnonymisedAt, Expr::value(now))
            .filter(deleted_account::Column::Digest.eq(known.digest))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(deletion)
    }
}

fn other_token() -> Result<AccountId> {
    token(Uuid::new_v4().into_bytes()).map_err(Error::from)
}

fn note(deletion: &mut Deletion, table: &str, rows: i64) {
    if rows > 0 {
        deletion.rows.push((table.to_owned(), rows));
    }
}

/// Locks the row of the deletion, so that two calls do not both move the rows.
async fn lock_deletion(tx: &Transaction, account_id: &AccountId) -> Result<deleted_account::Model> {
    let gone = || Error::Internal("a deletion that was begun is not stored".into());
    let known = find_deletion(tx, account_id).await?.ok_or_else(gone)?;
    let locked = deleted_account::Entity::find_by_id(known.digest)
        .lock_exclusive()
        .one(tx)
        .await?;
    locked.ok_or_else(gone)
}

/// Locks the rows of an account in the order of the key: what changes them meanwhile waits, and finds none then.
async fn lock_rows(
    tx: &Transaction,
    table: &AccountTable,
    account_id: &AccountId,
) -> std::result::Result<(), DbErr> {
    if tx.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    let sql = format!(
        "SELECT COUNT(*) AS number FROM (SELECT 1 AS one FROM {} WHERE {ACCOUNT} = $1 ORDER BY {} FOR UPDATE) AS locked",
        table.name,
        names(&table.key)
    );
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, [account_id.into()]);
    tx.query_one_raw(statement).await.map(|_| ())
}

/// Replaces the id in the texts of an account's rows.
async fn replace_in_texts(
    tx: &Transaction,
    table: &AccountTable,
    (account_id, token): (&AccountId, &AccountId),
) -> std::result::Result<(), DbErr> {
    if table.texts.is_empty() {
        return Ok(());
    }
    let mut after: Option<Vec<Cell>> = None;
    loop {
        // Few rows have such a text, and an account may have very many.
        let page = table
            .page_naming(tx, account_id, after.as_deref(), ROWS_PER_PAGE)
            .await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(table.key_of(last));
        for row in &page {
            let texts = table.columns.iter().zip(row).filter_map(|(column, cell)| {
                let Cell::Text(Some(text)) = cell else {
                    return None;
                };
                let is_text = table.texts.contains(&column.name);
                let other = is_text
                    .then(|| replaced_in_stored(text, account_id, token, About::ThisAccount));
                Some((column.name, other.flatten()?))
            });
            let texts: Vec<(&str, String)> = texts.collect();
            if !texts.is_empty() {
                set_texts(tx, table, (account_id, &table.key_of(row)), texts).await?;
            }
        }
    }
}

async fn set_texts(
    tx: &Transaction,
    table: &AccountTable,
    (account_id, key): (&AccountId, &[Cell]),
    texts: Vec<(&str, String)>,
) -> std::result::Result<(), DbErr> {
    let mut values: Vec<Value> = vec![account_id.into()];
    let mut place = |value: Value| {
        values.push(value);
        format!("${}", values.len())
    };
    let is_row: Vec<String> = table
        .key
        .iter()
        .zip(key)
        .map(|(column, cell)| format!("{} = {}", column.name, place(cell.value())))
        .collect();
    let set: Vec<String> = texts
        .into_iter()
        .map(|(column, text)| format!("{column} = {}", place(text.into())))
        .collect();
    let sql = format!(
        "UPDATE {} SET {} WHERE {ACCOUNT} = $1 AND {}",
        table.name,
        set.join(", "),
        is_row.join(" AND ")
    );
    let statement = Statement::from_sql_and_values(tx.get_database_backend(), sql, values);
    tx.execute_raw(statement).await.map(|_| ())
}

/// Copies the rows of an account under another id, and deletes them. Returns how many there were.
async fn move_rows(
    tx: &Transaction,
    table: &AccountTable,
    (account_id, token): (&AccountId, &AccountId),
) -> Result<i64> {
    let backend = tx.get_database_backend();
    let mut copied = None;
    if table.name != NOT_COPIED {
        let others: Vec<&str> = table
            .columns
            .iter()
            .map(|column| column.name)
            .filter(|name| ![ACCOUNT, NUMBER].contains(name))
            .collect();
        let others = others.join(", ");
        let sql = format!(
            "INSERT INTO {name} ({ACCOUNT}, {others}) SELECT CAST($2 AS text), {others} \
             FROM {name} WHERE {ACCOUNT} = $1",
            name = table.name
        );
        let values: [Value; 2] = [account_id.into(), token.into()];
        let copy = Statement::from_sql_and_values(backend, sql, values);
        copied = Some(tx.execute_raw(copy).await?.rows_affected());
    }
    let sql = format!("DELETE FROM {} WHERE {ACCOUNT} = $1", table.name);
    let delete = Statement::from_sql_and_values(backend, sql, [account_id.into()]);
    let deleted = tx.execute_raw(delete).await?.rows_affected();
    if copied.is_some_and(|copied| copied != deleted) {
        let name = table.name;
        let why = format!("{copied:?} rows of {name} were copied and {deleted} deleted");
        return Err(Error::Internal(why.into()));
    }
    Ok(i64::try_from(deleted).unwrap_or(i64::MAX))
}
