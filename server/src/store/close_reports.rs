//! Moves open reports to the closed ones, with the state and customer that the links in force give them.

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, Statement, Value};
use uuid::Uuid;

use super::{
    connection::Transaction,
    links::read_links,
    postgres_arrays::{numbers, texts, uuids},
    value_rows::ValueRows,
};
use crate::{
    domain::{
        Millis,
        account::billing_target_at,
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

/// A report, and what becomes of it.
struct Closed<'a> {
    report: &'a open_report::Model,
    state: State,
    customer: Option<String>,
}

const INSERT_POSTGRES: &str = "INSERT INTO usage_reports \
    (account_id, id, meter, window_start, window_end, period_end, quantity, first_at, last_at, state, customer, \
    closed_at, run_id, straddled) \
    SELECT a, i, m, s, e, e, q, f, l, t, NULLIF(c, ''), $11, $12, $13 \
    FROM UNNEST($1::text[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], \
        $8::bigint[], $9::text[], $10::text[]) AS r(a, i, m, s, e, q, f, l, t, c)";

static INSERT_SQLITE: ValueRows<14> = ValueRows::new(|| {
    ValueRows::<14>::around_rows(
        "INSERT INTO usage_reports \
        (account_id, id, meter, window_start, window_end, period_end, quantity, first_at, last_at, state, customer, \
        closed_at, run_id, straddled) SELECT * FROM ",
        " WHERE column1 IS NOT NULL",
    )
});

const DELETE_POSTGRES: &str = "DELETE FROM open_reports WHERE id = ANY($1)";

static DELETE_SQLITE: ValueRows<1> = ValueRows::new(|| {
    ValueRows::<1>::around_rows(
        "DELETE FROM open_reports WHERE id IN (SELECT column1 FROM ",
        ")",
    )
});

/// Closes reports that this transaction has locked. Returns their number and total.
pub(super) async fn close_reports(
    tx: &Transaction,
    reports: &[open_report::Model],
    closing: Closing,
) -> Result<(i64, i64), DbErr> {
    if reports.is_empty() {
        return Ok((0, 0));
    }
    let links = read_links(tx, reports.iter().map(|report| &report.account_id)).await?;
    let mut closed = Vec::with_capacity(reports.len());
    let mut total = 0_i64;
    for report in reports {
        let own = links.get(&report.account_id).map_or(&[][..], Vec::as_slice);
        let target = billing_target_at(own, report.first_at);
        let customer = target.customer().map(str::to_owned);
        let Some(state) = State::Open.after(&Transition::Close(target)) else {
            continue;
        };
        total = total.saturating_add(report.quantity);
        closed.push(Closed {
            report,
            state,
            customer,
        });
    }
    insert(tx, &closed, closing).await?;
    delete(tx, &closed).await?;
    Ok((i64::try_from(closed.len()).unwrap_or(i64::MAX), total))
}

async fn insert(tx: &Transaction, closed: &[Closed<'_>], closing: Closing) -> Result<(), DbErr> {
    if tx.get_database_backend() == DbBackend::Sqlite {
        let nulls = [const { Value::BigInt(None) }; 14];
        let rows = closed.iter().map(|closed| row(closed, closing));
        for statement in INSERT_SQLITE.statements(rows, &nulls)? {
            tx.execute_raw(statement).await?;
        }
        return Ok(());
    }
    let reports = || closed.iter().map(|closed| closed.report);
    let customers = closed
        .iter()
        .map(|closed| closed.customer.as_deref().unwrap_or_default());
    let values = [
        texts(reports().map(|report| &*report.account_id)),
        uuids(reports().map(|report| report.id)),
        texts(reports().map(|report| &*report.meter)),
        numbers(reports().map(|report| report.window_start)),
        numbers(reports().map(|report| report.window_end)),
        numbers(reports().map(|report| report.quantity)),
        numbers(reports().map(|report| report.first_at)),
        numbers(reports().map(|report| report.last_at)),
        texts(closed.iter().map(|closed| closed.state.name())),
        texts(customers),
        closing.now.into(),
        closing.run.into(),
        closing.is_straddled.into(),
    ];
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, INSERT_POSTGRES, values);
    tx.execute_raw(statement).await.map(|_| ())
}

fn row(closed: &Closed<'_>, closing: Closing) -> [Value; 14] {
    let report = closed.report;
    [
        (&report.account_id).into(),
        report.id.into(),
        (&*report.meter).into(),
        report.window_start.into(),
        report.window_end.into(),
        report.window_end.into(),
        report.quantity.into(),
        report.first_at.into(),
        report.last_at.into(),
        closed.state.name().into(),
        closed.customer.as_deref().into(),
        closing.now.into(),
        closing.run.into(),
        closing.is_straddled.into(),
    ]
}

async fn delete(tx: &Transaction, closed: &[Closed<'_>]) -> Result<(), DbErr> {
    let ids = || closed.iter().map(|closed| closed.report.id);
    let statements = if tx.get_database_backend() == DbBackend::Sqlite {
        DELETE_SQLITE.statements(ids().map(|id| [id.into()]), &[Value::Uuid(None)])?
    } else {
        let ids = [uuids(ids())];
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, DELETE_POSTGRES, ids);
        vec![statement]
    };
    let mut deleted = 0_u64;
    for statement in statements {
        let result = tx.execute_raw(statement).await?;
        deleted = deleted.saturating_add(result.rows_affected());
    }
    // One that was closed by another would be counted twice.
    if usize::try_from(deleted).ok() != Some(closed.len()) {
        let error = format!("{} open reports to close, {deleted} found", closed.len());
        return Err(DbErr::Custom(error));
    }
    Ok(())
}
