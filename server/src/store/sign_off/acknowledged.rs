//! Adds to the sums of a sign-off what Stripe's totals contain and no final invoice charges, where an admin acknowledged that.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, Statement, Value,
};

use super::{Range, month, quantities, quantity};
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

/// How many acknowledged times are read in one statement: it has two selects for each, and SQLite takes 500.
const TIMES_READ: usize = 50;

/// The tables with confirmed reports, and how many reports a group of their rows is.
const CONFIRMED: [(&str, &str); 2] = [
    ("usage_reports", "COUNT(*)"),
    ("folded_reports", "CAST(SUM(reports) AS bigint)"),
];

/// A difference: its account, customer, meter, the begin and end of its billing period, and when it was acknowledged.
type Difference = (AccountId, String, String, Millis, Millis, Option<Millis>);

/// A time of an account's customer and meter in which all differences are acknowledged.
struct Acknowledged {
    account_id: AccountId,
    customer: String,
    meter: String,
    period: Interval,
}

/// Adds what no invoice charges, and an admin acknowledged. `confirmed` are the accounts of the range that have confirmed reports.
pub(super) async fn add_acknowledged(
    tx: &Transaction,
    range: &Range,
    confirmed: &BTreeSet<AccountId>,
    windows: Interval,
    accounts: &mut BTreeMap<AccountId, AccountRows>,
) -> Result<(), DbErr> {
    let mut times = read_times(tx, range).await?;
    times.retain(|time| confirmed.contains(&time.account_id));
    let together = if tx.shards().is_distributed() {
        // Citus would plan each select of several accounts by itself.
        1
    } else {
        TIMES_READ
    };
    for some in times.chunks(together) {
        add_confirmed(tx, some, windows, accounts).await?;
    }
    Ok(())
}

async fn read_times(tx: &Transaction, range: &Range) -> Result<Vec<Acknowledged>, DbErr> {
    use invoice_comparison::Column as C;
    let found: Vec<Difference> = invoice_comparison::Entity::find()
        .select_only()
        .column(C::AccountId)
        .columns([C::Customer, C::Meter, C::PeriodStart, C::PeriodEnd])
        .column(C::AcknowledgedAt)
        .filter(C::AccountId.gte(range.from.as_str()))
        .filter(C::AccountId.lte(range.to.as_str()))
        .filter(C::Finding.ne(InvoiceComparisonFinding::Equal))
        .order_by_asc(C::AccountId)
        .order_by_asc(C::Customer)
        .order_by_asc(C::Meter)
        .into_tuple()
        .all(tx)
        .await?;
    let mut times = Vec::new();
    for own in
        found.chunk_by(|one, other| (&one.0, &one.1, &one.2) == (&other.0, &other.1, &other.2))
    {
        let Some((account_id, customer, meter, ..)) = own.first() else {
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
        let periods = acknowledged_times(&differences).into_iter();
        times.extend(periods.map(|period| Acknowledged {
            account_id: account_id.clone(),
            customer: customer.clone(),
            meter: meter.clone(),
            period,
        }));
    }
    Ok(times)
}

/// Adds the confirmed reports of acknowledged times, by the time at which Stripe bills them.
async fn add_confirmed(
    tx: &Transaction,
    times: &[Acknowledged],
    windows: Interval,
    accounts: &mut BTreeMap<AccountId, AccountRows>,
) -> Result<(), DbErr> {
    let backend = tx.get_database_backend();
    let (month, quantities) = (month(backend), quantities());
    let mut values: Vec<Value> = vec![windows.start.into(), windows.end.into()];
    let mut place = |value: Value| {
        values.push(value);
        format!("${}", values.len())
    };
    let mut selects = Vec::new();
    for (nth, time) in times.iter().enumerate() {
        let account_id = place((&time.account_id).into());
        let customer = place(time.customer.as_str().into());
        let meter = place(time.meter.as_str().into());
        let (start, end) = (time.period.start.into(), time.period.end.into());
        let (start, end) = (place(start), place(end));
        selects.extend(CONFIRMED.map(|(table, reports)| {
            format!(
                "SELECT CAST({nth} AS bigint) AS nth, {month} AS month, MIN(window_start) AS at, {quantities}, \
                 {reports} AS number FROM {table} \
                 WHERE account_id = {account_id} AND window_start >= $1 AND window_start < $2 \
                 AND customer = {customer} AND meter = {meter} AND state = 'confirmed' AND event_timestamp < {end} \
                 AND (event_timestamp >= {start} OR window_start >= {start}) GROUP BY 2"
            )
        }));
    }
    let sql = selects.join(" UNION ALL ");
    let statement = Statement::from_sql_and_values(backend, sql, values);
    for row in tx.query_all_raw(statement).await? {
        let nth: i64 = row.try_get("", "nth")?;
        let time = usize::try_from(nth).ok().and_then(|nth| times.get(nth));
        let Some(time) = time else { continue };
        let at: Millis = row.try_get("", "at")?;
        let reports: i64 = row.try_get("", "number")?;
        let (customer, meter) = (time.customer.clone(), time.meter.clone());
        let key = (Some(customer), meter, utc_month(at).start);
        let rows = accounts.entry(time.account_id.clone()).or_default();
        let figures: &mut Figures = rows.entry(key).or_default();
        figures.acknowledge(quantity(&row)?, reports.into());
    }
    Ok(())
}
