//! The order in which the sender sends: what is due soonest comes first. By when a report should be sent is decided in
//! `domain::invoice_deadline`; the sender stores it in `send_by` before it reads the queue.

use std::collections::BTreeMap;

use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DbBackend, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, QueryTrait as _, Select, Statement, Value,
    sea_query::{Expr, ExprTrait as _, LockBehavior, LockType},
};

use super::{
    Store,
    billing_context::read_contexts_and_changes,
    columns::columns,
    connection::Transaction,
    of_shard::OfShard,
    report_states::{is_due, state_in},
    rows,
};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        billed_usage::BilledUsage,
        report::{Report, State},
    },
    entity::usage_report::{self, Column},
    error::Result,
};

/// The reports of one transaction that stores when they should be sent.
const ORDERED_AT_ONCE: u64 = 256;
/// The transactions of one call, so that sending goes on meanwhile.
const MAX_PAGES: u32 = 8;
/// The reports of an account that are put in order again at once; the end of their waits does it for the others.
const MAX_REORDERED: u32 = 10_000;

/// The place of a report in the queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueuePlace {
    send_by: Millis,
    customer: String,
    meter: String,
}

impl Store {
    /// Stores when due reports of some meters should be sent, where that is not known.
    pub(crate) async fn set_send_by(&self, meters: &[&str]) -> Result<()> {
        for meter in meters {
            // Usually there are none, which takes no turn of SQLite's only writer to find out.
            let first: Option<i64> = unplaced(meter)
                .filter(Column::Customer.is_not_null())
                .select_only()
                .column(Column::Number)
                .limit(1)
                .into_tuple()
                .one(&self.reader)
                .await?;
            if first.is_none() {
                continue;
            }
            for _ in 0..MAX_PAGES {
                if !self.set_send_by_of_page(meter).await? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Returns whether there may be more.
    async fn set_send_by_of_page(&self, meter: &str) -> Result<bool> {
        let accounts = unplaced(meter)
            .filter(Column::Customer.is_not_null())
            .select_only()
            .column(Column::AccountId)
            .limit(ORDERED_AT_ONCE)
            .build(self.backend());
        let mut has_more = false;
        for shard in OfShard::of(&self.reader, accounts).await? {
            has_more |= self.set_send_by_of_shard(meter, &shard).await?;
        }
        Ok(has_more)
    }

    async fn set_send_by_of_shard(&self, meter: &str, shard: &OfShard) -> Result<bool> {
        let tx = self.begin().await?;
        // Locked reports get their place the next time, so that no lock is waited for while others are held.
        let page = unplaced(meter)
            .filter(Column::Customer.is_not_null())
            .filter(shard.condition(Column::AccountId))
            .limit(ORDERED_AT_ONCE)
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .all(&tx)
            .await?;
        let reports: Vec<Report> = rows::all(page);
        let contexts = read_contexts_and_changes(&tx, &reports).await?;
        let mut alike: BTreeMap<Millis, Vec<&Report>> = BTreeMap::new();
        for report in &reports {
            let context = contexts.of(report, report.customer.as_deref());
            let send_by = context.send_by(BilledUsage::of(report));
            alike.entry(send_by).or_default().push(report);
        }
        for (send_by, reports) in alike {
            let ids = reports
                .into_iter()
                .map(|report| (report.account_id.clone(), report.id));
            usage_report::Entity::update_many()
                .col_expr(Column::SendBy, Expr::value(send_by))
                .filter(shard.condition(Column::AccountId))
                .filter(
                    Expr::tuple([Expr::col(Column::AccountId), Expr::col(Column::Id)])
                        .in_tuples(ids),
                )
                .exec(&tx)
                .await?;
        }
        tx.commit().await?;
        Ok(u64::try_from(reports.len()).is_ok_and(|len| len == ORDERED_AT_ONCE))
    }

    /// Of each stream of some meters with due reports the first one, what is due soonest first, after a place. A stream
    /// whose reports have different times has one for each. Reports that wait are not read, and nothing that an earlier
    /// Stripe account may have is due.
    pub(crate) async fn due_first(
        &self,
        meters: &[&str],
        after: Option<&QueuePlace>,
        limit: usize,
    ) -> Result<Vec<(QueuePlace, Report)>> {
        let adopted_at = self.sending().await?.adopted_at.unwrap_or(Millis::MIN);
        let mut due = Vec::new();
        // A query for each meter, because those of a meter that is paused are not read either.
        for meter in meters {
            let (send_by, customer, includes) = match after {
                Some(after) => (
                    after.send_by,
                    after.customer.as_str(),
                    *meter > after.meter.as_str(),
                ),
                None => (Millis::MIN, "", false),
            };
            let sql = self.first_of_streams(includes, limit);
            let values = [
                (*meter).into(),
                adopted_at.into(),
                send_by.into(),
                customer.into(),
            ];
            let statement = Statement::from_sql_and_values(self.backend(), sql, values);
            let rows = usage_report::Entity::find()
                .from_raw_sql(statement)
                .all(&self.reader)
                .await?;
            due.extend(rows.into_iter().filter_map(|row| {
                let place = QueuePlace {
                    send_by: row.send_by?,
                    customer: row.customer.clone()?,
                    meter: row.meter.clone(),
                };
                Some((place, Report::from(row)))
            }));
        }
        due.sort_by(|(left, _), (right, _)| left.cmp(right));
        due.truncate(limit);
        Ok(due)
    }

    /// Jumps from each first report to the next one in the index, instead of reading all between them: an account may
    /// have hundreds. Rows are joined by their places, which both engines find at once.
    ///
    /// The next stream at the same time comes before the streams of later times, each by a query of its own. For one
    /// comparison with both columns, SQLite reads all earlier streams of that time again: of 1,000 streams with 200
    /// reports each, the first 256 took 404 ms instead of 1.2.
    fn first_of_streams(&self, includes: bool, limit: usize) -> String {
        let due = state_in(&State::DUE);
        let comparison = if includes { ">=" } else { ">" };
        if self.is_distributed() {
            // Of each shard and then of all of them: a place in one shard leads to nothing in another.
            return format!(
                "SELECT DISTINCT ON (send_by, customer) * FROM usage_reports WHERE {due} AND next_attempt_at IS NULL \
                 AND meter = $1 AND COALESCE(reported_at, first_sent_at, $2) >= $2 AND customer IS NOT NULL \
                 AND (send_by, customer) {comparison} ($3, $4) ORDER BY send_by, customer, id LIMIT {limit}"
            );
        }
        let place = if self.has_parallel_writers() {
            "ctid"
        } else {
            "rowid"
        };
        let first_where = |condition: String| {
            format!(
                "(SELECT d.{place} FROM usage_reports d WHERE d.{due} AND d.next_attempt_at IS NULL \
                 AND d.send_by IS NOT NULL AND d.meter = $1 \
                 AND COALESCE(d.reported_at, d.first_sent_at, $2) >= $2 AND d.customer IS NOT NULL \
                 AND {condition} ORDER BY d.send_by, d.customer, d.id LIMIT 1)"
            )
        };
        let next = |comparison: &str, send_by: &str, customer: &str| {
            let same_time = format!("d.send_by = {send_by} AND d.customer {comparison} {customer}");
            let later = format!("d.send_by > {send_by}");
            format!(
                "COALESCE({}, {})",
                first_where(same_time),
                first_where(later)
            )
        };
        let first = next(comparison, "$3", "$4");
        let others = next(">", "h.send_by", "h.customer");
        format!(
            "WITH RECURSIVE heads(place, nth) AS (SELECT {first}, 1 UNION ALL SELECT {others}, nth + 1 \
             FROM heads JOIN usage_reports h ON h.{place} = heads.place WHERE nth < {limit}) \
             SELECT {} FROM heads JOIN usage_reports r ON r.{place} = heads.place",
            columns::<usage_report::Entity>("r")
        )
    }
}

/// Due reports of a meter that have no place in the queue yet, the earliest closed first. In the order of the index,
/// because PostgreSQL would rather read the table until it finds one.
pub(super) fn unplaced(meter: &str) -> Select<usage_report::Entity> {
    usage_report::Entity::find()
        .filter(is_due())
        .filter(Column::NextAttemptAt.is_null())
        .filter(Column::SendBy.is_null())
        .filter(Column::Meter.eq(meter))
        .order_by_asc(Column::Number)
}

/// Forgets when reports of an account should be sent, because that may have changed. The sender reads it again.
pub(super) async fn forget_send_by(
    tx: &Transaction,
    account_id: &AccountId,
) -> std::result::Result<(), DbErr> {
    let of_account = format!(
        "account_id = $1 AND {} AND send_by IS NOT NULL",
        state_in(&State::DUE)
    );
    // One shard has them: the account is named beside their places too.
    let within = " AND account_id = $1";
    let values = [account_id.as_str().into()];
    forget(tx, &of_account, within, values, MAX_REORDERED).await
}

/// Forgets when due reports of a meter should be sent, because the meter is not configured: they have no place in the
/// queue then.
pub(super) async fn forget_send_by_of_meter(
    tx: &Transaction,
    meter: &str,
    limit: u32,
) -> std::result::Result<(), DbErr> {
    // In the order of the index: PostgreSQL would read all reports where most are of this meter.
    const ORDER: &str = "ORDER BY send_by";
    let of_meter = format!(
        "meter = $1 AND {} AND next_attempt_at IS NULL AND send_by IS NOT NULL",
        state_in(&State::DUE)
    );
    let accounts =
        format!("SELECT account_id FROM usage_reports WHERE {of_meter} {ORDER} LIMIT {limit}");
    let backend = tx.get_database_backend();
    let accounts = Statement::from_sql_and_values(backend, accounts, [meter.into()]);
    for shard in OfShard::of(tx, accounts).await? {
        let within = shard.sql(2);
        let condition = format!("{of_meter}{within} {ORDER}");
        let values = [Some(meter.into()), shard.value()].into_iter().flatten();
        forget(tx, &condition, &within, values, limit).await?;
    }
    Ok(())
}

/// Forgets it of reports that a condition finds, all within one shard.
async fn forget(
    tx: &Transaction,
    condition: &str,
    within: &str,
    values: impl IntoIterator<Item = Value>,
    limit: u32,
) -> std::result::Result<(), DbErr> {
    let found =
        |place: &str| format!("SELECT {place} FROM usage_reports WHERE {condition} LIMIT {limit}");
    let backend = tx.get_database_backend();
    let places = if backend == DbBackend::Postgres {
        // As in `end_waits`. The sender has those that are locked.
        format!(
            "ctid = ANY (ARRAY({} FOR UPDATE SKIP LOCKED)){within}",
            found("ctid")
        )
    } else {
        format!("rowid IN ({})", found("rowid"))
    };
    let sql = format!("UPDATE usage_reports SET send_by = NULL WHERE {places}");
    let statement = Statement::from_sql_and_values(backend, sql, values);
    tx.execute_raw(statement).await.map(|_| ())
}

#[cfg(test)]
mod tests;
