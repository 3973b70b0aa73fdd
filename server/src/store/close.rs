//! Which open reports a run, a change or a restore closes. When reports close is in `domain::closing`.

use std::collections::HashMap;

use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DbBackend, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, Select, Statement,
    sea_query::{Expr, ExprTrait as _},
};
use uuid::Uuid;

use super::{
    Store,
    boundaries::current_version,
    close_reports::{ClosedTotals, Closing, Decided, close_reports, decide, keys, move_decided},
    connection::Transaction,
    links::read_links,
    of_shard::lock_rows,
    report_place::OpenPlace,
    reports::in_scope,
    retried::retried,
};
use crate::{
    domain::{
        Millis, account::Link, account_id::AccountId, closing::period_ends_to_close, run::Scope,
    },
    entity::{
        open_report::{self, Column},
        report_run,
    },
    error::Result,
};

/// The number of open reports that one transaction closes.
const REPORTS_PER_PAGE: usize = 1_000;
const LIMIT: u64 = 1_000;

/// The result of closing one page.
#[derive(Debug)]
pub(crate) struct ClosedPage {
    /// Where the next page begins; `None` after the last page.
    pub(crate) next: Option<OpenPlace>,
}

impl Store {
    /// Closes one page of the open reports whose windows have begun, for a run.
    ///
    /// What becomes of them is decided before the transaction, so that counting waits less. It is decided again if a
    /// link changed meanwhile, or the first increment of a report.
    pub(crate) async fn close_page(
        &self,
        run: Uuid,
        scope: &Scope,
        after: Option<&OpenPlace>,
        now: Millis,
    ) -> Result<ClosedPage> {
        let page = Page { scope, after, now };
        retried(|| async {
            let seen = self.read_page(page).await?;
            self.close_seen_once(run, page, seen).await
        })
        .await
    }

    async fn close_seen_once(
        &self,
        run: Uuid,
        page: Page<'_>,
        mut seen: SeenPage,
    ) -> Result<ClosedPage> {
        let now = page.now;
        let closing = Closing {
            run: Some(run),
            ..Closing::at(now)
        };
        let tx = self.begin_within_boundaries().await?;
        let is_distributed = self.is_distributed();
        let is_current = !is_distributed && current_version(&tx).await? == seen.version;
        let mut closed = ClosedTotals::default();
        if is_current {
            lock_and_decide(&tx, &mut seen).await?;
            closed = move_decided(&tx, &seen.decided, closing).await?;
        }
        let is_full = seen.decided.len() == REPORTS_PER_PAGE;
        let end = seen.decided.last().filter(|_| is_full);
        let mut last = end.map(|last| last.place.clone());
        let read = i64::try_from(seen.decided.len()).unwrap_or(i64::MAX);
        // On PostgreSQL, those that are missing were closed by others, and to lock more would break the order of locks.
        let is_whole = is_current && (self.has_parallel_writers() || closed.reports == read);
        if is_distributed {
            // Those of each shard are locked and moved by statements of their own.
            let ids = seen.decided.iter().map(|one| one.id);
            let seen = page.query().filter(Column::Id.is_in(ids)).limit(LIMIT);
            let seen = lock_rows(&tx, seen, Column::AccountId).await?;
            closed = close_reports(&tx, &seen, closing).await?;
        } else if !is_whole {
            let mut rest = page.query();
            if let Some(until) = seen.decided.last().filter(|_| is_current) {
                rest = rest.filter(place().lte(place_of(&until.place)));
            }
            let rest = rest.limit(LIMIT).lock_exclusive().all(&tx).await?;
            closed = closed.plus(close_reports(&tx, &rest, closing).await?);
            if !is_current || rest.len() == REPORTS_PER_PAGE {
                let end = rest.last().filter(|_| rest.len() == REPORTS_PER_PAGE);
                last = end.map(OpenPlace::of);
            }
        }
        let alive_at = self.now_in(&tx).await?;
        report_run::Entity::update_many()
            .col_expr(
                report_run::Column::ClosedReports,
                Expr::col(report_run::Column::ClosedReports).add(closed.reports),
            )
            .col_expr(
                report_run::Column::ClosedQuantity,
                Expr::col(report_run::Column::ClosedQuantity).add(closed.quantity),
            )
            .col_expr(
                report_run::Column::HeartbeatAt,
                // One that waited for long does not make the run older.
                Expr::case(
                    report_run::Column::HeartbeatAt.lt(alive_at),
                    Expr::value(alive_at),
                )
                .finally(Expr::col(report_run::Column::HeartbeatAt))
                .into(),
            )
            .filter(report_run::Column::Id.eq(run))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(ClosedPage { next: last })
    }

    /// Reads a page, and decides what becomes of its reports.
    async fn read_page(&self, page: Page<'_>) -> Result<SeenPage, DbErr> {
        let tx = self.begin_reading().await?;
        let version = current_version(&tx).await?;
        let rows: Vec<(AccountId, Millis, String, Uuid, Millis)> = page
            .query()
            .select_only()
            .columns([
                Column::AccountId,
                Column::WindowStart,
                Column::Meter,
                Column::Id,
                Column::FirstAt,
            ])
            .limit(LIMIT)
            .into_tuple()
            .all(&tx)
            .await?;
        let links = read_links(&tx, rows.iter().map(|(account, ..)| account)).await?;
        tx.rollback().await?;
        let decided =
            rows.into_iter()
                .filter_map(|(account_id, window_start, meter, id, first_at)| {
                    let place = OpenPlace {
                        account_id,
                        window_start,
                        meter,
                    };
                    decide((place, id), first_at, &links)
                });
        Ok(SeenPage {
            version,
            decided: decided.collect(),
            links,
        })
    }
}

/// Which open reports a page has.
#[derive(Clone, Copy)]
struct Page<'a> {
    scope: &'a Scope,
    after: Option<&'a OpenPlace>,
    now: Millis,
}

impl Page<'_> {
    fn query(self) -> Select<open_report::Entity> {
        let query = in_scope(self.scope, open_report::Entity::find(), Column::AccountId)
            .filter(Column::WindowStart.lte(self.now));
        open_after(query, self.after)
    }
}

/// A page as it was read, and the version of the boundaries and links by which it was decided.
struct SeenPage {
    version: i64,
    decided: Vec<Decided>,
    links: HashMap<AccountId, Vec<Link>>,
}

/// Locks the reports in the order in which counting locks them, and decides again what becomes of those whose first
/// increment has changed. On SQLite nothing else writes.
async fn lock_and_decide(tx: &Transaction, seen: &mut SeenPage) -> Result<(), DbErr> {
    // Apart, for PostgreSQL moves the condition into a subquery, and then locks only the rows that meet it.
    const SQL: &str = "WITH locked AS MATERIALIZED (SELECT d.n, o.first_at, d.first_at AS seen_at \
        FROM UNNEST($1::text[], $2::bigint[], $3::text[], $4::bigint[]) WITH ORDINALITY \
        AS d(account_id, window_start, meter, first_at, n) JOIN open_reports o USING (account_id, window_start, meter) \
        ORDER BY o.account_id, o.window_start, o.meter FOR UPDATE OF o) \
        SELECT n, first_at FROM locked WHERE first_at <> seen_at";
    if tx.get_database_backend() == DbBackend::Sqlite {
        return Ok(());
    }
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, SQL, keys(&seen.decided));
    for row in tx.query_all_raw(statement).await? {
        let number: i64 = row.try_get("", "n")?;
        let first_at: Millis = row.try_get("", "first_at")?;
        let index = usize::try_from(number.saturating_sub(1)).ok();
        let changed = index.and_then(|index| seen.decided.get_mut(index));
        if let Some(changed) = changed
            && let Some(again) = decide((changed.place.clone(), changed.id), first_at, &seen.links)
        {
            *changed = again;
        }
    }
    Ok(())
}

impl Store {
    /// Accounts with open reports in billing periods that ended a while ago: candidates for a run, which closes all their
    /// open reports. To which period each belongs is decided when it is sent.
    pub(crate) async fn accounts_past_period_end(
        &self,
        now: Millis,
        limit: u64,
    ) -> Result<Vec<AccountId>> {
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

/// Open reports after one of them, in the order in which they are locked.
pub(super) fn open_after(
    query: Select<open_report::Entity>,
    after: Option<&OpenPlace>,
) -> Select<open_report::Entity> {
    let query = match after {
        Some(after) => query.filter(place().gt(place_of(after))),
        None => query,
    };
    query
        .order_by_asc(Column::AccountId)
        .order_by_asc(Column::WindowStart)
        .order_by_asc(Column::Meter)
}

fn place() -> Expr {
    Expr::tuple([
        Expr::col(Column::AccountId),
        Expr::col(Column::WindowStart),
        Expr::col(Column::Meter),
    ])
}

fn place_of(place: &OpenPlace) -> Expr {
    Expr::tuple([
        Expr::value(&place.account_id),
        Expr::value(place.window_start),
        Expr::value(place.meter.as_str()),
    ])
}

/// Closes an account's usage from before a time. The caller has the boundary lock, so nothing is counted meanwhile.
pub(super) async fn close_account(
    tx: &Transaction,
    account_id: &AccountId,
    before: Millis,
) -> Result<(), DbErr> {
    let reports = open_after(open_report::Entity::find(), None)
        .filter(Column::AccountId.eq(account_id))
        .filter(Column::WindowStart.lt(before))
        .lock_exclusive()
        .all(tx)
        .await?;
    close_reports(tx, &reports, Closing::at(before))
        .await
        .map(|_| ())
}

#[cfg(test)]
mod tests;
