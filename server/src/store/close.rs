//! Closing reports: fixes quantity and window, and sets the customer by the links in force. When reports close is in
//! `domain::closing`.

use std::collections::HashMap;

use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, Select, Statement,
    sea_query::{Expr, ExprTrait as _},
};
use uuid::Uuid;

use super::{
    Store, connection::Transaction, links::read_links, report_states::at_once, reports::in_scope,
};
use crate::{
    domain::{
        Millis,
        account::billing_target_at,
        account_id::AccountId,
        closing::period_ends_to_close,
        report::{State, Transition},
        run::Scope,
    },
    entity::{
        report_run,
        usage_report::{self, UsageReportState},
    },
};

/// The number of open reports that one transaction closes.
const REPORTS_PER_PAGE: u64 = 200;

/// The last open report of a page, in lock order: the next page begins after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenCursor(AccountId, Millis, String);

/// The result of closing one page.
#[derive(Debug)]
pub(crate) struct ClosedPage {
    /// Where the next page begins; `None` after the last page.
    pub(crate) next: Option<OpenCursor>,
}

impl Store {
    /// Closes one page of the open reports whose windows have begun, for a run.
    pub(crate) async fn close_page(
        &self,
        run: Uuid,
        scope: &Scope,
        after: Option<&OpenCursor>,
        now: Millis,
    ) -> Result<ClosedPage, DbErr> {
        let tx = self.begin_within_boundaries().await?;
        let mut query = in_scope(scope, open_reports(now));
        if let Some(OpenCursor(account, start, meter)) = after {
            query = query.filter(
                Expr::tuple([
                    Expr::col(usage_report::Column::AccountId),
                    Expr::col(usage_report::Column::WindowStart),
                    Expr::col(usage_report::Column::Meter),
                ])
                .gt(Expr::tuple([
                    Expr::value(account),
                    Expr::value(*start),
                    Expr::value(meter.as_str()),
                ])),
            );
        }
        let reports = query
            .limit(REPORTS_PER_PAGE)
            .lock_exclusive()
            .all(&tx)
            .await?;
        let closed = close_reports(&tx, &reports, now, Some(run)).await?;
        report_run::Entity::update_many()
            .col_expr(
                report_run::Column::ClosedReports,
                Expr::col(report_run::Column::ClosedReports).add(closed.0),
            )
            .col_expr(
                report_run::Column::ClosedQuantity,
                Expr::col(report_run::Column::ClosedQuantity).add(closed.1),
            )
            .col_expr(report_run::Column::HeartbeatAt, Expr::value(now))
            .filter(report_run::Column::Id.eq(run))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        let is_full = u64::try_from(reports.len()).is_ok_and(|len| len == REPORTS_PER_PAGE);
        let next = reports.last().filter(|_| is_full).map(|last| {
            OpenCursor(
                last.account_id.clone(),
                last.window_start,
                last.meter.clone(),
            )
        });
        Ok(ClosedPage { next })
    }
}

impl Store {
    /// Accounts with open reports in billing periods that ended a while ago: candidates for a run, which closes all their
    /// open reports. To which period each belongs is decided when it is sent.
    pub(crate) async fn accounts_past_period_end(
        &self,
        now: Millis,
        limit: u64,
    ) -> crate::error::Result<Vec<AccountId>> {
        // Few reports are open in each ended period. The offset keeps PostgreSQL from joining, for which it would read
        // every period.
        const SQL: &str = "SELECT DISTINCT p.account_id FROM billing_periods p \
            WHERE p.period_end >= $1 AND p.period_end < $2 AND EXISTS (\
            SELECT 1 FROM usage_reports r WHERE r.account_id = p.account_id AND r.period_end IS NULL \
            AND r.window_start >= p.period_start AND r.window_start < p.period_end LIMIT 1 OFFSET 0) LIMIT $3";
        let ends = period_ends_to_close(now);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = [ends.start.into(), ends.end.into(), limit.into()];
        let statement = Statement::from_sql_and_values(self.backend(), SQL, values);
        let rows = self.reader.query_all_raw(statement).await?;
        let accounts = rows.iter().map(|row| row.try_get("", "account_id"));
        Ok(accounts.collect::<Result<_, _>>()?)
    }
}

/// The open reports whose windows have begun, in lock order.
pub(super) fn open_reports(now: Millis) -> Select<usage_report::Entity> {
    usage_report::Entity::find()
        .filter(usage_report::Column::PeriodEnd.is_null())
        .filter(usage_report::Column::WindowStart.lte(now))
        .order_by_asc(usage_report::Column::AccountId)
        .order_by_asc(usage_report::Column::WindowStart)
        .order_by_asc(usage_report::Column::Meter)
}

/// Closes an account's usage from before a time. The caller has the boundary lock, so nothing is counted meanwhile.
pub(super) async fn close_account(
    tx: &Transaction,
    account_id: &AccountId,
    before: Millis,
) -> Result<(), DbErr> {
    let reports = open_reports(before)
        .filter(usage_report::Column::AccountId.eq(account_id))
        .filter(usage_report::Column::WindowStart.lt(before))
        .lock_exclusive()
        .all(tx)
        .await?;
    close_reports(tx, &reports, before, None).await.map(|_| ())
}

/// Closes reports that this transaction has locked. Returns their number and total.
pub(super) async fn close_reports(
    tx: &Transaction,
    reports: &[usage_report::Model],
    now: Millis,
    run: Option<Uuid>,
) -> Result<(i64, i64), DbErr> {
    if reports.is_empty() {
        return Ok((0, 0));
    }
    let links = read_links(tx, reports.iter().map(|report| &report.account_id)).await?;
    // One statement for all reports of a page that get the same state and customer.
    let mut alike: HashMap<(State, Option<String>), Vec<&usage_report::Model>> = HashMap::new();
    for report in reports {
        let own = links.get(&report.account_id).map_or(&[][..], Vec::as_slice);
        let target = billing_target_at(own, report.first_at);
        let customer = target.customer().map(str::to_owned);
        let Some(state) = State::Open.after(&Transition::Close(target)) else {
            continue;
        };
        alike.entry((state, customer)).or_default().push(report);
    }
    let mut closed = (0_i64, 0_i64);
    for ((state, customer), reports) in alike {
        let ids = reports.iter().map(|report| report.id);
        let accounts = reports.iter().map(|report| &report.account_id);
        let updated = usage_report::Entity::update_many()
            .col_expr(
                usage_report::Column::PeriodEnd,
                Expr::col(usage_report::Column::WindowEnd),
            )
            .col_expr(usage_report::Column::ClosedAt, Expr::value(now))
            .col_expr(
                usage_report::Column::State,
                Expr::value(UsageReportState::from(state)),
            )
            .col_expr(usage_report::Column::Customer, Expr::value(customer))
            .col_expr(usage_report::Column::NextAttemptAt, at_once())
            .col_expr(usage_report::Column::RunId, Expr::value(run))
            .filter(usage_report::Column::AccountId.is_in(accounts))
            .filter(usage_report::Column::Id.is_in(ids))
            .filter(usage_report::Column::PeriodEnd.is_null())
            .exec(tx)
            .await?;
        let quantity = reports
            .iter()
            .fold(0_i64, |sum, report| sum.saturating_add(report.quantity));
        closed.0 = closed
            .0
            .saturating_add(i64::try_from(updated.rows_affected).unwrap_or(i64::MAX));
        closed.1 = closed.1.saturating_add(quantity);
    }
    Ok(closed)
}
