//! Queries of the sign-off of a month: sums of reports, open, closed and folded, by account, customer, meter and month; and the
//! sums that the ledger check makes of the same reports.
//!
//! A page is a few accounts in one reading transaction: a report that closes or is folded meanwhile is in one table of it. It takes
//! a few statements, however many accounts it has. Where the accounts of a page are found by their ids and their months by an index,
//! the sums of the ledger check are those of all accounts between two ids: a report that the one way of reading missed is found by
//! the other.

mod accounts;
mod acknowledged;
mod decisions;

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, QueryResult, Statement, Value};

use self::{
    accounts::{next_accounts, read_accounts},
    decisions::add_decisions,
};
use super::{Store, connection::Transaction};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        sign_off::{AccountRows, RowKey, Sum, utc_month},
        window::Interval,
    },
    entity::usage_report::{UsageReportKind, UsageReportState},
    error::Result,
};

/// Sums are split by this, so that the engine can add quantities whose sum has more than 64 bits.
const PART: i64 = 1_000_000_000;
/// After every account id, byte by byte: no id contains it.
const AFTER_ALL: &str = "~";

/// The tables of reports, and their values of the columns that not all have.
struct Table {
    name: &'static str,
    customer: &'static str,
    kind: &'static str,
    state: &'static str,
    reports: &'static str,
    decided: &'static str,
}

const TABLES: [Table; 3] = [
    Table {
        name: "usage_reports",
        customer: "customer",
        kind: "kind",
        state: "state",
        reports: "COUNT(*)",
        decided: "CAST(0 AS bigint)",
    },
    Table {
        name: "open_reports",
        customer: "CAST(NULL AS text)",
        kind: "CAST('usage' AS text)",
        state: "CAST('open' AS text)",
        reports: "COUNT(*)",
        decided: "CAST(0 AS bigint)",
    },
    Table {
        name: "folded_reports",
        customer: "customer",
        kind: "CAST('usage' AS text)",
        state: "state",
        reports: "CAST(SUM(reports) AS bigint)",
        decided: "COUNT(decisions)",
    },
];

/// Which reports are signed off.
#[derive(Clone, Debug)]
pub(crate) struct SignOffScope {
    /// Only those of this account.
    pub(crate) account: Option<AccountId>,
    /// Their windows start in this interval.
    pub(crate) windows: Interval,
}

/// The accounts of a page.
#[derive(Debug)]
pub(crate) struct SignOffPage {
    /// Those with reports, in the order of their ids.
    pub(crate) accounts: Vec<(AccountId, AccountRows)>,
    /// What the ledger check sums: all reports of these accounts, and of every id between them.
    pub(crate) ledger: Vec<Sum>,
    /// Where the next page begins; `None` after the last page.
    pub(crate) next: Option<AccountId>,
}

impl Store {
    /// The sums of the next accounts, in one state of the database.
    pub(crate) async fn sign_off_page(
        &self,
        scope: &SignOffScope,
        after: Option<&AccountId>,
        limit: u64,
    ) -> Result<SignOffPage> {
        let tx = self.begin_reading().await?;
        let page = read_page(&tx, scope, after, limit).await?;
        tx.rollback().await?;
        Ok(page)
    }
}

async fn read_page(
    tx: &Transaction,
    scope: &SignOffScope,
    after: Option<&AccountId>,
    limit: u64,
) -> Result<SignOffPage, DbErr> {
    let (ids, range) = if let Some(account) = &scope.account {
        (vec![account.clone()], Range::only(account))
    } else {
        let ids = next_accounts(tx, after, limit).await?;
        let is_full = u64::try_from(ids.len()).is_ok_and(|len| len >= limit);
        let last = ids.last().filter(|_| is_full).cloned();
        (ids, Range::between(after, last))
    };
    let next = range.next.clone();
    let mut accounts = read_accounts(tx, &ids, &range, scope.windows).await?;
    add_decisions(tx, &mut accounts, &range, scope.windows).await?;
    let ledger = read_ledger(tx, &range, scope.windows).await?;
    Ok(SignOffPage {
        accounts: accounts.into_iter().collect(),
        ledger,
        next,
    })
}

/// All account ids of a page, with those of which nothing is known.
struct Range {
    condition: &'static str,
    from: String,
    to: String,
    next: Option<AccountId>,
}

impl Range {
    fn only(account: &AccountId) -> Self {
        Self {
            condition: "account_id >= $1 AND account_id <= $2",
            from: account.to_string(),
            to: account.to_string(),
            next: None,
        }
    }

    fn between(after: Option<&AccountId>, last: Option<AccountId>) -> Self {
        Self {
            condition: "account_id > $1 AND account_id <= $2",
            from: after.map(ToString::to_string).unwrap_or_default(),
            to: last
                .as_ref()
                .map_or(AFTER_ALL.to_owned(), ToString::to_string),
            next: last,
        }
    }

    fn values(&self, windows: Interval) -> [Value; 4] {
        [
            self.from.as_str().into(),
            self.to.as_str().into(),
            windows.start.into(),
            windows.end.into(),
        ]
    }
}

/// The calendar month in UTC of a window, in which it lies whole.
fn month(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Sqlite => "strftime('%Y-%m', window_start / 1000, 'unixepoch')",
        _ => "to_char(to_timestamp(window_start / 1000) AT TIME ZONE 'UTC', 'YYYY-MM')",
    }
}

fn quantities() -> String {
    format!(
        "CAST(SUM(quantity / {PART}) AS bigint) AS parts, CAST(SUM(quantity % {PART}) AS bigint) AS rest"
    )
}

fn quantity(row: &QueryResult) -> Result<i128, DbErr> {
    let (parts, rest): (i64, i64) = (row.try_get("", "parts")?, row.try_get("", "rest")?);
    let parts = i128::from(parts).saturating_mul(i128::from(PART));
    Ok(parts.saturating_add(i128::from(rest)))
}

fn sum(row: &QueryResult) -> Result<Sum, DbErr> {
    let kind: UsageReportKind = row.try_get("", "kind")?;
    let state: UsageReportState = row.try_get("", "state")?;
    let reports: i64 = row.try_get("", "number")?;
    Ok(Sum {
        kind: kind.into(),
        state: state.into(),
        quantity: quantity(row)?,
        reports: reports.into(),
    })
}

fn key(row: &QueryResult) -> Result<RowKey, DbErr> {
    let at: Millis = row.try_get("", "at")?;
    let (customer, meter) = (row.try_get("", "customer")?, row.try_get("", "meter")?);
    Ok((customer, meter, utc_month(at).start))
}

/// What the ledger check sums of some accounts.
async fn read_ledger(
    tx: &Transaction,
    range: &Range,
    windows: Interval,
) -> Result<Vec<Sum>, DbErr> {
    let (condition, quantities) = (range.condition, quantities());
    let of_table = |table: &Table| {
        let Table {
            name,
            kind,
            state,
            reports,
            ..
        } = table;
        format!(
            "SELECT {kind} AS kind, {state} AS state, {quantities}, {reports} AS number FROM {name} \
             WHERE {condition} AND window_start >= $3 AND window_start < $4 GROUP BY 1, 2"
        )
    };
    let sql = TABLES.iter().map(of_table).collect::<Vec<_>>();
    let backend = tx.get_database_backend();
    let values = range.values(windows);
    let statement = Statement::from_sql_and_values(backend, sql.join(" UNION ALL "), values);
    let rows = tx.query_all_raw(statement).await?;
    rows.iter().map(sum).collect()
}
