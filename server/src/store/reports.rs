//! Queries of usage reports: sums for `Get`, rows for `ListReports`.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use sea_orm::{
    ColumnTrait as _, DbErr, EntityTrait, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    Select,
    sea_query::{Expr, ExprTrait as _, Func},
};
use uuid::Uuid;

use super::{
    Store,
    connection::Transaction,
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
    entity::{
        any_report, open_report,
        usage_report::{self, UsageReportState},
    },
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
        use any_report::Column;
        let mut query = any_report::Entity::find()
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
        // A report that is closed meanwhile is found once.
        let tx = self.begin_reading().await?;
        let mut reports = Vec::new();
        if filter.includes_open() {
            let mut query = open_report::Entity::find();
            if let Some(account) = &filter.account_id {
                query = query.filter(open_report::Column::AccountId.eq(account));
            }
            let id = match filter.account_id {
                // The account's are few, and its own key finds them.
                Some(_) => without_index_of_ids(),
                None => Expr::col(open_report::Column::Id),
            };
            if let Some(before) = before {
                query = query.filter(id.clone().lt(before));
            }
            let query = query.order_by_desc(id).limit(limit);
            reports.extend(rows::all(query.all(&tx).await?));
        }
        if let Some(states) = filter.closed_states() {
            reports.extend(list_closed(&tx, filter, &states, before, limit).await?);
        }
        tx.rollback().await?;
        reports.sort_unstable_by_key(|report| Reverse(report.id));
        reports.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
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
        let tx = self.begin_reading().await?;
        let mut reports = preview_open(&tx, scope, after, now, limit).await?;
        reports.extend(preview_closed(&tx, scope, after, now, limit).await?);
        tx.rollback().await?;
        reports.sort_unstable_by_key(|report| report.id);
        reports.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
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

impl ReportFilter {
    /// Whether open reports may match.
    fn includes_open(&self) -> bool {
        (self.states.is_empty() || self.states.contains(&State::Open))
            && self.run_id.is_none()
            && self.kind.is_none_or(|kind| kind == Kind::Usage)
    }

    /// The states of folded reports that match, none meaning any; `None` if no folded report can.
    pub(crate) fn folded_states(&self) -> Option<Vec<State>> {
        let is_folded = self.run_id.is_none() && self.kind.is_none_or(|kind| kind == Kind::Usage);
        self.closed_states().filter(|_| is_folded)
    }

    /// The states of closed reports that match, none meaning any; `None` if no closed report can.
    fn closed_states(&self) -> Option<Vec<State>> {
        let closed = self.states.iter().copied();
        let closed: Vec<State> = closed.filter(|state| *state != State::Open).collect();
        (self.states.is_empty() || !closed.is_empty()).then_some(closed)
    }
}

/// Closed reports in some states that are older than the given one, newest first, or any of them in no order.
async fn list_closed(
    tx: &Transaction,
    filter: &ReportFilter,
    states: &[State],
    before: Option<Uuid>,
    limit: u64,
) -> std::result::Result<Vec<Report>, DbErr> {
    use usage_report::Column;
    let mut query = usage_report::Entity::find();
    let is_narrow = filter.account_id.is_some() || filter.run_id.is_some();
    if let Some(account) = &filter.account_id {
        query = query.filter(Column::AccountId.eq(account));
    }
    if is_narrow && !states.is_empty() {
        let states = states.iter().copied().map(UsageReportState::from);
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
    if is_narrow || states.is_empty() {
        return Ok(rows::all(query.all(tx).await?));
    }
    in_states(tx, query, states).await
}

/// The reports that a query with an order and a limit finds in each of some states. All states at once could not be read
/// in order: every report in these states would be sorted for each page.
async fn in_states(
    tx: &Transaction,
    query: Select<usage_report::Entity>,
    states: &[State],
) -> std::result::Result<Vec<Report>, DbErr> {
    let mut reports = Vec::new();
    let states: HashSet<State> = states.iter().copied().collect();
    for state in states {
        let found = query.clone().filter(is_in_state(&[state]));
        reports.extend(rows::all(found.all(tx).await?));
    }
    Ok(reports)
}

/// The first open reports of a scope after the given one, of windows that have begun.
async fn preview_open(
    tx: &Transaction,
    scope: &Scope,
    after: Option<Uuid>,
    now: Millis,
    limit: u64,
) -> std::result::Result<Vec<Report>, DbErr> {
    use open_report::Column;
    let mut query = in_scope(scope, open_report::Entity::find(), Column::AccountId)
        .filter(unindexed(Column::WindowStart).lte(now));
    let id = match scope {
        Scope::All => Expr::col(Column::Id),
        Scope::Accounts(_) => without_index_of_ids(),
    };
    if let Some(after) = after {
        query = query.filter(id.clone().gt(after));
    }
    let open = query.order_by_asc(id).limit(limit).all(tx).await?;
    Ok(rows::all(open))
}

/// The first closed reports of a scope that were not sent, after the given one. Those of accounts are found by their own
/// index: an account's history is not read.
async fn preview_closed(
    tx: &Transaction,
    scope: &Scope,
    after: Option<Uuid>,
    now: Millis,
    limit: u64,
) -> std::result::Result<Vec<Report>, DbErr> {
    use usage_report::Column;
    let query = in_scope(scope, usage_report::Entity::find(), Column::AccountId)
        .filter(unindexed(Column::WindowStart).lte(now));
    if *scope == Scope::All {
        let query = match after {
            Some(after) => query.filter(Column::Id.gt(after)),
            None => query,
        };
        let query = query.order_by_asc(Column::Id).limit(limit);
        return in_states(tx, query, &[State::Closed, State::Sending]).await;
    }
    let query = match after {
        Some(after) => query.filter(without_index_of_ids().gt(after)),
        None => query,
    };
    let unsent = query
        .filter(is_due())
        .filter(Column::State.ne(UsageReportState::Unknown))
        .order_by_asc(without_index_of_ids())
        .limit(limit);
    Ok(rows::all(unsent.all(tx).await?))
}

/// The id, as an expression that no index has: both engines would read the index of all ids in order, rather than sort the
/// few that another index finds.
fn without_index_of_ids() -> Expr {
    Expr::cust("COALESCE(id, id)")
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
pub(super) fn in_scope<E: EntityTrait>(
    scope: &Scope,
    query: Select<E>,
    account: E::Column,
) -> Select<E> {
    match scope {
        Scope::All => query,
        Scope::Accounts(accounts) => query.filter(account.is_in(accounts)),
    }
}
