//! Pages of reports, for `ListReports`.

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
    links::accounts_of_customer,
    report_filter::ReportFilter,
    report_place::{OpenPlace, ReportPlace, ReportWithPlace},
    report_states::is_in_state,
};
use crate::{
    domain::{Millis, account_id::AccountId, report::State},
    entity::{
        open_report,
        usage_report::{self, UsageReportState},
    },
    error::Result,
    planted_defects::{Defect, planted},
};

/// Reports of all accounts in one state that are read at most for a page, if most of them may not match.
const MAX_READ: u64 = 5_000;

/// A page of a list.
#[derive(Debug, Default)]
pub(crate) struct ReportList {
    /// The reports, each with the place after which the next page begins.
    pub(crate) reports: Page,
    /// After which place the rest was not read yet, if the page is not full and yet not the last.
    pub(crate) read_to: Option<ReportPlace>,
}

/// A page: the reports, each with the place after which the next page begins.
pub(crate) type Page = Vec<ReportWithPlace>;

impl Store {
    /// Reports after a place: those of one account or customer newest first; of all accounts the open ones in their order,
    /// then the closed ones, the latest closed first.
    pub(crate) async fn list_reports(
        &self,
        filter: &ReportFilter,
        after: Option<&ReportPlace>,
        limit: u64,
    ) -> Result<ReportList> {
        // A report that is closed meanwhile is found once.
        let tx = self.begin_reading().await?;
        let accounts = match (&filter.account_id, &filter.customer) {
            (Some(account), _) => Some(vec![account.clone()]),
            (None, Some(customer)) => Some(accounts_of_customer(&tx, customer).await?),
            (None, None) => None,
        };
        let list = match accounts {
            Some(accounts) => ReportList {
                reports: list_of_accounts(&tx, accounts, filter, after, limit).await?,
                read_to: None,
            },
            None if filter.is_sparse() => list_sparse(&tx, filter, after, limit).await?,
            None => ReportList {
                reports: list_of_all(&tx, filter, after, limit, None).await?,
                read_to: None,
            },
        };
        tx.rollback().await?;
        Ok(list)
    }
}

/// The id after which a page of some accounts' reports begins.
pub(super) fn id_of(place: Option<&ReportPlace>) -> Option<Uuid> {
    match place {
        Some(ReportPlace::Id(id)) => Some(*id),
        _ => None,
    }
}

/// One after the other: a customer has one account at a time, so they are few.
async fn list_of_accounts(
    tx: &Transaction,
    accounts: Vec<AccountId>,
    filter: &ReportFilter,
    after: Option<&ReportPlace>,
    limit: u64,
) -> std::result::Result<Page, DbErr> {
    let mut page = Vec::new();
    for account in accounts {
        page.extend(list_of_account(tx, &account, filter, after, limit).await?);
    }
    page.sort_unstable_by_key(|one| Reverse(one.report.id));
    page.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(page)
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
        if let Some(meter) = &filter.meter {
            query = query.filter(Column::Meter.eq(meter));
        }
        if let Some(from) = filter.from {
            query = query.filter(Column::WindowStart.gte(from));
        }
        if let Some(until) = filter.until {
            query = query.filter(Column::WindowStart.lt(until));
        }
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
    if planted(Defect::PageWithoutLast) && page.len() > 1 {
        page.pop();
    }
    Ok(page)
}

/// A page of all accounts' reports, of which few may match: reads a limited number of them.
async fn list_sparse(
    tx: &Transaction,
    filter: &ReportFilter,
    after: Option<&ReportPlace>,
    limit: u64,
) -> std::result::Result<ReportList, DbErr> {
    let before = number_of(after);
    if before.is_none() && filter.includes_open() {
        let open = open_after(open_report::Entity::find(), open_place(after));
        let read = open.limit(MAX_READ).all(tx).await?;
        let is_last = u64::try_from(read.len()).is_ok_and(|len| len < MAX_READ);
        let read_to = read.last().map(|row| ReportPlace::Open(OpenPlace::of(row)));
        let matching = read.into_iter().filter(|row| filter.matches_open(row));
        let mut reports: Page = matching.map(ReportWithPlace::open).collect();
        if !is_last || left_of(limit, &reports) == 0 {
            reports.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            let read_to = read_to.filter(|_| !is_last);
            return Ok(ReportList { reports, read_to });
        }
        let left = left_of(limit, &reports);
        let closed = list_sparse_closed(tx, filter, None, left).await?;
        reports.extend(closed.reports);
        return Ok(ReportList {
            reports,
            read_to: closed.read_to,
        });
    }
    list_sparse_closed(tx, filter, before, limit).await
}

async fn list_sparse_closed(
    tx: &Transaction,
    filter: &ReportFilter,
    before: Option<i64>,
    limit: u64,
) -> std::result::Result<ReportList, DbErr> {
    let Some(states) = filter.closed_states() else {
        return Ok(ReportList::default());
    };
    let lowest = lowest_read(tx, filter.run_id, before, &states).await?;
    // Above every number, so that only closed reports are read.
    let after = ReportPlace::Closed(before.unwrap_or(i64::MAX));
    let number = lowest.map(|(number, _)| number);
    let reports = list_of_all(tx, filter, Some(&after), limit, number).await?;
    let read_to = lowest.filter(|(_, closed_at)| !filter.is_past(*closed_at));
    Ok(ReportList {
        reports,
        read_to: read_to.map(|(number, _)| ReportPlace::Closed(number)),
    })
}

/// The number of the last report that is read for a page, and when it was closed; `None` if all the rest are read. In no
/// state more than [`MAX_READ`] are.
async fn lowest_read(
    tx: &Transaction,
    run_id: Option<Uuid>,
    before: Option<i64>,
    states: &[State],
) -> std::result::Result<Option<(i64, Millis)>, DbErr> {
    use usage_report::Column;
    let mut query = usage_report::Entity::find()
        .select_only()
        .column(Column::Number)
        .column(Column::ClosedAt)
        .order_by_desc(Column::Number)
        .offset(MAX_READ.saturating_sub(1))
        .limit(1);
    if let Some(before) = before {
        query = query.filter(Column::Number.lt(before));
    }
    if let Some(run) = run_id {
        let of_run = query.filter(Column::RunId.eq(run));
        return of_run.into_tuple().one(tx).await;
    }
    let mut lowest = None;
    for state in closed_states_of(states) {
        let of_state = query.clone().filter(is_in_state(&[state]));
        let last: Option<(i64, Millis)> = of_state.into_tuple().one(tx).await?;
        // What is below it in another state is read again for the next page.
        lowest = Ord::max(lowest, last);
    }
    Ok(lowest)
}

/// With `lowest`, none below this number is read.
async fn list_of_all(
    tx: &Transaction,
    filter: &ReportFilter,
    after: Option<&ReportPlace>,
    limit: u64,
    lowest: Option<i64>,
) -> std::result::Result<Page, DbErr> {
    use usage_report::Column;
    let mut page = Vec::new();
    let before = number_of(after);
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
    if let Some(lowest) = lowest {
        query = query.filter(Column::Number.gte(lowest));
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

/// The number before which a page of closed reports begins.
fn number_of(place: Option<&ReportPlace>) -> Option<i64> {
    match place {
        Some(ReportPlace::Closed(number)) => Some(*number),
        _ => None,
    }
}

pub(super) fn open_place(place: Option<&ReportPlace>) -> Option<&OpenPlace> {
    match place {
        Some(ReportPlace::Open(place)) => Some(place),
        _ => None,
    }
}

pub(super) fn left_of(limit: u64, page: &Page) -> u64 {
    limit.saturating_sub(u64::try_from(page.len()).unwrap_or(u64::MAX))
}

/// The reports that a query with an order and a limit finds in each of some states, or of all if there are none. All at
/// once could not be read in order: every report in these states would be sorted for each page.
pub(super) async fn in_states(
    tx: &Transaction,
    query: Select<usage_report::Entity>,
    states: &[State],
) -> std::result::Result<Vec<usage_report::Model>, DbErr> {
    let mut reports = Vec::new();
    for state in closed_states_of(states) {
        let found = query.clone().filter(is_in_state(&[state]));
        reports.extend(found.all(tx).await?);
    }
    Ok(reports)
}

/// These states of closed reports, or all of them if there are none.
fn closed_states_of(states: &[State]) -> HashSet<State> {
    let any = states.is_empty();
    let all = State::ALL.into_iter();
    let all = all.filter(|state| *state != State::Open);
    all.filter(|state| any || states.contains(state)).collect()
}

/// The id, as an expression that no index has: both engines would read an index of ids in order, rather than sort the few
/// that another index finds.
pub(super) fn without_index_of_ids() -> Expr {
    Expr::cust("COALESCE(id, id)")
}
