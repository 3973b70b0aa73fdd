//! The rows that folded reports became.

use std::sync::LazyLock;

use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DbBackend, DbErr, EntityTrait as _, QueryFilter as _,
    Statement, Value, sea_query::Expr,
};
use uuid::Uuid;

use super::{
    Store,
    columns::columns,
    connection::Transaction,
    postgres_arrays::{NO_TIME, numbers, texts, uuids},
    rows,
    value_rows::ValueRows,
};
use crate::{
    domain::{
        Millis, account_id::AccountId, decision::Decided, report_fold::FoldedReport,
        window::Interval,
    },
    entity::folded_report::{self, Column},
    error::Result,
};

const INSERT_POSTGRES: &str = "INSERT INTO folded_reports \
    (account_id, window_start, id, meter, window_end, state, customer, event_timestamp, bill_at, sent_at, quantity, \
    reports, first_at, last_at, archive) \
    SELECT a, w, i, m, e, s, NULLIF(c, ''), NULLIF(t, $15), NULLIF(b, $15), NULLIF(r, $15), q, n, f, l, $16 \
    FROM UNNEST($1::text[], $2::bigint[], $3::uuid[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::bigint[], \
        $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[]) \
        AS rows(a, w, i, m, e, s, c, t, b, r, q, n, f, l)";

static INSERT_SQLITE: ValueRows<15> = ValueRows::new(|| {
    ValueRows::<15>::around_rows(
        "INSERT INTO folded_reports \
        (account_id, window_start, id, meter, window_end, state, customer, event_timestamp, bill_at, sent_at, quantity, \
        reports, first_at, last_at, archive) SELECT * FROM ",
        " WHERE column1 IS NOT NULL",
    )
});

/// One is looked up after the other: for a thousand, PostgreSQL would rather read the whole table.
static FIND_POSTGRES: LazyLock<String> = LazyLock::new(|| {
    let columns = columns::<folded_report::Entity>("f");
    format!(
        "SELECT {columns} FROM UNNEST($1::text[], $2::bigint[], $3::uuid[]) AS t(a, w, i) \
        CROSS JOIN LATERAL (SELECT * FROM folded_reports \
        WHERE account_id = t.a AND window_start = t.w AND id = t.i OFFSET 0) AS f"
    )
});

/// The same over shards.
static FIND_DISTRIBUTED: LazyLock<String> = LazyLock::new(|| {
    let columns = columns::<folded_report::Entity>("f");
    format!(
        "SELECT {columns} FROM folded_reports AS f WHERE f.account_id = ANY($1) AND (f.account_id, f.window_start, f.id) \
        IN (SELECT * FROM UNNEST($1::text[], $2::bigint[], $3::uuid[]))"
    )
});

static FIND_SQLITE: ValueRows<3> = ValueRows::new(|| {
    ValueRows::<3>::around_rows(
        &format!("SELECT {} FROM ", columns::<folded_report::Entity>("f")),
        " CROSS JOIN folded_reports AS f \
        WHERE f.account_id = column1 AND f.window_start = column2 AND f.id = column3",
    )
});

impl Store {
    /// The folded rows with these keys, as far as they are stored: account, window and id.
    pub(crate) async fn folded_reports(
        &self,
        keys: &[(AccountId, Millis, Uuid)],
    ) -> Result<Vec<FoldedReport>> {
        let statements = if self.backend() == DbBackend::Sqlite {
            let nulls = [const { Value::BigInt(None) }; 3];
            let rows = keys
                .iter()
                .map(|(account, window, id)| [account.into(), (*window).into(), (*id).into()]);
            FIND_SQLITE.statements(rows, &nulls)?
        } else {
            let values = [
                texts(keys.iter().map(|(account, ..)| account.as_str())),
                numbers(keys.iter().map(|(_, window, _)| *window)),
                uuids(keys.iter().map(|(.., id)| *id)),
            ];
            let sql = if self.is_distributed() {
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
            let rows = folded_report::Entity::find().from_raw_sql(statement);
            found.extend(rows.all(&self.reader).await?);
        }
        Ok(rows::all(found))
    }
}

/// Inserts the rows of an archive.
pub(super) async fn insert_folded(
    tx: &Transaction,
    rows: &[FoldedReport],
    archive: i64,
) -> std::result::Result<(), DbErr> {
    let statements = if tx.get_database_backend() == DbBackend::Sqlite {
        let nulls = [const { Value::BigInt(None) }; 15];
        INSERT_SQLITE.statements(rows.iter().map(|row| values_of(row, archive)), &nulls)?
    } else {
        let all = |number: fn(&FoldedReport) -> i64| numbers(rows.iter().map(number));
        let values = [
            texts(rows.iter().map(|row| row.account_id.as_str())),
            all(|row| row.window.start),
            uuids(rows.iter().map(|row| row.id)),
            texts(rows.iter().map(|row| row.meter.as_str())),
            all(|row| row.window.end),
            texts(rows.iter().map(|row| row.state.name())),
            texts(
                rows.iter()
                    .map(|row| row.customer.as_deref().unwrap_or_default()),
            ),
            all(|row| row.event_timestamp.unwrap_or(NO_TIME)),
            all(|row| row.bill_at.unwrap_or(NO_TIME)),
            all(|row| row.sent_at.unwrap_or(NO_TIME)),
            all(|row| row.quantity),
            all(|row| row.reports),
            all(|row| row.first_at),
            all(|row| row.last_at),
            NO_TIME.into(),
            archive.into(),
        ];
        vec![Statement::from_sql_and_values(
            DbBackend::Postgres,
            INSERT_POSTGRES,
            values,
        )]
    };
    for statement in statements {
        tx.execute_raw(statement).await?;
    }
    // Few reports were decided on, and a statement of SQLite takes no more values for a whole archive.
    for row in rows {
        let Some(decisions) = Decided::texts(&row.decisions) else {
            continue;
        };
        folded_report::Entity::update_many()
            .col_expr(Column::Decisions, Expr::value(decisions))
            .filter(Column::AccountId.eq(&row.account_id))
            .filter(Column::WindowStart.eq(row.window.start))
            .filter(Column::Id.eq(row.id))
            .exec(tx)
            .await?;
    }
    Ok(())
}

fn values_of(row: &FoldedReport, archive: i64) -> [Value; 15] {
    [
        (&row.account_id).into(),
        row.window.start.into(),
        row.id.into(),
        row.meter.as_str().into(),
        row.window.end.into(),
        row.state.name().into(),
        row.customer.clone().into(),
        row.event_timestamp.into(),
        row.bill_at.into(),
        row.sent_at.into(),
        row.quantity.into(),
        row.reports.into(),
        row.first_at.into(),
        row.last_at.into(),
        archive.into(),
    ]
}

impl From<folded_report::Model> for FoldedReport {
    fn from(row: folded_report::Model) -> Self {
        Self {
            account_id: row.account_id,
            id: row.id,
            meter: row.meter,
            window: Interval {
                start: row.window_start,
                end: row.window_end,
            },
            state: row.state.into(),
            customer: row.customer,
            event_timestamp: row.event_timestamp,
            bill_at: row.bill_at,
            sent_at: row.sent_at,
            quantity: row.quantity,
            reports: row.reports,
            first_at: row.first_at,
            last_at: row.last_at,
            decisions: Decided::parse(row.decisions.as_deref()),
        }
    }
}
