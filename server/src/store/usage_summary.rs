//! The sums of all accounts' reports, by meter, state and part of a period, and the accounts with the most usage.

use std::collections::BTreeMap;

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, QueryResult, Statement};

use super::{
    Store,
    connection::Transaction,
    usage_of_accounts::{AllAccounts, PARTS, Parameters, UsageFilter, top_accounts},
    usage_sums::{PART, TABLES, check_lengths, parsed},
};
use crate::{
    domain::{Millis, report::State},
    entity::usage_report::UsageReportState,
    error::Result,
};

/// The usage of one meter and state in one part of a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartSum {
    /// The part's number, from the period's start on.
    pub(crate) part: i64,
    pub(crate) state: State,
    /// The quantity. Several may have the same part and state.
    pub(crate) quantity: i128,
}

/// The usage of all accounts, by meter.
#[derive(Clone, Debug, Default)]
pub(crate) struct SummedUsage {
    pub(crate) sums: BTreeMap<String, Vec<PartSum>>,
    pub(crate) accounts: AllAccounts,
}

impl Store {
    /// The usage of all accounts, in parts of the period that are as long as `width`, and the accounts with the most. Both are
    /// of one state of the database.
    pub(crate) async fn summed_usage(
        &self,
        filter: &UsageFilter,
        width: Millis,
        top: u64,
    ) -> Result<SummedUsage> {
        let backend = self.backend();
        let tx = self.begin_reading().await?;
        let sums = sums_by_part(&tx, backend, filter, width).await?;
        let accounts = top_accounts(&tx, backend, filter, top).await?;
        tx.rollback().await?;
        Ok(SummedUsage { sums, accounts })
    }
}

/// As in `usage_sums`, the engine writes the rows of a meter and state into lists: ten years have 87,840 hours.
async fn sums_by_part(
    tx: &Transaction,
    backend: DbBackend,
    filter: &UsageFilter,
    width: Millis,
) -> std::result::Result<BTreeMap<String, Vec<PartSum>>, DbErr> {
    let list = |of: &str| match backend {
        DbBackend::Sqlite => format!("json_group_array({of}) AS {of}"),
        _ => format!("CAST(json_agg({of}) AS text) AS {of}"),
    };
    let lists = ["part", "parts", "rest"].map(list).join(", ");
    let mut parameters = Parameters::default();
    let (start, width) = (parameters.add(filter.period.start), parameters.add(width));
    let condition = parameters.condition(filter);
    let tables = TABLES.map(|(table, state)| {
        format!(
            "SELECT meter, state, {lists} FROM (SELECT meter, {state} AS state, (window_start - {start}) / {width} AS part, \
             {PARTS} FROM {table} WHERE {condition} GROUP BY 1, 2, 3) AS {table}_sums GROUP BY meter, state"
        )
    });
    let statement =
        Statement::from_sql_and_values(backend, tables.join(" UNION ALL "), parameters.0);
    let mut sums = BTreeMap::new();
    for row in tx.query_all_raw(statement).await? {
        let of_meter: &mut Vec<PartSum> = sums.entry(row.try_get("", "meter")?).or_default();
        add_lists(of_meter, &row)?;
    }
    Ok(sums)
}

fn add_lists(sums: &mut Vec<PartSum>, row: &QueryResult) -> std::result::Result<(), DbErr> {
    let state: UsageReportState = row.try_get("", "state")?;
    let list = |name| row.try_get::<String>("", name);
    let (part, parts, rest) = (list("part")?, list("parts")?, list("rest")?);
    let (part, parts, rest): (Vec<i64>, Vec<i64>, Vec<i64>) =
        (parsed(&part)?, parsed(&parts)?, parsed(&rest)?);
    check_lengths(&[part.len(), parts.len(), rest.len()])?;
    sums.extend(
        part.into_iter()
            .zip(parts.into_iter().zip(rest))
            .map(|(part, (parts, rest))| {
                let whole = i128::from(parts).saturating_mul(i128::from(PART));
                PartSum {
                    part,
                    state: state.into(),
                    quantity: whole.saturating_add(i128::from(rest)),
                }
            }),
    );
    Ok(())
}
