//! Idempotency keys of increments: storing new ones, and looking stored ones up.

use std::sync::LazyLock;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, EntityTrait as _, Statement, Value};
use uuid::Uuid;

use super::{
    additions::Windows,
    columns::columns,
    connection::{Examined, Transaction},
    postgres_arrays::{NO_TIME, numbers, texts, uuids},
    value_rows::ValueRows,
};
use crate::{
    domain::{Millis, increment::Increment},
    entity::idempotency_key,
};

/// An increment with the stored form of its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keyed<'a> {
    pub(super) key: Uuid,
    pub(super) increment: &'a Increment,
}

const INSERT_POSTGRES: &str = "INSERT INTO idempotency_keys \
    (key, account_id, meter, quantity, stated_at, created_at, report_id) \
    SELECT k, a, m, q, NULLIF(s, $7), $8, (SELECT r.id FROM open_reports AS r \
        WHERE r.account_id = a AND r.window_start = w AND r.meter = m) \
    FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[]) \
        AS t(k, a, m, q, s, w) \
    ON CONFLICT DO NOTHING";

/// The same over shards. Citus looks no report up for each row of an array, but joins them, if the arrays are in a subquery
/// that it runs first. It would say that all rows were inserted, also those that conflicted: those that were are returned.
const INSERT_DISTRIBUTED: &str = "INSERT INTO idempotency_keys \
    (key, account_id, meter, quantity, stated_at, created_at, report_id) \
    SELECT k, a, t.m, q, NULLIF(s, $7), $8, r.id FROM (SELECT * \
        FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[]) \
        AS u(k, a, m, q, s, w) OFFSET 0) AS t \
    JOIN open_reports AS r ON r.account_id = a AND r.window_start = w AND r.meter = t.m \
    WHERE r.account_id = ANY($2) \
    ON CONFLICT DO NOTHING RETURNING 1";

pub(super) static INSERT_SQLITE: ValueRows<7> = ValueRows::new(|| {
    ValueRows::<7>::around_rows(
        "INSERT INTO idempotency_keys \
        (key, account_id, meter, quantity, stated_at, created_at, report_id) \
        SELECT column1, column2, column3, column4, column5, column6, (SELECT r.id FROM open_reports AS r \
            WHERE r.account_id = column2 AND r.window_start = column7 AND r.meter = column3) FROM ",
        " WHERE column1 IS NOT NULL ON CONFLICT DO NOTHING",
    )
});

/// One is looked up after the other: for a thousand, PostgreSQL would rather read the whole table.
static FIND_POSTGRES: LazyLock<String> = LazyLock::new(|| {
    let columns = columns::<idempotency_key::Entity>("k");
    format!(
        "SELECT {columns} FROM UNNEST($1::uuid[], $2::text[]) AS t(n, a) \
        CROSS JOIN LATERAL (SELECT * FROM idempotency_keys WHERE key = t.n AND account_id = t.a OFFSET 0) AS k"
    )
});

/// The same over shards.
static FIND_DISTRIBUTED: LazyLock<String> = LazyLock::new(|| {
    let columns = columns::<idempotency_key::Entity>("k");
    format!(
        "SELECT {columns} FROM idempotency_keys AS k WHERE k.account_id = ANY($2) \
        AND (k.key, k.account_id) IN (SELECT * FROM UNNEST($1::uuid[], $2::text[]))"
    )
});

static FIND_SQLITE: ValueRows<2> = ValueRows::new(|| {
    ValueRows::<2>::around_rows(
        &format!("SELECT {} FROM ", columns::<idempotency_key::Entity>("k")),
        " CROSS JOIN idempotency_keys AS k WHERE k.key = column1 AND k.account_id = column2",
    )
});

/// Stores the keys of increments that were added to the open reports of their windows. Returns how many of them are new.
///
/// Keys are distinct and in order, which is the order of their locks.
pub(super) async fn insert_keys(
    tx: &Transaction,
    keyed: &[Keyed<'_>],
    windows: &Windows,
    now: Millis,
) -> Result<usize, DbErr> {
    if keyed.is_empty() {
        return Ok(0);
    }
    let increments = || keyed.iter().map(|keyed| keyed.increment);
    let statements = if tx.get_database_backend() == DbBackend::Sqlite {
        let rows = keyed.iter().map(|keyed| row(keyed, windows, now));
        INSERT_SQLITE.statements(rows, &NO_ROW)?
    } else {
        let stated = |increment: &Increment| increment.stated_at.unwrap_or(NO_TIME);
        let values = [
            uuids(keyed.iter().map(|keyed| keyed.key)),
            texts(increments().map(|increment| &*increment.account_id)),
            texts(increments().map(|increment| &*increment.meter)),
            numbers(increments().map(|increment| increment.quantity)),
            numbers(increments().map(stated)),
            numbers(increments().map(|increment| windows.around(increment).start)),
            NO_TIME.into(),
            now.into(),
        ];
        if tx.shards().is_distributed() {
            let insert =
                Statement::from_sql_and_values(DbBackend::Postgres, INSERT_DISTRIBUTED, values);
            return Ok(tx.query_all_raw(insert).await?.len());
        }
        vec![Statement::from_sql_and_values(
            DbBackend::Postgres,
            INSERT_POSTGRES,
            values,
        )]
    };
    let mut inserted = 0_usize;
    for statement in statements {
        let rows = tx.execute_raw(statement).await?.rows_affected();
        inserted = inserted.saturating_add(usize::try_from(rows).unwrap_or(usize::MAX));
    }
    Ok(inserted)
}

/// The values of one row of the statement for SQLite.
pub(super) fn row(
    Keyed { key, increment }: &Keyed<'_>,
    windows: &Windows,
    now: Millis,
) -> [Value; 7] {
    [
        (*key).into(),
        (&increment.account_id).into(),
        (&*increment.meter).into(),
        increment.quantity.into(),
        increment.stated_at.into(),
        now.into(),
        windows.around(increment).start.into(),
    ]
}

/// Those of a row that is not meant.
pub(super) const NO_ROW: [Value; 7] = [const { Value::BigInt(None) }; 7];

/// The stored keys among some.
pub(super) async fn find_keys<C: ConnectionTrait + Send>(
    db: &Examined<C>,
    keyed: &[Keyed<'_>],
) -> Result<Vec<idempotency_key::Model>, DbErr> {
    if keyed.is_empty() {
        return Ok(Vec::new());
    }
    let statements = if db.get_database_backend() == DbBackend::Sqlite {
        let nulls = [const { Value::BigInt(None) }; 2];
        let rows = keyed
            .iter()
            .map(|Keyed { key, increment }| [(*key).into(), (&increment.account_id).into()]);
        FIND_SQLITE.statements(rows, &nulls)?
    } else {
        let values = [
            uuids(keyed.iter().map(|keyed| keyed.key)),
            texts(keyed.iter().map(|keyed| &*keyed.increment.account_id)),
        ];
        let sql = if db.shards().is_distributed() {
            FIND_DISTRIBUTED.as_str()
        } else {
            FIND_POSTGRES.as_str()
        };
        vec![Statement::from_sql_and_values(
            DbBackend::Postgres,
            sql,
            values,
        )]
    };
    let mut found = Vec::new();
    for statement in statements {
        let rows = idempotency_key::Entity::find().from_raw_sql(statement);
        found.extend(rows.all(db).await?);
    }
    Ok(found)
}
