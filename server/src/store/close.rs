//! Which open reports a run, a change or a restore closes. When reports close is in `domain::closing`.

use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, Select, Statement,
    sea_query::{Expr, ExprTrait as _},
};
use uuid::Uuid;

use super::{
    Store,
    close_reports::{Closing, close_reports},
    connection::Transaction,
    reports::in_scope,
};
use crate::{
    domain::{Millis, account_id::AccountId, closing::period_ends_to_close, run::Scope},
    entity::{
        open_report::{self, Column},
        report_run,
    },
};

/// The number of open reports that one transaction closes.
const REPORTS_PER_PAGE: u64 = 1_000;

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
        let mut query = in_scope(scope, open_reports(now), Column::AccountId);
        if let Some(OpenCursor(account, start, meter)) = after {
            query = query.filter(
                Expr::tuple([
                    Expr::col(Column::AccountId),
                    Expr::col(Column::WindowStart),
                    Expr::col(Column::Meter),
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
        let closing = Closing {
            run: Some(run),
            ..Closing::at(now)
        };
        let closed = close_reports(&tx, &reports, closing).await?;
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
            SELECT 1 FROM open_reports r WHERE r.account_id = p.account_id \
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
pub(super) fn open_reports(now: Millis) -> Select<open_report::Entity> {
    open_report::Entity::find()
        .filter(Column::WindowStart.lte(now))
        .order_by_asc(Column::AccountId)
        .order_by_asc(Column::WindowStart)
        .order_by_asc(Column::Meter)
}

/// Closes an account's usage from before a time. The caller has the boundary lock, so nothing is counted meanwhile.
pub(super) async fn close_account(
    tx: &Transaction,
    account_id: &AccountId,
    before: Millis,
) -> Result<(), DbErr> {
    let reports = open_reports(before)
        .filter(Column::AccountId.eq(account_id))
        .filter(Column::WindowStart.lt(before))
        .lock_exclusive()
        .all(tx)
        .await?;
    close_reports(tx, &reports, Closing::at(before))
        .await
        .map(|_| ())
}
