//! Queries of usage reports: sums for `Get`, rows for `ListReports`.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, Order, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    Select,
    sea_query::{Expr, ExprTrait as _, Func},
};
use uuid::Uuid;

use super::{
    Store,
    links::read_links,
    report_states::{is_due, is_in_state},
    rows, unindexed,
};
use crate::{
    domain::{
        Millis,
        account::Link,
        account_id::AccountId,
        report::{Kind, Report, State},
        run::Scope,
        window::Interval,
    },
    entity::usage_report::{self, UsageReportState},
    error::Result,
};

/// The usage of one meter, window and state.
#[derive(Debug)]
pub(crate) struct UsageSum {
    /// The meter.
    pub(crate) meter: String,
    /// The window's start.
    pub(crate) window_start: Millis,
    /// The state.
    pub(crate) state: State,
    /// The sum of the quantities.
    pub(crate) quantity: i64,
}

/// Which reports to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReportFilter {
    /// Only reports of this account.
    pub(crate) account_id: Option<AccountId>,
    /// Only reports in these states; empty means any.
    pub(crate) states: Vec<State>,
    /// Only reports that this run closed.
    pub(crate) run_id: Option<Uuid>,
    /// Only reports of this kind.
    pub(crate) kind: Option<Kind>,
}

impl Store {
    /// The usage of an account in a period, by meter, window and state. The period's edges must not lie inside a
    /// window.
    pub(crate) async fn sum_usage(
        &self,
        account_id: &AccountId,
        meter: Option<&str>,
        period: Interval,
    ) -> Result<Vec<UsageSum>> {
        use usage_report::Column;
        let mut query = usage_report::Entity::find()
            .select_only()
            .column(Column::Meter)
            .column(Column::WindowStart)
            .column(Column::State)
            .column_as(
                Func::sum(Expr::col(Column::Quantity)).cast_as("bigint"),
                "quantity",
            )
            .filter(Column::AccountId.eq(account_id))
            .filter(Column::WindowStart.gte(period.start))
            .filter(Column::WindowStart.lt(period.end))
            .group_by(Column::Meter)
            .group_by(Column::WindowStart)
            .group_by(Column::State);
        if let Some(meter) = meter {
            query = query.filter(Column::Meter.eq(meter));
        }
        let sums: Vec<(String, Millis, UsageReportState, i64)> =
            query.into_tuple().all(&self.reader).await?;
        Ok(sums
            .into_iter()
            .map(|(meter, window_start, state, quantity)| UsageSum {
                meter,
                window_start,
                state: state.into(),
                quantity,
            })
            .collect())
    }

    /// Reports that are older than the given one, newest first.
    pub(crate) async fn list_reports(
        &self,
        filter: &ReportFilter,
        before: Option<Uuid>,
        limit: u64,
    ) -> Result<Vec<Report>> {
        use usage_report::Column;
        let mut query = usage_report::Entity::find();
        let is_narrow = filter.account_id.is_some() || filter.run_id.is_some();
        if let Some(account) = &filter.account_id {
            query = query.filter(Column::AccountId.eq(account));
        }
        if is_narrow && !filter.states.is_empty() {
            let states = filter.states.iter().copied().map(UsageReportState::from);
            query = query.filter(Column::State.is_in(states));
        }
        if let Some(run) = filter.run_id {
            query = query.filter(Column::RunId.eq(run));
        }
        if let Some(kind) = filter.kind {
            query = query.filter(is_of_kind(kind));
        }
        if let Some(before) = before {
            query = query.filter(Column::Id.lt(before));
        }
        query = query.order_by_desc(Column::Id).limit(limit);
        if is_narrow || filter.states.is_empty() {
            return Ok(rows::all(query.all(&self.reader).await?));
        }
        let mut reports = self.in_states(query, &filter.states).await?;
        reports.sort_unstable_by_key(|report| Reverse(report.id));
        reports.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(reports)
    }

    /// The reports that a query with an order and a limit finds in each of some states. All states at once could not
    /// be read in order: every report in these states would be sorted for each page. A report that moves from one of them
    /// to another meanwhile is found once.
    async fn in_states(
        &self,
        query: Select<usage_report::Entity>,
        states: &[State],
    ) -> Result<Vec<Report>> {
        let mut reports = Vec::new();
        let states: HashSet<State> = states.iter().copied().collect();
        let tx = self.begin_reading().await?;
        for state in states {
            let found = query.clone().filter(is_in_state(&[state]));
            reports.extend(rows::all(found.all(&tx).await?));
        }
        tx.rollback().await?;
        Ok(reports)
    }

    /// The reports that a run over a scope would close or send now: open ones of windows that have begun, and closed
    /// ones that were not sent. Paged by id.
    pub(crate) async fn preview_reports(
        &self,
        scope: &Scope,
        after: Option<Uuid>,
        now: Millis,
        limit: u64,
    ) -> Result<Vec<Report>> {
        use usage_report::Column;
        let mut reports = if *scope == Scope::All {
            let mut query = usage_report::Entity::find().filter(Column::WindowStart.lte(now));
            if let Some(after) = after {
                query = query.filter(Column::Id.gt(after));
            }
            let query = query.order_by_asc(Column::Id).limit(limit);
            let states = [State::Open, State::Closed, State::Sending];
            self.in_states(query, &states).await?
        } else {
            self.preview_of_accounts(scope, after, now, limit).await?
        };
        reports.sort_unstable_by_key(|report| report.id);
        reports.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(reports)
    }

    /// The first open reports of a scope's accounts, and the first closed ones that were not sent. Either is found by
    /// its own index of accounts: an account's history is not read.
    async fn preview_of_accounts(
        &self,
        scope: &Scope,
        after: Option<Uuid>,
        now: Millis,
        limit: u64,
    ) -> Result<Vec<Report>> {
        use usage_report::Column;
        // No index has this expression. PostgreSQL would read that of all ids instead.
        let id = || Expr::cust("COALESCE(id, id)");
        let mut query = in_scope(scope, usage_report::Entity::find())
            .filter(unindexed(Column::WindowStart).lte(now));
        if let Some(after) = after {
            query = query.filter(id().gt(after));
        }
        let query = query.order_by(id(), Order::Asc).limit(limit);
        let open = query.clone().filter(Column::PeriodEnd.is_null());
        let unsent = query
            .filter(is_due())
            .filter(Column::State.ne(UsageReportState::Unknown));
        let mut reports = rows::all(open.all(&self.reader).await?);
        reports.extend(rows::all(unsent.all(&self.reader).await?));
        Ok(reports)
    }

    /// The links of the accounts of some reports, oldest first for each account.
    pub(crate) async fn links_of(
        &self,
        reports: &[Report],
    ) -> Result<HashMap<AccountId, Vec<Link>>> {
        let accounts = reports.iter().map(|report| &report.account_id);
        Ok(read_links(&self.reader, accounts).await?)
    }
}

/// Whether a report is of a kind. The kind is a literal: both engines use a partial index only for a condition
/// without bound values, and that of the few reports of other kinds than usage only for its own condition.
fn is_of_kind(kind: Kind) -> Expr {
    let text = kind.name();
    Expr::cust(match kind {
        Kind::Usage => format!("kind = '{text}'"),
        Kind::Correction | Kind::AlreadySent => format!("kind <> 'usage' AND kind = '{text}'"),
    })
}

/// Narrows a query to the accounts of a scope.
pub(super) fn in_scope(
    scope: &Scope,
    query: Select<usage_report::Entity>,
) -> Select<usage_report::Entity> {
    match scope {
        Scope::All => query,
        Scope::Accounts(accounts) => query.filter(usage_report::Column::AccountId.is_in(accounts)),
    }
}
