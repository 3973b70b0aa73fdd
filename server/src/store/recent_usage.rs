//! The recent usage of an account by day, for lists of accounts.
//!
//! The statement is raw, as those of `usage_sums`, and searches each table by the index that begins with the account and the
//! window and has all columns that it needs. The engine adds all windows of a meter and day, so an account with many reports
//! gives no more rows than one with few.

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, QueryResult, Statement};

use super::{
    Store,
    usage_of_accounts::{PARTS, Parameters},
    usage_sums::{PART, TABLES, check_lengths, parsed},
};
use crate::{
    domain::{DAY_MS, Millis, account_id::AccountId, start_of, window::Interval},
    error::Result,
};

/// The usage of a meter in some windows of one UTC day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DaySum {
    /// The start of the first of these windows.
    pub(crate) window_start: Millis,
    /// All usage and corrections. Several sums may be of the same day.
    pub(crate) quantity: i128,
}

impl Store {
    /// The usage of an account in a period, as sums of meters and days. No sum has windows on both sides of one of the edges,
    /// which must not lie inside a window.
    pub(crate) async fn usage_by_day(
        &self,
        account_id: &AccountId,
        period: Interval,
        edges: &[Millis],
    ) -> Result<Vec<(String, DaySum)>> {
        let backend = self.backend();
        let (sql, parameters) = by_day(backend, account_id, period, edges);
        let statement = Statement::from_sql_and_values(backend, sql, parameters.0);
        let mut sums = Vec::new();
        for row in self.reader.query_all_raw(statement).await? {
            add_lists(&mut sums, &row)?;
        }
        Ok(sums)
    }
}

fn by_day(
    backend: DbBackend,
    account_id: &AccountId,
    period: Interval,
    edges: &[Millis],
) -> (String, Parameters) {
    let list = |of: &str| match backend {
        DbBackend::Sqlite => format!("json_group_array({of}) AS {of}"),
        _ => format!("CAST(json_agg({of}) AS text) AS {of}"),
    };
    let lists = ["first_start", "parts", "rest"].map(list).join(", ");
    let mut parameters = Parameters::default();
    let account = parameters.add(account_id);
    let (start, end) = (parameters.add(period.start), parameters.add(period.end));
    let first_day = parameters.add(start_of(DAY_MS, period.start));
    // How many edges are not after a window.
    let mut passed = "0".to_owned();
    for edge in edges {
        let edge = parameters.add(*edge);
        passed = format!("{passed} + CASE WHEN window_start >= {edge} THEN 1 ELSE 0 END");
    }
    let tables = TABLES.map(|(table, _)| {
        format!(
            "SELECT meter, {lists} FROM (SELECT meter, (window_start - {first_day}) / {DAY_MS} AS day, {passed} AS passed, \
             MIN(window_start) AS first_start, {PARTS} FROM {table} WHERE account_id = {account} \
             AND window_start >= {start} AND window_start < {end} GROUP BY 1, 2, 3) AS {table}_days GROUP BY meter"
        )
    });
    (tables.join(" UNION ALL "), parameters)
}

/// Adds the sums of a meter in one table. They have their values at the same place of each list.
fn add_lists(
    sums: &mut Vec<(String, DaySum)>,
    row: &QueryResult,
) -> std::result::Result<(), DbErr> {
    let meter: String = row.try_get("", "meter")?;
    let list = |name| row.try_get::<String>("", name);
    let (starts, parts, rest) = (list("first_start")?, list("parts")?, list("rest")?);
    let (starts, parts, rest): (Vec<Millis>, Vec<i64>, Vec<i64>) =
        (parsed(&starts)?, parsed(&parts)?, parsed(&rest)?);
    check_lengths(&[starts.len(), parts.len(), rest.len()])?;
    let values = starts.into_iter().zip(parts.into_iter().zip(rest));
    sums.extend(values.map(|(window_start, (parts, rest))| {
        let whole = i128::from(parts).saturating_mul(i128::from(PART));
        let quantity = whole.saturating_add(i128::from(rest));
        let sum = DaySum {
            window_start,
            quantity,
        };
        (meter.clone(), sum)
    }));
    Ok(())
}
