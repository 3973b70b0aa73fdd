//! The accounts of a page of a sign-off: their ids, and the sums of their reports.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::{ConnectionTrait as _, DbErr, QueryResult, Statement, Value};

use super::{
    Range, TABLES, Table, acknowledged::add_acknowledged, decisions::add_folded_decisions, key,
    month, quantities, sum,
};
use crate::{
    domain::{
        account_id::AccountId,
        report::State,
        sign_off::{AccountRows, Sum},
        window::Interval,
    },
    store::connection::Transaction,
};

/// The next ids of accounts with reports, in their order: in each table, a step finds the next one by the one before it, so an
/// account with many reports takes no longer than one with few.
pub(super) async fn next_accounts(
    tx: &Transaction,
    after: Option<&AccountId>,
    limit: u64,
) -> Result<Vec<AccountId>, DbErr> {
    if tx.shards().is_distributed() {
        return next_accounts_on_shards(tx, after, limit).await;
    }
    let steps = |table: &Table| {
        let name = table.name;
        let next = |after: &str| {
            format!(
                "SELECT account_id FROM {name} WHERE account_id > {after} ORDER BY account_id LIMIT 1"
            )
        };
        let of_step = format!("next_of_{name}.account_id");
        let (first, next) = (next("$1"), next(&of_step));
        format!(
            "next_of_{name}(account_id, place) AS (SELECT ({first}), 1 UNION ALL SELECT ({next}), place + 1 \
             FROM next_of_{name} WHERE {of_step} IS NOT NULL AND place < $2)"
        )
    };
    let found = |table: &Table| {
        let name = table.name;
        format!("SELECT account_id FROM next_of_{name} WHERE account_id IS NOT NULL")
    };
    let steps: Vec<String> = TABLES.iter().map(steps).collect();
    let found: Vec<String> = TABLES.iter().map(found).collect();
    let sql = format!(
        "WITH RECURSIVE {} {}",
        steps.join(", "),
        found.join(" UNION ALL ")
    );
    let after = after.map_or("", |id| id.as_str());
    let values: [Value; 2] = [after.into(), limit.into()];
    let statement = Statement::from_sql_and_values(tx.get_database_backend(), sql, values);
    let rows = tx.query_all_raw(statement).await?;
    let ids = rows.iter().map(|row| row.try_get("", "account_id"));
    let ids: BTreeSet<AccountId> = ids.collect::<Result<_, _>>()?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(ids.into_iter().take(limit).collect())
}

/// The same on Citus, which cannot repeat steps over shards: each id is looked up by the one before it.
async fn next_accounts_on_shards(
    tx: &Transaction,
    after: Option<&AccountId>,
    limit: u64,
) -> Result<Vec<AccountId>, DbErr> {
    let of_table = |table: &Table| {
        let name = table.name;
        format!(
            "SELECT account_id FROM (SELECT account_id FROM {name} WHERE account_id > $1 \
             ORDER BY account_id LIMIT 1) AS next_of_{name}"
        )
    };
    let sql = TABLES.iter().map(of_table).collect::<Vec<_>>();
    let sql = sql.join(" UNION ALL ");
    let mut ids: Vec<AccountId> = Vec::new();
    for _ in 0..limit {
        let place = ids.last().or(after).map_or("", |id| id.as_str());
        let values = [Value::from(place)];
        let statement = Statement::from_sql_and_values(tx.get_database_backend(), &sql, values);
        let rows = tx.query_all_raw(statement).await?;
        let found = rows.iter().map(|row| row.try_get("", "account_id"));
        let found: Vec<AccountId> = found.collect::<Result<_, _>>()?;
        match found.into_iter().min() {
            Some(next) => ids.push(next),
            None => break,
        }
    }
    Ok(ids)
}

/// The rows of these accounts, which are those of the range, without the accounts that have none.
pub(super) async fn read_accounts(
    tx: &Transaction,
    ids: &[AccountId],
    range: &Range,
    windows: Interval,
) -> Result<BTreeMap<AccountId, AccountRows>, DbErr> {
    let mut accounts: BTreeMap<AccountId, AccountRows> = BTreeMap::new();
    let mut has_decided = false;
    let mut confirmed: BTreeSet<AccountId> = BTreeSet::new();
    for row in read_sums(tx, ids, windows).await? {
        let account_id: AccountId = row.try_get("", "account_id")?;
        let decided: i64 = row.try_get("", "decided")?;
        let sum: Sum = sum(&row)?;
        has_decided |= decided > 0;
        if sum.state == State::Confirmed {
            confirmed.insert(account_id.clone());
        }
        let rows = accounts.entry(account_id).or_default();
        rows.entry(key(&row)?).or_default().add(&sum);
    }
    if has_decided {
        add_folded_decisions(tx, ids, windows, &mut accounts).await?;
    }
    if !confirmed.is_empty() {
        add_acknowledged(tx, range, &confirmed, windows, &mut accounts).await?;
    }
    Ok(accounts)
}

/// Sums of the reports of accounts. The months of each are found by an index, also where there are years of them.
async fn read_sums(
    tx: &Transaction,
    ids: &[AccountId],
    windows: Interval,
) -> Result<Vec<QueryResult>, DbErr> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let backend = tx.get_database_backend();
    let (month, quantities) = (month(backend), quantities());
    let places = (3..).take(ids.len()).map(|place| format!("${place}"));
    let places = places.collect::<Vec<_>>().join(", ");
    let of_table = |table: &Table| {
        let Table {
            name,
            customer,
            kind,
            state,
            reports,
            decided,
        } = table;
        format!(
            "SELECT account_id, meter, {customer} AS customer, {kind} AS kind, {state} AS state, {month} AS month, \
             MIN(window_start) AS at, {quantities}, {reports} AS number, {decided} AS decided FROM {name} \
             WHERE account_id IN ({places}) AND window_start >= $1 AND window_start < $2 GROUP BY 1, 2, 3, 4, 5, 6"
        )
    };
    let sql = TABLES.iter().map(of_table).collect::<Vec<_>>();
    let windows: [Value; 2] = [windows.start.into(), windows.end.into()];
    let values = windows.into_iter().chain(ids.iter().map(Value::from));
    let statement = Statement::from_sql_and_values(backend, sql.join(" UNION ALL "), values);
    tx.query_all_raw(statement).await
}
