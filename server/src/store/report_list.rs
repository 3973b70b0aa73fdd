//! Pages of reports: for `ListReports`, and for the preview of a run.

use std::{cmp::Reverse, collections::HashSet};

use sea_orm::{
    ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    Select,
    sea_query::{Expr, ExprTrait as _},
};
use uuid::Uuid;

use super::{
    Store,
    close::open_after,
    connection::Transaction,
    report_place::{ReportPlace, ReportWithPlace},
    report_states::{is_due, is_in_state},
    reports::in_scope,
    unindexed,
};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        report::{Kind, State},
        run::Scope,
    },
    entity::{
        open_report,
        usage_report::{self, UsageReportState},
    },
    error::Result,
};

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

/// A page: the reports, each with the place after which the next page begins.
type Page = Vec<ReportWithPlace>;

impl Store {
    /// Reports after a place: those of one account newest first; of all accounts the open ones in their order, then the
    /// closed ones, the latest closed first.
    pub(crate) async fn list_reports(
        &self,
        filter: &ReportFilter,
        after: Option<&ReportPlace>,
        limit: u64,
    ) -> Result<Page> {
        // A report that is closed meanwhile is found once.
        let tx = self.begin_reading().await?;
        let reports = match &filter.account_id {
            Some(account) => list_of_account(&tx, account, filter, after, limit).await?,
            None => list_of_all(&tx, filter, after, limit).await?,
        };
        tx.rollback().await?;
        Ok(reports)
    }

    /// The reports that a run over a scope would close or send now: open ones of windows that have begun, and closed
    /// ones that were not sent.
    pub(crate) async fn preview_reports(
        &self,
        scope: &Scope,
        after: Option<&ReportPlace>,
        now: Millis,
        limit: u64,
    ) -> Result<Page> {
        let tx = self.begin_reading().await?;
        let reports = match scope {
            Scope::Accounts(_) => preview_accounts(&tx, scope, after, now, limit).await?,
            Scope::All => preview_all(&tx, after, now, limit).await?,
        };
        tx.rollback().await?;
        Ok(reports)
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

    /// Narrows a query of closed reports to a run and a kind.
    fn narrow(&self, query: Select<usage_report::Entity>) -> Select<usage_report::Entity> {
        use usage_report::Column;
        let query = match self.run_id {
            Some(run) => query.filter(Column::RunId.eq(run)),
            None => query,
        };
        match self.kind {
            Some(kind) => query.filter(is_of_kind(kind)),
            None => query,
        }
    }
}

/// The id after which a page of some accounts' reports begins.
fn id_of(place: Option<&ReportPlace>) -> Option<Uuid> {
    match place {
        Some(ReportPlace::Id(id)) => Some(*id),
        _ => None,
    }
}

/// Both kinds together, newest first.
async fn list_of_account(
    tx: &Transaction,
    account: &AccountId,
    filter: &ReportFilter,
    after: Option<&ReportPlace>,
    limit: u64,
) -> std::result::Result<Page, DbErr> {
    let (before, mut page) = (id_of(after), Vec::new());
    if filter.includes_open() {
        use open_report::Column;
        // The account's are few, and its own key finds them.
        let id = without_index_of_ids();
        let mut query = open_report::Entity::find().filter(Column::AccountId.eq(account));
        if let Some(before) = before {
            query = query.filter(id.clone().lt(before));
        }
        let open = query.order_by_desc(id).limit(limit).all(tx).await?;
        page.extend(
            open.into_iter()
                .map(|row| ReportWithPlace::by_id(row.into())),
        );
    }
    if let Some(states) = filter.closed_states() {
        use usage_report::Column;
        let mut query = usage_report::Entity::find().filter(Column::AccountId.eq(account));
        if !states.is_empty() {
            let states = states.iter().copied().map(UsageReportState::from);
            query = query.filter(Column::State.is_in(states));
        }
        if let Some(before) = before {
            query = query.filter(Column::Id.lt(before));
        }
        let query = filter.narrow(query).order_by_desc(Column::Id).limit(limit);
        let closed = query.all(tx).await?;
        page.extend(
            closed
                .into_iter()
                .map(|row| ReportWithPlace::by_id(row.into())),
        );
    }
    page.sort_unstable_by_key(|one| Reverse(one.report.id));
    page.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(page)
}

async fn list_of_all(
    tx: &Transaction,
    filter: &ReportFilter,
    after: Option<&ReportPlace>,
    limit: u64,
) -> std::result::Result<Page, DbErr> {
    use usage_report::Column;
    let mut page = Vec::new();
    let before = match after {
        Some(ReportPlace::Closed(number)) => Some(*number),
        _ => None,
    };
    if before.is_none() && filter.includes_open() {
        let open = open_after(open_report::Entity::find(), open_place(after));
        let open = open.limit(limit).all(tx).await?;
        page.extend(open.into_iter().map(ReportWithPlace::open));
    }
    let left = left_of(limit, &page);
    let Some(states) = filter.closed_states().filter(|_| left > 0) else {
        return Ok(page);
    };
    let mut query = filter.narrow(usage_report::Entity::find());
    if let Some(before) = before {
        query = query.filter(Column::Number.lt(before));
    }
    if filter.run_id.is_some() && !states.is_empty() {
        let states = states.iter().copied().map(UsageReportState::from);
        query = query.filter(Column::State.is_in(states));
    }
    query = query.order_by_desc(Column::Number).limit(left);
    let mut closed = if filter.run_id.is_some() {
        query.all(tx).await?
    } else {
        in_states(tx, query, &states).await?
    };
    closed.sort_unstable_by_key(|row| Reverse(row.number));
    page.extend(closed.into_iter().map(ReportWithPlace::closed));
    page.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(page)
}

fn open_place(place: Option<&ReportPlace>) -> Option<&super::report_place::OpenPlace> {
    match place {
        Some(ReportPlace::Open(place)) => Some(place),
        _ => None,
    }
}

fn left_of(limit: u64, page: &Page) -> u64 {
    limit.saturating_sub(u64::try_from(page.len()).unwrap_or(u64::MAX))
}

/// The reports that a query with an order and a limit finds in each of some states, or of all if there are none. All at
/// once could not be read in order: every report in these states would be sorted for each page.
async fn in_states(
    tx: &Transaction,
    query: Select<usage_report::Entity>,
    states: &[State],
) -> std::result::Result<Vec<usage_report::Model>, DbErr> {
    let mut reports = Vec::new();
    let all = State::ALL.into_iter();
    let any = states.is_empty();
    let all = all.filter(|state| *state != State::Open);
    let states: HashSet<State> = all.filter(|state| any || states.contains(state)).collect();
    for state in states {
        let found = query.clone().filter(is_in_state(&[state]));
        reports.extend(found.all(tx).await?);
    }
    Ok(reports)
}

/// Both kinds together, oldest first. They are found by the indexes of accounts: an account's history is not read.
async fn preview_accounts(
    tx: &Transaction,
    scope: &Scope,
    after: Option<&ReportPlace>,
    now: Millis,
    limit: u64,
) -> std::result::Result<Page, DbErr> {
    let (after, id) = (id_of(after), without_index_of_ids);
    let mut open = in_scope(
        scope,
        open_report::Entity::find(),
        open_report::Column::AccountId,
    )
    .filter(unindexed(open_report::Column::WindowStart).lte(now));
    let mut unsent = in_scope(
        scope,
        usage_report::Entity::find(),
        usage_report::Column::AccountId,
    )
    .filter(unindexed(usage_report::Column::WindowStart).lte(now))
    .filter(is_due())
    .filter(usage_report::Column::State.ne(UsageReportState::Unknown));
    if let Some(after) = after {
        open = open.filter(id().gt(after));
        unsent = unsent.filter(id().gt(after));
    }
    let open = open.order_by_asc(id()).limit(limit).all(tx).await?;
    let unsent = unsent.order_by_asc(id()).limit(limit).all(tx).await?;
    let open = open
        .into_iter()
        .map(|row| ReportWithPlace::by_id(row.into()));
    let unsent = unsent
        .into_iter()
        .map(|row| ReportWithPlace::by_id(row.into()));
    let mut page: Page = open.chain(unsent).collect();
    page.sort_unstable_by_key(|one| one.report.id);
    page.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(page)
}

/// The open ones in their order, then the closed ones, the earliest closed first.
async fn preview_all(
    tx: &Transaction,
    after: Option<&ReportPlace>,
    now: Millis,
    limit: u64,
) -> std::result::Result<Page, DbErr> {
    use usage_report::Column;
    let mut page = Vec::new();
    let after_number = match after {
        Some(ReportPlace::Closed(number)) => Some(*number),
        _ => None,
    };
    if after_number.is_none() {
        let open = open_after(open_report::Entity::find(), open_place(after))
            .filter(unindexed(open_report::Column::WindowStart).lte(now));
        let open = open.limit(limit).all(tx).await?;
        page.extend(open.into_iter().map(ReportWithPlace::open));
    }
    let left = left_of(limit, &page);
    if left == 0 {
        return Ok(page);
    }
    let mut query = usage_report::Entity::find()
        .filter(unindexed(Column::WindowStart).lte(now))
        .order_by_asc(Column::Number)
        .limit(left);
    if let Some(after) = after_number {
        query = query.filter(Column::Number.gt(after));
    }
    let mut unsent = in_states(tx, query, &[State::Closed, State::Sending]).await?;
    unsent.sort_unstable_by_key(|row| row.number);
    page.extend(unsent.into_iter().map(ReportWithPlace::closed));
    page.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(page)
}

/// The id, as an expression that no index has: both engines would read an index of ids in order, rather than sort the few
/// that another index finds.
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
