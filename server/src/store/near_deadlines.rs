//! Finds reports that Stripe has not accepted and that are near the time after which no invoice can charge them, and the
//! hour in which most billing periods end.

use sea_orm::{
    ConnectionTrait as _, DbBackend, EntityName, EntityTrait, PaginatorTrait as _,
    QueryFilter as _, Statement,
    sea_query::{Expr, ExprTrait as _},
};

use super::{
    Store,
    billing_context::read_contexts,
    columns::columns,
    report_states::{is_due, state_in},
};
use crate::{
    domain::{
        HOUR_MS, MINUTE_MS, Millis,
        billed_usage::BilledUsage,
        billing_period::RELEVANT_MS,
        closing::CLOSE_AT_ONCE_MS,
        report::{Report, State},
        send_load::PeriodEnds,
    },
    entity::{open_report, usage_report},
    error::Result,
};

/// How long before its invoice's finalization a report is near its deadline.
pub(crate) const NEAR_DRAFT_END_MS: Millis = 15 * MINUTE_MS;
/// The maximum number of reports that are read.
const MAX_READ: u32 = 10_000;

impl Store {
    /// The reports in some states whose invoices are finalized by [`NEAR_DRAFT_END_MS`] from now, at most 10,000.
    pub(crate) async fn near_draft_end(
        &self,
        states: &[State],
        now: Millis,
    ) -> Result<Vec<Report>> {
        let until = now.saturating_add(NEAR_DRAFT_END_MS);
        // A report that is closed meanwhile is found once.
        let tx = self.begin_reading().await?;
        let closed =
            unsent_of_drafts::<usage_report::Entity>(self.backend(), &state_in(states), now);
        let closed = usage_report::Entity::find().from_raw_sql(closed);
        let mut reports: Vec<Report> = super::rows::all(closed.all(&tx).await?);
        if states.contains(&State::Open) {
            let open = unsent_of_drafts::<open_report::Entity>(self.backend(), "TRUE", now);
            let open = open_report::Entity::find().from_raw_sql(open);
            reports.extend(super::rows::all(open.all(&tx).await?));
        }
        tx.rollback().await?;
        if reports.is_empty() {
            return Ok(reports);
        }
        let contexts = read_contexts(&self.reader, &reports).await?;
        reports.retain(|report| {
            let usage = BilledUsage::of(report);
            contexts
                .of_any_customer(report)
                .iter()
                .any(|context| context.is_finalized_by(usage, until, now))
        });
        Ok(reports)
    }

    /// The number of reports that the sender has to send and that are older than 33 days.
    pub(crate) async fn near_age_limit(&self, now: Millis) -> Result<u64> {
        let oldest = now.saturating_sub(CLOSE_AT_ONCE_MS);
        Ok(usage_report::Entity::find()
            .filter(is_due())
            .filter(Expr::col(usage_report::Column::WindowStart).lt(oldest))
            .count(&self.reader)
            .await?)
    }

    /// The hour of the next 40 days in which most billing periods end.
    pub(crate) async fn fullest_hour(&self, now: Millis) -> Result<PeriodEnds> {
        const SQL: &str = "SELECT period_end / $3 AS hour, COUNT(*) AS streams FROM billing_periods \
            WHERE period_end > $1 AND period_end <= $2 AND meter IS NOT NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 1";
        let values = [
            now.saturating_sub(HOUR_MS),
            now.saturating_add(RELEVANT_MS),
            HOUR_MS,
        ];
        let values = values.map(Into::into);
        let statement = Statement::from_sql_and_values(self.backend(), SQL, values);
        let Some(row) = self.reader.query_one_raw(statement).await? else {
            return Ok(PeriodEnds::default());
        };
        let (hour, streams): (i64, i64) = (row.try_get("", "hour")?, row.try_get("", "streams")?);
        Ok(PeriodEnds {
            hour: hour.saturating_mul(HOUR_MS),
            streams: u64::try_from(streams).unwrap_or_default(),
        })
    }
}

/// The reports of a table that fulfil a condition, and whose account and meter have a draft that is finalized by
/// [`NEAR_DRAFT_END_MS`] from now. Which of them the draft would charge is for the domain to decide.
fn unsent_of_drafts<E: EntityTrait + EntityName>(
    backend: DbBackend,
    condition: &str,
    now: Millis,
) -> Statement {
    let (table, columns) = (E::default().table_name(), columns::<E>("r"));
    // Few invoices are drafts, so their periods come first: SQLite keeps the order of a CROSS JOIN, and PostgreSQL
    // does not join a subquery with an offset.
    let unsent = format!("r.account_id = p.account_id AND r.meter = p.meter AND {condition}");
    let (reports, condition) = if backend == DbBackend::Postgres {
        let reports = format!("LATERAL (SELECT r.* FROM {table} r WHERE {unsent} OFFSET 0)");
        (reports, "TRUE".to_owned())
    } else {
        (table.to_owned(), unsent)
    };
    let query = format!(
        "SELECT DISTINCT {columns} FROM billing_periods p CROSS JOIN {reports} r WHERE {condition} \
         AND p.period_end <= $1 AND p.period_end > $2 AND p.invoice_state <> 'final' \
         AND (p.draft_until IS NULL OR p.draft_until <= $3) LIMIT {MAX_READ}"
    );
    let until = now.saturating_add(NEAR_DRAFT_END_MS);
    let values = [now, now.saturating_sub(RELEVANT_MS), until].map(Into::into);
    Statement::from_sql_and_values(backend, query, values)
}
