//! Moves open reports to the closed ones, with the state and customer that the links in force give them.

use std::{collections::HashMap, sync::LazyLock};

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, Statement, Value};
use uuid::Uuid;

use super::{
    billing_start::event_time_sql,
    close_on_shards::move_locked,
    connection::Transaction,
    links::read_links,
    postgres_arrays::{numbers, texts, uuids},
    report_place::OpenPlace,
    value_rows::ValueRows,
};
use crate::{
    domain::{
        Millis,
        account::{Link, billing_target_at},
        account_id::AccountId,
        report::{State, Transition},
    },
    entity::open_report,
};

/// How reports are closed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing {
    /// The time.
    pub(super) now: Millis,
    /// The run that closes them.
    pub(super) run: Option<Uuid>,
    /// Whether each has increments on both sides of a boundary.
    pub(super) is_straddled: bool,
}

impl Closing {
    /// Closes at a time, by no run.
    pub(super) fn at(now: Millis) -> Self {
        Self {
            now,
            run: None,
            is_straddled: false,
        }
    }
}

/// An open report, and what becomes of it.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) place: OpenPlace,
    /// Another report may be open at the same place later.
    pub(super) id: Uuid,
    /// Its first increment, by which that was decided.
    pub(super) first_at: Millis,
    pub(super) state: State,
    pub(super) customer: Option<String>,
}

/// How many reports were closed, and their total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClosedTotals {
    pub(super) reports: i64,
    pub(super) quantity: i64,
}

impl ClosedTotals {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            reports: self.reports.saturating_add(other.reports),
            quantity: self.quantity.saturating_add(other.quantity),
        }
    }
}

/// The rows do not cross to the program and back: only what was decided does. The caller has locked them.
/// A report that another integration bills gets the time of the meter event that would be sent.
static MOVE_POSTGRES: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH d AS (SELECT * FROM UNNEST($1::text[], $2::bigint[], $3::text[], $4::bigint[], \
        $5::text[], $6::text[], $10::uuid[]) AS d(account_id, window_start, meter, first_at, state, customer, id)), \
    gone AS (DELETE FROM open_reports o USING d WHERE o.account_id = d.account_id \
        AND o.window_start = d.window_start AND o.meter = d.meter AND o.id = d.id \
        AND o.first_at = d.first_at RETURNING o.*, d.state, d.customer), \
    closed AS (INSERT INTO usage_reports (account_id, id, meter, window_start, window_end, period_end, quantity, \
        first_at, last_at, state, customer, closed_at, run_id, straddled, event_timestamp) \
        SELECT account_id, id, meter, window_start, window_end, window_end, quantity, first_at, last_at, state, \
            NULLIF(customer, ''), $7, $8, $9, \
            CASE WHEN state = 'not_billable' AND customer <> '' THEN {} END \
        FROM gone ORDER BY account_id, window_start, meter RETURNING quantity) \
    SELECT COUNT(*) AS reports, CAST(COALESCE(SUM(quantity), 0) AS bigint) AS quantity FROM closed",
        event_time_sql("window_start", "window_end")
    )
});

/// As [`MOVE_POSTGRES`], in three statements. The values of all rows come first.
static INSERT_SQLITE: ValueRows<6> = ValueRows::new(|| {
    let event_time = event_time_sql("o.window_start", "o.window_end");
    let insert = format!(
        "INSERT INTO usage_reports (account_id, id, meter, window_start, window_end, period_end, quantity, first_at, \
        last_at, state, customer, closed_at, run_id, straddled, event_timestamp) \
        SELECT o.account_id, o.id, o.meter, o.window_start, o.window_end, o.window_end, o.quantity, o.first_at, \
            o.last_at, d.column5, d.column6, h.closed_at, h.run_id, h.straddled, \
            CASE WHEN d.column5 = 'not_billable' AND d.column6 IS NOT NULL THEN {event_time} END FROM "
    );
    ValueRows::<6>::around_rows(
        &insert,
        " AS d CROSS JOIN open_reports o CROSS JOIN \
            (SELECT ? AS closed_at, ? AS run_id, ? AS straddled) AS h \
        WHERE o.account_id = d.column1 AND o.window_start = d.column2 AND o.meter = d.column3 \
            AND o.first_at = d.column4",
    )
});

const LAST_SQLITE: &str = "SELECT COALESCE(MAX(number), 0) AS number FROM usage_reports";

const TOTALS_SQLITE: &str = "SELECT COUNT(*) AS reports, COALESCE(SUM(quantity), 0) AS quantity \
    FROM usage_reports WHERE number > ?";

const DELETE_SQLITE: &str = "DELETE FROM open_reports WHERE (account_id, window_start, meter) IN \
    (SELECT account_id, window_start, meter FROM usage_reports WHERE number > ?)";

/// Closes reports that this transaction has locked. Returns their number and total.
pub(super) async fn close_reports(
    tx: &Transaction,
    reports: &[open_report::Model],
    closing: Closing,
) -> Result<ClosedTotals, DbErr> {
    if reports.is_empty() {
        return Ok(ClosedTotals::default());
    }
    let links = read_links(tx, reports.iter().map(|report| &report.account_id)).await?;
    let decided = reports
        .iter()
        .filter_map(|report| decide((OpenPlace::of(report), report.id), report.first_at, &links));
    let decided: Vec<Decided> = decided.collect();
    let moved = if tx.shards().is_distributed() && decided.len() == reports.len() {
        move_locked(tx, (reports, &decided), closing).await?
    } else {
        move_decided(tx, &decided, closing).await?
    };
    // One that was closed by another would be counted twice.
    if usize::try_from(moved.reports).ok() != Some(reports.len()) {
        let error = format!(
            "{} open reports to close, {} found",
            reports.len(),
            moved.reports
        );
        return Err(DbErr::Custom(error));
    }
    Ok(moved)
}

/// What becomes of an open report.
pub(super) fn decide(
    (place, id): (OpenPlace, Uuid),
    first_at: Millis,
    links: &HashMap<AccountId, Vec<Link>>,
) -> Option<Decided> {
    let own = links.get(&place.account_id).map_or(&[][..], Vec::as_slice);
    let target = billing_target_at(own, first_at);
    let customer = target.customer().map(str::to_owned);
    let state = State::Open.after(&Transition::Close(target))?;
    Some(Decided {
        place,
        id,
        first_at,
        state,
        customer,
    })
}

/// Moves those reports whose first increment is still that by which it was decided what becomes of them.
pub(super) async fn move_decided(
    tx: &Transaction,
    decided: &[Decided],
    closing: Closing,
) -> Result<ClosedTotals, DbErr> {
    if tx.get_database_backend() == DbBackend::Sqlite {
        return move_in_sqlite(tx, decided, closing).await;
    }
    let [accounts, starts, meters, firsts] = keys(decided);
    let customers = decided
        .iter()
        .map(|one| one.customer.as_deref().unwrap_or_default());
    let values = [
        accounts,
        starts,
        meters,
        firsts,
        texts(decided.iter().map(|one| one.state.name())),
        texts(customers),
        closing.now.into(),
        closing.run.into(),
        closing.is_straddled.into(),
        uuids(decided.iter().map(|one| one.id)),
    ];
    let statement =
        Statement::from_sql_and_values(DbBackend::Postgres, MOVE_POSTGRES.as_str(), values);
    totals(tx, statement).await
}

/// The arrays of accounts, starts of windows, meters and first increments.
pub(super) fn keys(decided: &[Decided]) -> [Value; 4] {
    [
        texts(decided.iter().map(|one| one.place.account_id.as_str())),
        numbers(decided.iter().map(|one| one.place.window_start)),
        texts(decided.iter().map(|one| one.place.meter.as_str())),
        numbers(decided.iter().map(|one| one.first_at)),
    ]
}

async fn move_in_sqlite(
    tx: &Transaction,
    decided: &[Decided],
    closing: Closing,
) -> Result<ClosedTotals, DbErr> {
    let statement = Statement::from_string(DbBackend::Sqlite, LAST_SQLITE);
    let row = tx.query_one_raw(statement).await?;
    let last: i64 = row.map_or(Ok(0), |row| row.try_get("", "number"))?;
    let (text, number) = (Value::String(None), Value::BigInt(None));
    let nulls = [
        text.clone(),
        number.clone(),
        text.clone(),
        number,
        text.clone(),
        text,
    ];
    let rows = decided.iter().map(|one| {
        [
            (&one.place.account_id).into(),
            one.place.window_start.into(),
            one.place.meter.as_str().into(),
            one.first_at.into(),
            one.state.name().into(),
            one.customer.as_deref().into(),
        ]
    });
    let shared: [Value; 3] = [
        closing.now.into(),
        closing.run.into(),
        closing.is_straddled.into(),
    ];
    for mut statement in INSERT_SQLITE.statements(rows, &nulls)? {
        if let Some(values) = &mut statement.values {
            values.0.extend(shared.clone());
        }
        tx.execute_raw(statement).await?;
    }
    let after = |sql| Statement::from_sql_and_values(DbBackend::Sqlite, sql, [last.into()]);
    let moved = totals(tx, after(TOTALS_SQLITE)).await?;
    let deleted = tx.execute_raw(after(DELETE_SQLITE)).await?.rows_affected();
    if i64::try_from(deleted) != Ok(moved.reports) {
        let error = format!(
            "{} reports closed, {deleted} open ones deleted",
            moved.reports
        );
        return Err(DbErr::Custom(error));
    }
    Ok(moved)
}

async fn totals(tx: &Transaction, statement: Statement) -> Result<ClosedTotals, DbErr> {
    let row = tx.query_one_raw(statement).await?;
    let row = row.ok_or_else(|| DbErr::RecordNotFound("totals of closed reports".to_owned()))?;
    Ok(ClosedTotals {
        reports: row.try_get("", "reports")?,
        quantity: row.try_get("", "quantity")?,
    })
}
