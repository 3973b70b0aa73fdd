//! The sums of usage that `Get` returns.
//!
//! The statements are raw. A month by hour is 720 sums, and the driver needs more time for 720 rows than the engine: on
//! SQLite, each row passes between two threads. So the engine writes the rows of a table into a few lists of one row. It also
//! reads each table by itself: SQLite copies the rows of a view of several tables before it aggregates them. With the index
//! that has all columns, the statement takes 0.11 ms on SQLite and 0.28 ms on PostgreSQL, instead of 0.77 and 0.65 ms for
//! the grouped view alone; 1,000 calls a second take 1.2 ms instead of more than a second.

use std::{borrow::Cow, collections::BTreeMap};

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, QueryResult, Statement, Value};
use serde::Deserialize;

use super::Store;
use crate::{
    domain::{Millis, account_id::AccountId, report::State, window::Interval},
    entity::usage_report::UsageReportState,
    error::Result,
    planted_defects::{Defect, planted},
};

/// The tables of reports, and what their state is.
pub(super) const TABLES: [(&str, &str); 3] = [
    ("usage_reports", "state"),
    ("open_reports", "CAST('open' AS text)"),
    ("folded_reports", "state"),
];
/// Sums are split by this, so that the engine can add quantities whose sum has more than 64 bits.
pub(super) const PART: i64 = 1_000_000_000;

/// The usage of one meter in one window and state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UsageSum {
    /// The window's start; that of the period if all windows are in it.
    pub(crate) window_start: Millis,
    /// The state.
    pub(crate) state: State,
    /// The quantity. Several of them may have the same meter, window and state.
    pub(crate) quantity: i128,
}

/// The sums of each meter.
pub(crate) type SumsByMeter = BTreeMap<String, Vec<UsageSum>>;

impl Store {
    /// The usage of an account in a period by meter, window and state. The period's edges must not lie inside a window.
    pub(crate) async fn usage_by_window(
        &self,
        account_id: &AccountId,
        meter: Option<&str>,
        period: Interval,
    ) -> Result<SumsByMeter> {
        let is_sqlite = self.backend() == DbBackend::Sqlite;
        let list = |of: &str| {
            if is_sqlite {
                format!("json_group_array({of})")
            } else {
                format!("CAST(json_agg({of}) AS text)")
            }
        };
        let sql = of_all_tables(meter, |state| {
            let (states, windows, quantities) =
                (list(state), list("window_start"), list("quantity"));
            // A list of one meter would be nothing but its name.
            let meters = meter.map_or_else(
                || format!("{} AS meters, ", list("meter")),
                |_| String::new(),
            );
            let columns = format!(
                "{meters}{states} AS states, {windows} AS windows, {quantities} AS quantities"
            );
            (columns, "")
        });
        let mut sums = SumsByMeter::new();
        for row in self.sums(sql, account_id, meter, period).await? {
            add_lists(&mut sums, &row, meter)?;
        }
        Ok(sums)
    }

    /// The usage of an account in a period by meter and state, as [`Store::usage_by_window`].
    pub(crate) async fn usage_in_total(
        &self,
        account_id: &AccountId,
        meter: Option<&str>,
        period: Interval,
    ) -> Result<SumsByMeter> {
        let sql = of_all_tables(meter, |state| {
            let columns = format!(
                "meter, {state} AS state, CAST(SUM(quantity / {PART}) AS bigint) AS parts, \
                 CAST(SUM(quantity % {PART}) AS bigint) AS rest"
            );
            (columns, " GROUP BY 1, 2")
        });
        let mut sums = SumsByMeter::new();
        for row in self.sums(sql, account_id, meter, period).await? {
            let state: UsageReportState = row.try_get("", "state")?;
            let (parts, rest): (i64, i64) = (row.try_get("", "parts")?, row.try_get("", "rest")?);
            let parts = i128::from(parts).saturating_mul(i128::from(PART));
            sums.entry(row.try_get("", "meter")?)
                .or_default()
                .push(UsageSum {
                    window_start: period.start,
                    state: state.into(),
                    quantity: parts.saturating_add(i128::from(rest)),
                });
        }
        Ok(sums)
    }

    async fn sums(
        &self,
        sql: String,
        account_id: &AccountId,
        meter: Option<&str>,
        period: Interval,
    ) -> Result<Vec<QueryResult>> {
        let mut values: Vec<Value> =
            vec![account_id.into(), period.start.into(), period.end.into()];
        values.extend(meter.map(Value::from));
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        Ok(self.reader.query_all_raw(statement).await?)
    }
}

/// One statement, and so one state of the database, for the reports of all tables. The columns, and the end of each part,
/// are made of the expression for the state.
fn of_all_tables(meter: Option<&str>, columns: impl Fn(&str) -> (String, &'static str)) -> String {
    let of_meter = meter.map_or("", |_| " AND meter = $4");
    let parts = TABLES.map(|(table, state)| {
        let (columns, end) = columns(state);
        let but_open = if planted(Defect::OpenUsageNotShown) && table == "open_reports" {
            " AND quantity < 0"
        } else {
            ""
        };
        format!(
            "SELECT {columns} FROM {table} WHERE account_id = $1{but_open} \
             AND window_start >= $2 AND window_start < $3{of_meter}{end}"
        )
    });
    parts.join(" UNION ALL ")
}

/// A text of a list, which is copied only if it has escaped characters.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Adds the reports of a table. They have their values at the same place of each list.
fn add_lists(sums: &mut SumsByMeter, row: &QueryResult, only: Option<&str>) -> Result<(), DbErr> {
    let list = |name| row.try_get::<Option<String>>("", name);
    // PostgreSQL has no list without rows.
    let (Some(states), Some(windows), Some(quantities)) =
        (list("states")?, list("windows")?, list("quantities")?)
    else {
        return Ok(());
    };
    let found = read_lists(&states, &windows, &quantities)?;
    if let Some(meter) = only {
        sums.entry(meter.to_owned()).or_default().extend(found);
        return Ok(());
    }
    let meters: String = row.try_get("", "meters")?;
    let meters: Vec<Text> = parsed(&meters)?;
    check_lengths(&[meters.len(), found.len()])?;
    for (meter, sum) in meters.iter().zip(found) {
        match sums.get_mut(&*meter.0) {
            Some(of_meter) => of_meter.push(sum),
            None => {
                sums.insert(meter.0.to_string(), vec![sum]);
            }
        }
    }
    Ok(())
}

fn read_lists(states: &str, windows: &str, quantities: &str) -> Result<Vec<UsageSum>, DbErr> {
    let states: Vec<Text> = parsed(states)?;
    let windows: Vec<Millis> = parsed(windows)?;
    let quantities: Vec<i64> = parsed(quantities)?;
    check_lengths(&[states.len(), windows.len(), quantities.len()])?;
    let mut sums = Vec::with_capacity(states.len());
    // Neighbors mostly have the same state.
    let mut known: Option<(&str, State)> = None;
    for (text, (window_start, quantity)) in states.iter().zip(windows.into_iter().zip(quantities)) {
        let state = match known {
            Some((name, state)) if name == text.0 => state,
            _ => UsageReportState::from_text(&text.0)?.into(),
        };
        known = Some((&text.0, state));
        sums.push(UsageSum {
            window_start,
            state,
            quantity: quantity.into(),
        });
    }
    Ok(sums)
}

pub(super) fn check_lengths(lengths: &[usize]) -> Result<(), DbErr> {
    if lengths.windows(2).any(|pair| pair.first() != pair.last()) {
        return Err(DbErr::Type("lists of different lengths".to_owned()));
    }
    Ok(())
}

pub(super) fn parsed<'a, T: Deserialize<'a>>(list: &'a str) -> Result<Vec<T>, DbErr> {
    serde_json::from_str(list).map_err(|error| DbErr::Type(format!("a list of reports: {error}")))
}
