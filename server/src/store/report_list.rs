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
    links::accounts_of_customer,
    report_place::{OpenPlace, ReportPlace, ReportWithPlace},
    report_states::{is_due, is_in_state},
    reports::in_scope,
    unindexed,
};
use crate::{
    domain::{
        DAY_MS, Millis,
        account_id::AccountId,
        report::{Kind, State},
        run::Scope,
        window::Interval,
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
    /// Only reports of this meter.
    pub(crate) meter: Option<String>,
    /// Only reports that are billed to this customer; open ones have none.
    pub(crate) customer: Option<String>,
    /// Only reports whose window begins at this time or later.
    pub(crate) from: Option<Millis>,
    /// Only reports whose window begins before this time.
    pub(crate) until: Option<Millis>,
}

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
            && self.customer.is_none()
            && self.kind.is_none_or(|kind| kind == Kind::Usage)
    }

    /// Whether no index of all accounts' reports finds those that match.
    fn is_sparse(&self) -> bool {
        self.meter.is_some() || self.from.is_some() || self.until.is_some()
    }

    /// Whether an open report matches.
    fn matches_open(&self, row: &open_report::Model) -> bool {
        self.meter.as_ref().is_none_or(|meter| *meter == row.meter)
            && self.from.is_none_or(|from| row.window_start >= from)
            && self.until.is_none_or(|until| row.window_start < until)
    }

    /// Whether older reports than one that was closed at a time cannot match: a report is closed after its window has begun.
    fn is_past(&self, closed_at: Millis) -> bool {
        self.from
            .is_some_and(|from| closed_at < from.saturating_sub(DAY_MS))
    }

    /// Whether a report of these windows may match.
    pub(crate) fn reaches(&self, windows: Interval) -> bool {
        self.from.is_none_or(|from| windows.end > from)
            && self.until.is_none_or(|until| windows.start < until)
    }

    /// The states of folded reports that match, none meaning any; `None` if no folded report can.
    pub(crate) fn folded_states(&self) -> Option<Vec<State>> {
        let has_place = self.run_id.is_none() && self.customer.is_none();
        let is_folded = has_place && self.kind.is_none_or(|kind| kind == Kind::Usage);
        self.closed_states().filter(|_| is_folded)
    }

    /// The states of closed reports that match, none meaning any; `None` if no closed report can.
    fn closed_states(&self) -> Option<Vec<State>> {
        let closed = self.states.iter().copied();
        let closed: Vec<State> = closed.filter(|state| *state != State::Open).collect();
        (self.states.is_empty() || !closed.is_empty()).then_some(closed)
    }

    /// Narrows a query of closed reports to all but accounts and states.
    fn narrow(&self, query: Select<usage_report::Entity>) -> Select<usage_report::Entity> {
        use usage_report::Column;
        let query = match self.run_id {
            Some(run) => query.filter(Column::RunId.eq(run)),
            None => query,
        };
        let mut query = match self.kind {
            Some(kind) => query.filter(is_of_kind(kind)),
            None => query,
        };
        if let Some(meter) = &self.meter {
            query = query.filter(Column::Meter.eq(meter));
        }
        if let Some(customer) = &self.customer {
            query = query.filter(Column::Customer.eq(customer));
        }
        if let Some(from) = self.from {
            query = query.filter(unindexed(Column::WindowStart).gte(from));
        }
        if let Some(until) = self.until {
            query = query.filter(unindexed(Column::WindowStart).lt(until));
        }
        query
    }
}

/// The id after which a page of some accounts' reports begins.
fn id_of(place: Option<&ReportPlace>) -> Option<Uuid> {
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

fn open_place(place: Option<&ReportPlace>) -> Option<&OpenPlace> {
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
