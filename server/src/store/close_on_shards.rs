//! Moves open reports to the closed ones where they are spread over several machines: there, no statement deletes in one
//! table and inserts into another one.

use std::sync::LazyLock;

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, Statement};

use super::{
    billing_start::event_time_sql,
    close_reports::{ClosedTotals, Closing, Decided},
    connection::Transaction,
    postgres_arrays::{numbers, texts, uuids},
};
use crate::entity::open_report;

/// A report that another integration bills gets the time of the meter event that would be sent.
static INSERT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "INSERT INTO usage_reports \
    (account_id, id, meter, window_start, window_end, period_end, quantity, first_at, last_at, state, customer, \
    closed_at, run_id, straddled, event_timestamp) \
    SELECT a, i, m, s, e, e, q, f, l, t, NULLIF(c, ''), $11, $12, $13, \
        CASE WHEN t = 'not_billable' AND c <> '' THEN {} END \
    FROM UNNEST($1::text[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], \
        $8::bigint[], $9::text[], $10::text[]) AS r(a, i, m, s, e, q, f, l, t, c)",
        event_time_sql("s", "e")
    )
});

const DELETE: &str = "DELETE FROM open_reports WHERE account_id = ANY($1) AND id = ANY($2)";

/// Moves reports that this transaction has locked, each with what becomes of it.
pub(super) async fn move_locked(
    tx: &Transaction,
    (reports, decided): (&[open_report::Model], &[Decided]),
    closing: Closing,
) -> Result<ClosedTotals, DbErr> {
    let accounts = || texts(reports.iter().map(|report| &*report.account_id));
    let ids = || uuids(reports.iter().map(|report| report.id));
    let customers = decided
        .iter()
        .map(|one| one.customer.as_deref().unwrap_or_default());
    let values = [
        accounts(),
        ids(),
        texts(reports.iter().map(|report| &*report.meter)),
        numbers(reports.iter().map(|report| report.window_start)),
        numbers(reports.iter().map(|report| report.window_end)),
        numbers(reports.iter().map(|report| report.quantity)),
        numbers(reports.iter().map(|report| report.first_at)),
        numbers(reports.iter().map(|report| report.last_at)),
        texts(decided.iter().map(|one| one.state.name())),
        texts(customers),
        closing.now.into(),
        closing.run.into(),
        closing.is_straddled.into(),
    ];
    let insert = Statement::from_sql_and_values(DbBackend::Postgres, INSERT.as_str(), values);
    tx.execute_raw(insert).await?;
    let delete = Statement::from_sql_and_values(DbBackend::Postgres, DELETE, [accounts(), ids()]);
    let deleted = tx.execute_raw(delete).await?.rows_affected();
    Ok(ClosedTotals {
        reports: i64::try_from(deleted).unwrap_or(i64::MAX),
        quantity: reports
            .iter()
            .fold(0, |sum: i64, report| sum.saturating_add(report.quantity)),
    })
}
