//! Adding to open reports: the statement that counts.

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, Statement, Value};
use uuid::Uuid;

use super::{
    additions::Addition,
    connection::Transaction,
    postgres_arrays::{numbers, texts, uuids},
    value_rows::ValueRows,
};

pub(super) const POSTGRES: &str = "INSERT INTO open_reports \
    (account_id, id, meter, window_start, window_end, quantity, first_at, last_at) \
    SELECT * FROM UNNEST($1::text[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], \
        $6::bigint[], $7::bigint[], $8::bigint[]) \
    ON CONFLICT (account_id, window_start, meter) DO UPDATE SET \
        quantity = open_reports.quantity + excluded.quantity, \
        first_at = LEAST(open_reports.first_at, excluded.first_at), \
        last_at = GREATEST(open_reports.last_at, excluded.last_at), \
        window_end = GREATEST(open_reports.window_end, excluded.window_end)";

pub(super) static SQLITE: ValueRows<8> = ValueRows::new(|| {
    ValueRows::<8>::around_rows(
        "INSERT INTO open_reports \
        (account_id, id, meter, window_start, window_end, quantity, first_at, last_at) \
        SELECT * FROM ",
        " WHERE column1 IS NOT NULL \
        ON CONFLICT (account_id, window_start, meter) DO UPDATE SET \
            quantity = open_reports.quantity + excluded.quantity, \
            first_at = MIN(open_reports.first_at, excluded.first_at), \
            last_at = MAX(open_reports.last_at, excluded.last_at), \
            window_end = MAX(open_reports.window_end, excluded.window_end)",
    )
});

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
    if additions.is_empty() {
        return Ok(());
    }
    if tx.get_database_backend() == DbBackend::Sqlite {
        for statement in SQLITE.statements(additions.iter().map(row), &no_row())? {
            tx.execute_raw(statement).await?;
        }
        return Ok(());
    }
    let values = arrays(additions);
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, POSTGRES, values);
    tx.execute_raw(statement).await.map(|_| ())
}

/// The values of the statement for PostgreSQL.
pub(super) fn arrays(additions: &[Addition]) -> [Value; 8] {
    [
        texts(additions.iter().map(|row| &*row.account_id)),
        uuids(additions.iter().map(|_| Uuid::now_v7())),
        texts(additions.iter().map(|row| &*row.meter)),
        numbers(additions.iter().map(|row| row.window.start)),
        numbers(additions.iter().map(|row| row.window.end)),
        numbers(additions.iter().map(|row| row.quantity)),
        numbers(additions.iter().map(|row| row.first_at)),
        numbers(additions.iter().map(|row| row.last_at)),
    ]
}

/// The values of one row of the statements for SQLite.
pub(super) fn row(addition: &Addition) -> [Value; 8] {
    [
        (&addition.account_id).into(),
        Uuid::now_v7().into(),
        (&*addition.meter).into(),
        addition.window.start.into(),
        addition.window.end.into(),
        addition.quantity.into(),
        addition.first_at.into(),
        addition.last_at.into(),
    ]
}

/// Those of a row that is not meant.
pub(super) fn no_row() -> [Value; 8] {
    let (text, number) = (Value::String(None), Value::BigInt(None));
    [
        text.clone(),
        Value::Uuid(None),
        text,
        number.clone(),
        number.clone(),
        number.clone(),
        number.clone(),
        number,
    ]
}
