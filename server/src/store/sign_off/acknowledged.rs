//! Adds to the sums of a sign-off what Stripe's totals contain and no final invoice charges, where an admin acknowledged that.

use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, Statement, Value,
};

use super::{month, quantities, quantity};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        acknowledged_times::{FoundDifference, acknowledged_times},
        sign_off::{AccountRows, Figures, utc_month},
        window::Interval,
    },
    entity::invoice_comparison::{self, InvoiceComparisonFinding},
    store::connection::Transaction,
};

/// Adds what no invoice charges, and an admin acknowledged.
pub(super) async fn add_acknowledged(
    tx: &Transaction,
    account_id: &AccountId,
    windows: Interval,
    rows: &mut AccountRows,
) -> Result<(), DbErr> {
    use invoice_comparison::Column as C;
    let found: Vec<(String, String, Millis, Millis, Option<Millis>)> =
        invoice_comparison::Entity::find()
            .select_only()
            .columns([C::Customer, C::Meter, C::PeriodStart, C::PeriodEnd])
            .column(C::AcknowledgedAt)
            .filter(C::AccountId.eq(account_id))
            .filter(C::Finding.ne(InvoiceComparisonFinding::Equal))
            .order_by_asc(C::Customer)
            .order_by_asc(C::Meter)
            .into_tuple()
            .all(tx)
            .await?;
    for own in found.chunk_by(|one, other| (&one.0, &one.1) == (&other.0, &other.1)) {
        let Some((customer, meter, ..)) = own.first() else {
            continue;
        };
        let differences = own.iter().map(|(.., start, end, at)| FoundDifference {
            period: Interval {
                start: *start,
                end: *end,
            },
            is_acknowledged: at.is_some(),
        });
        let differences: Vec<FoundDifference> = differences.collect();
        for period in acknowledged_times(&differences) {
            let stream = (customer.as_str(), meter.as_str());
            add_confirmed(tx, account_id, stream, period, windows, rows).await?;
        }
    }
    Ok(())
}

/// Adds the confirmed reports of an acknowledged time, by the time at which Stripe bills them.
async fn add_confirmed(
    tx: &Transaction,
    account_id: &AccountId,
    (customer, meter): (&str, &str),
    period: Interval,
    windows: Interval,
    rows: &mut AccountRows,
) -> Result<(), DbErr> {
    let backend = tx.get_database_backend();
    let (month, quantities) = (month(backend), quantities());
    let of_table = |(table, reports): (&str, &str)| {
        format!(
            "SELECT {month} AS month, MIN(window_start) AS at, {quantities}, {reports} AS number FROM {table} \
             WHERE account_id = $1 AND window_start >= $2 AND window_start < $3 AND customer = $4 AND meter = $5 \
             AND state = 'confirmed' AND event_timestamp < $7 \
             AND (event_timestamp >= $6 OR window_start >= $6) GROUP BY 1"
        )
    };
    let sql = [
        ("usage_reports", "COUNT(*)"),
        ("folded_reports", "CAST(SUM(reports) AS bigint)"),
    ]
    .map(of_table)
    .join(" UNION ALL ");
    let values: [Value; 7] = [
        account_id.into(),
        windows.start.into(),
        windows.end.into(),
        customer.into(),
        meter.into(),
        period.start.into(),
        period.end.into(),
    ];
    let statement = Statement::from_sql_and_values(backend, sql, values);
    for row in tx.query_all_raw(statement).await? {
        let at: Millis = row.try_get("", "at")?;
        let reports: i64 = row.try_get("", "number")?;
        let key = (
            Some(customer.to_owned()),
            meter.to_owned(),
            utc_month(at).start,
        );
        let figures: &mut Figures = rows.entry(key).or_default();
        figures.acknowledge(quantity(&row)?, reports.into());
    }
    Ok(())
}
