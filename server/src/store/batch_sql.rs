//! Many rows in one statement with a constant text: as arrays on PostgreSQL, as one JSON text on SQLite.
//!
//! A statement for each number of rows would have to be prepared each time: only about a hundred prepared statements
//! are cached per connection.

use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, EntityTrait as _, Statement, Value, sea_query::ArrayType,
};
use serde_json::json;
use uuid::Uuid;

use super::{additions::Addition, connection::Transaction};
use crate::{
    domain::{Millis, increment::Increment},
    entity::idempotency_key,
};

/// Means "no time" in an array, whose elements cannot be null here.
const NO_TIME: i64 = i64::MIN;

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> Value {
    Value::Array(
        ArrayType::String,
        Some(Box::new(values.map(Value::from).collect())),
    )
}

fn numbers(values: impl Iterator<Item = i64>) -> Value {
    Value::Array(
        ArrayType::BigInt,
        Some(Box::new(values.map(Value::from).collect())),
    )
}

fn uuids(values: impl Iterator<Item = Uuid>) -> Value {
    Value::Array(
        ArrayType::Uuid,
        Some(Box::new(values.map(Value::from).collect())),
    )
}

/// Stores keys, and returns the indexes in `increments` of those that were already stored.
///
/// All of `increments` have keys. Keys are distinct and in order.
///
/// Usually every key is new, so the database returns the number of new rows, and names only the others. A row per key
/// would take longer than the insert.
pub(super) async fn insert_keys(
    tx: &Transaction,
    increments: &[&Increment],
    now: Millis,
) -> Result<Vec<usize>, DbErr> {
    if increments.is_empty() {
        return Ok(Vec::new());
    }
    if tx.get_database_backend() == DbBackend::Postgres {
        insert_keys_postgres(tx, increments, now).await
    } else {
        insert_keys_sqlite(tx, increments, now).await
    }
}

async fn insert_keys_postgres(
    tx: &Transaction,
    increments: &[&Increment],
    now: Millis,
) -> Result<Vec<usize>, DbErr> {
    const SQL: &str = "WITH new AS ( \
            INSERT INTO idempotency_keys (account_id, key, meter, quantity, stated_at, created_at) \
            SELECT a, k, m, q, NULLIF(s, $6), $7 \
            FROM UNNEST($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[]) AS t(a, k, m, q, s) \
            ON CONFLICT DO NOTHING RETURNING account_id, key) \
        SELECT i - 1 FROM UNNEST($1::text[], $2::text[]) WITH ORDINALITY AS t(a, k, i) \
        WHERE (SELECT COUNT(*) FROM new) < CARDINALITY($1::text[]) \
            AND NOT EXISTS (SELECT FROM new WHERE account_id = a AND key = k)";
    let values = [
        texts(increments.iter().map(|increment| &*increment.account_id)),
        texts(increments.iter().map(|increment| key_of(increment))),
        texts(increments.iter().map(|increment| &*increment.meter)),
        numbers(increments.iter().map(|increment| increment.quantity)),
        numbers(
            increments
                .iter()
                .map(|increment| increment.stated_at.unwrap_or(NO_TIME)),
        ),
        NO_TIME.into(),
        now.into(),
    ];
    places(
        tx,
        Statement::from_sql_and_values(DbBackend::Postgres, SQL, values),
    )
    .await
}

async fn insert_keys_sqlite(
    tx: &Transaction,
    increments: &[&Increment],
    now: Millis,
) -> Result<Vec<usize>, DbErr> {
    const INSERT: &str = "INSERT INTO idempotency_keys (account_id, key, meter, quantity, stated_at, created_at) \
        SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, $2 FROM json_each($1) WHERE true \
        ON CONFLICT DO NOTHING";
    // The rowid of a new row is one more than the largest: the rows of one insert are the last ones, consecutive.
    const KNOWN: &str = "SELECT json_each.key FROM json_each($1) WHERE NOT EXISTS ( \
        SELECT 1 FROM idempotency_keys AS k \
        WHERE k.account_id = value ->> 0 AND k.key = value ->> 1 AND k.rowid > $2)";
    let rows = json_rows(increments.iter().map(|increment| {
        json!([
            *increment.account_id,
            key_of(increment),
            *increment.meter,
            increment.quantity,
            increment.stated_at
        ])
    }));
    let insert =
        Statement::from_sql_and_values(DbBackend::Sqlite, INSERT, [rows.clone(), now.into()]);
    let inserted = tx.execute_raw(insert).await?;
    let new = inserted.rows_affected();
    if usize::try_from(new).is_ok_and(|new| new == increments.len()) {
        return Ok(Vec::new());
    }
    if new == 0 {
        return Ok((0..increments.len()).collect());
    }
    let last_known = inserted.last_insert_id().saturating_sub(new);
    let known = [rows, i64::try_from(last_known).unwrap_or(i64::MAX).into()];
    places(
        tx,
        Statement::from_sql_and_values(DbBackend::Sqlite, KNOWN, known),
    )
    .await
}

/// The stored keys of increments that have keys. One is looked up after the other: for a thousand, PostgreSQL would
/// rather read the whole table.
pub(super) async fn stored_keys(
    db: &impl ConnectionTrait,
    increments: &[&Increment],
) -> Result<Vec<idempotency_key::Model>, DbErr> {
    const POSTGRES: &str = "SELECT k.* FROM UNNEST($1::text[], $2::text[]) AS t(a, n) \
        CROSS JOIN LATERAL (SELECT * FROM idempotency_keys WHERE account_id = t.a AND key = t.n OFFSET 0) AS k";
    const SQLITE: &str = "SELECT k.* FROM json_each($1) CROSS JOIN idempotency_keys AS k \
        WHERE k.account_id = value ->> 0 AND k.key = value ->> 1";
    if increments.is_empty() {
        return Ok(Vec::new());
    }
    let backend = db.get_database_backend();
    let statement = if backend == DbBackend::Postgres {
        let values = [
            texts(increments.iter().map(|increment| &*increment.account_id)),
            texts(increments.iter().map(|increment| key_of(increment))),
        ];
        Statement::from_sql_and_values(backend, POSTGRES, values)
    } else {
        let keys = increments
            .iter()
            .map(|increment| json!([*increment.account_id, key_of(increment)]));
        Statement::from_sql_and_values(backend, SQLITE, [json_rows(keys)])
    };
    let rows = idempotency_key::Entity::find().from_raw_sql(statement);
    rows.all(db).await
}

fn key_of(increment: &Increment) -> &str {
    increment.key.as_deref().unwrap_or_default()
}

fn json_rows(rows: impl Iterator<Item = serde_json::Value>) -> Value {
    serde_json::Value::Array(rows.collect()).to_string().into()
}

async fn places(tx: &Transaction, statement: Statement) -> Result<Vec<usize>, DbErr> {
    let damaged = |_| DbErr::Custom("a place outside of its statement".to_owned());
    tx.query_all_raw(statement)
        .await?
        .iter()
        .map(|row| usize::try_from(row.try_get_by_index::<i64>(0)?).map_err(damaged))
        .collect()
}

/// Adds to the open reports of some windows, and creates those that do not exist.
///
/// `additions` contain each account, window and meter once, in that order. A window can end later than its open report
/// only if the slots were made wider in between; no boundary lies in either.
///
/// # Errors
/// A CHECK fails if a report would exceed fifteen digits.
pub(super) async fn add_to_open_reports(
    tx: &Transaction,
    additions: &[Addition],
) -> Result<(), DbErr> {
    const POSTGRES: &str = "INSERT INTO usage_reports \
        (account_id, id, meter, window_start, window_end, quantity, first_at, last_at, state) \
        SELECT t.*, 'open' FROM UNNEST($1::text[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], \
            $6::bigint[], $7::bigint[], $8::bigint[]) AS t \
        ON CONFLICT (account_id, meter, window_start) WHERE period_end IS NULL DO UPDATE SET \
            quantity = usage_reports.quantity + excluded.quantity, \
            first_at = LEAST(usage_reports.first_at, excluded.first_at), \
            last_at = GREATEST(usage_reports.last_at, excluded.last_at), \
            window_end = GREATEST(usage_reports.window_end, excluded.window_end)";
    const SQLITE: &str = "INSERT INTO usage_reports \
        (account_id, id, meter, window_start, window_end, quantity, first_at, last_at, state) \
        SELECT value ->> 0, unhex(value ->> 1), value ->> 2, value ->> 3, value ->> 4, \
            value ->> 5, value ->> 6, value ->> 7, 'open' FROM json_each($1) WHERE true \
        ON CONFLICT (account_id, meter, window_start) WHERE period_end IS NULL DO UPDATE SET \
            quantity = usage_reports.quantity + excluded.quantity, \
            first_at = MIN(usage_reports.first_at, excluded.first_at), \
            last_at = MAX(usage_reports.last_at, excluded.last_at), \
            window_end = MAX(usage_reports.window_end, excluded.window_end)";
    if additions.is_empty() {
        return Ok(());
    }
    let backend = tx.get_database_backend();
    let statement = if backend == DbBackend::Postgres {
        let values = [
            texts(additions.iter().map(|row| &*row.account_id)),
            uuids(additions.iter().map(|_| Uuid::now_v7())),
            texts(additions.iter().map(|row| &*row.meter)),
            numbers(additions.iter().map(|row| row.window.start)),
            numbers(additions.iter().map(|row| row.window.end)),
            numbers(additions.iter().map(|row| row.quantity)),
            numbers(additions.iter().map(|row| row.first_at)),
            numbers(additions.iter().map(|row| row.last_at)),
        ];
        Statement::from_sql_and_values(backend, POSTGRES, values)
    } else {
        let rows = json_rows(additions.iter().map(|row| {
            json!([
                *row.account_id,
                Uuid::now_v7().simple().to_string(),
                *row.meter,
                row.window.start,
                row.window.end,
                row.quantity,
                row.first_at,
                row.last_at
            ])
        }));
        Statement::from_sql_and_values(backend, SQLITE, [rows])
    };
    tx.execute_raw(statement).await.map(|_| ())
}
