//! Queries of the command `doctor`. They only read.

use std::collections::{BTreeSet, HashMap, HashSet};

use sea_orm::{
    ColumnTrait as _, Condition, DbErr, EntityTrait as _, FromQueryResult, QueryFilter as _,
    QueryOrder as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, Func, Query},
};

use super::{
    Store,
    database_clock::MAX_WAIT_MS,
    report_states::{is_due, is_in_state},
};
use crate::{
    domain::{
        MINUTE_MS, Millis,
        account_id::AccountId,
        clock_check::DOUBT_MS,
        report::{Report, State},
    },
    entity::{
        account_link, customer, lease,
        report_run::{self, ReportRunTrigger},
        subscription, unfolded_report, usage_report,
    },
    error::Result,
};

/// The maximum number of accounts that are named per group.
const MAX_NAMED: usize = 16;
/// The maximum number of linked customers that are read.
pub(crate) const MAX_LINKED_CUSTOMERS: usize = 50_000;
/// The number of customers in one statement.
const CUSTOMERS_PER_QUERY: usize = 1_000;
/// The customers that are read at once, and then their links.
const CUSTOMERS_PER_PAGE: u64 = 1_000;
/// A run without a heartbeat for this long counts as unfinished.
const UNFINISHED_MS: Millis = 5 * MINUTE_MS;

/// A group of reports.
#[derive(Clone, Debug)]
pub(crate) enum ReportGroup {
    /// Reports in a state.
    InState(State),
    /// Reports of accounts without a link.
    WithoutLink,
    /// Reports not yet accepted by Stripe whose first increment is from this time or earlier.
    NotSentSince(Millis),
}

/// The totals of a group of reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupTotals {
    /// The number of accounts.
    pub(crate) accounts: usize,
    /// The number of reports.
    pub(crate) reports: i64,
    /// The sum of their quantities.
    pub(crate) quantity: i64,
    /// The time of the oldest increment.
    pub(crate) oldest: Option<Millis>,
    /// The first accounts, ordered by id.
    pub(crate) first: Vec<AccountId>,
    /// One of Stripe's error messages.
    pub(crate) error: Option<String>,
}

#[derive(Debug, FromQueryResult)]
struct Sums {
    accounts: i64,
    reports: i64,
    quantity: Option<i64>,
    oldest: Option<Millis>,
    error: Option<String>,
}

impl GroupTotals {
    /// The totals of these reports.
    pub(crate) fn of(reports: &[Report]) -> Self {
        let accounts: BTreeSet<&AccountId> =
            reports.iter().map(|report| &report.account_id).collect();
        let quantities = reports.iter().map(|report| report.quantity);
        let errors = reports
            .iter()
            .filter_map(|report| report.last_error.as_ref());
        Self {
            accounts: accounts.len(),
            reports: i64::try_from(reports.len()).unwrap_or(i64::MAX),
            quantity: quantities.fold(0, i64::saturating_add),
            oldest: reports.iter().map(|report| report.first_at).min(),
            first: accounts.into_iter().take(MAX_NAMED).cloned().collect(),
            error: errors.max().cloned(),
        }
    }
}

/// A Stripe customer that an account is linked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkedCustomer {
    /// The Stripe customer.
    pub(crate) customer: String,
    /// The account.
    pub(crate) account_id: AccountId,
    /// Whether its subscription has ended as requested here, so that nothing is to be billed to it.
    pub(crate) has_ended: bool,
}

/// The state of the report schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastRun {
    /// The next run is the first one after this; `None` if no server has ever run the schedule.
    pub(crate) due_after: Option<Millis>,
    /// When the last scheduled run began.
    pub(crate) started_at: Option<Millis>,
    /// Runs that have not ended and have no recent heartbeat.
    pub(crate) unfinished: usize,
}

impl Store {
    /// The totals of a group of reports, and its first accounts.
    pub(crate) async fn group_totals(&self, group: &ReportGroup) -> Result<GroupTotals> {
        use unfolded_report::Column;
        let which = condition(group);
        let sums = unfolded_report::Entity::find()
            .select_only()
            .column_as(
                Expr::expr(Func::count_distinct(Expr::col(Column::AccountId))),
                "accounts",
            )
            .column_as(Column::Id.count(), "reports")
            .column_as(
                Func::sum(Expr::col(Column::Quantity)).cast_as("bigint"),
                "quantity",
            )
            .column_as(Column::FirstAt.min(), "oldest")
            .column_as(Column::LastError.max(), "error")
            .filter(which.clone())
            .into_model::<Sums>()
            .one(&self.reader)
            .await?;
        let first = unfolded_report::Entity::find()
            .select_only()
            .column(Column::AccountId)
            .distinct()
            .filter(which)
            .order_by_asc(Column::AccountId)
            .limit(u64::try_from(MAX_NAMED).unwrap_or(u64::MAX))
            .into_tuple()
            .all(&self.reader)
            .await?;
        let sums = sums.ok_or_else(|| DbErr::RecordNotFound("an aggregate".to_owned()))?;
        Ok(GroupTotals {
            accounts: usize::try_from(sums.accounts).unwrap_or(usize::MAX),
            reports: sums.reports,
            quantity: sums.quantity.unwrap_or(0),
            oldest: sums.oldest,
            first,
            error: sums.error,
        })
    }

    /// The customers that accounts are linked to, at most [`MAX_LINKED_CUSTOMERS`]. Customers whose subscription was
    /// ended here come last.
    ///
    /// The links are read apart from the customers, because a distributed database has them elsewhere.
    pub(crate) async fn linked_customers(&self) -> Result<Vec<LinkedCustomer>> {
        let (mut linked, mut ended) = (Vec::new(), Vec::new());
        let mut last = String::new();
        while linked.len() < MAX_LINKED_CUSTOMERS {
            let page = self.customers_after(&last).await?;
            let Some(end) = page.last() else { break };
            last.clone_from(&end.customer);
            let with_end = self
                .accounts_with_requested_end(page.iter().map(|row| &row.account_id))
                .await?;
            for row in page {
                let has_ended = with_end.contains(&row.account_id);
                let of_kind = if has_ended { &mut ended } else { &mut linked };
                of_kind.push(LinkedCustomer {
                    customer: row.customer,
                    account_id: row.account_id,
                    has_ended,
                });
            }
        }
        linked.extend(ended);
        linked.truncate(MAX_LINKED_CUSTOMERS);
        linked.sort_by(|left, right| {
            let order = |one: &LinkedCustomer| (one.has_ended, one.account_id.clone());
            order(left).cmp(&order(right))
        });
        Ok(linked)
    }

    /// The next customers after the given one.
    async fn customers_after(&self, last: &str) -> Result<Vec<customer::Model>> {
        Ok(customer::Entity::find()
            .filter(customer::Column::Customer.gt(last))
            .order_by_asc(customer::Column::Customer)
            .limit(CUSTOMERS_PER_PAGE)
            .all(&self.reader)
            .await?)
    }

    /// Which of some accounts have a link whose end was requested here, and no later one.
    async fn accounts_with_requested_end(
        &self,
        accounts: impl Iterator<Item = &AccountId>,
    ) -> Result<HashSet<AccountId>> {
        let links: Vec<(AccountId, i64, bool)> = account_link::Entity::find()
            .select_only()
            .column(account_link::Column::AccountId)
            .column(account_link::Column::Version)
            .column(account_link::Column::EndRequested)
            .filter(account_link::Column::AccountId.is_in(accounts))
            .into_tuple()
            .all(&self.reader)
            .await?;
        let mut newest: HashMap<AccountId, (i64, bool)> = HashMap::new();
        for (account, version, is_requested) in links {
            let known = newest.entry(account).or_default();
            *known = Ord::max(*known, (version, is_requested));
        }
        let with_end = newest
            .into_iter()
            .filter(|(_, (_, is_requested))| *is_requested);
        Ok(with_end.map(|(account, _)| account).collect())
    }

    /// The customers with usage of a meter since a time.
    pub(crate) async fn customers_with_usage(
        &self,
        meter: &str,
        customers: &[&str],
        since: Millis,
    ) -> Result<Vec<String>> {
        use usage_report::Column;
        let link = |column| Expr::col((account_link::Entity, column));
        let report = |column| Expr::col((usage_report::Entity, column));
        // Reports are found by the accounts that have or had the customer. The offset keeps PostgreSQL from joining, for
        // which it would read every report.
        let usage = Query::select()
            .expr(Expr::val(1))
            .from(usage_report::Entity)
            .and_where(report(Column::AccountId).eq(link(account_link::Column::AccountId)))
            .and_where(report(Column::Customer).eq(link(account_link::Column::Customer)))
            .and_where(Column::Meter.eq(meter))
            .and_where(Column::WindowStart.gte(since))
            .and_where(Column::Quantity.ne(0))
            .limit(1)
            .offset(0)
            .to_owned();
        let mut found = Vec::new();
        for chunk in customers.chunks(CUSTOMERS_PER_QUERY) {
            let page: Vec<String> = account_link::Entity::find()
                .select_only()
                .column(account_link::Column::Customer)
                .distinct()
                .filter(account_link::Column::Customer.is_in(chunk.iter().copied()))
                .filter(Expr::exists(usage.clone()))
                .into_tuple()
                .all(&self.reader)
                .await?;
            found.extend(page);
        }
        Ok(found)
    }

    /// The time of the database's clock.
    pub(crate) async fn database_clock(&self) -> Result<Millis> {
        self.read_database_clock().await
    }

    /// The tables with a time in the future that would delay work.
    pub(crate) async fn times_ahead(&self, now: Millis) -> Result<Vec<&'static str>> {
        let limit = now.saturating_add(DOUBT_MS);
        let far = now.saturating_add(MAX_WAIT_MS);
        let mut tables = Vec::new();
        let jobs = lease::Entity::find().filter(lease::Column::LastRunAt.gt(limit));
        if jobs.one(&self.reader).await?.is_some() {
            tables.push("leases");
        }
        let reports = usage_report::Entity::find()
            .filter(is_due())
            .filter(usage_report::Column::NextAttemptAt.gt(far))
            .order_by_desc(usage_report::Column::NextAttemptAt);
        if reports.one(&self.reader).await?.is_some() {
            tables.push("usage_reports");
        }
        let subscriptions = subscription::Entity::find()
            .filter(subscription::Column::EndedAt.is_null())
            .filter(subscription::Column::SyncedAt.gt(limit))
            // In the order of the index, which PostgreSQL and SQLite with statistics would not use otherwise.
            .order_by_desc(subscription::Column::SyncedAt);
        let requested = subscription::Entity::find()
            .filter(subscription::Column::SyncRequestedAt.gt(far))
            .order_by_asc(subscription::Column::SyncRequestedAt);
        if subscriptions.one(&self.reader).await?.is_some()
            || requested.one(&self.reader).await?.is_some()
        {
            tables.push("subscriptions");
        }
        Ok(tables)
    }

    /// The state of the report schedule. It writes nothing.
    pub(crate) async fn last_scheduled_run(&self, job: &str, now: Millis) -> Result<LastRun> {
        let lease = lease::Entity::find_by_id(job).one(&self.reader).await?;
        let last = report_run::Entity::find()
            .filter(report_run::Column::Trigger.eq(ReportRunTrigger::Schedule))
            .order_by_desc(report_run::Column::StartedAt)
            .one(&self.reader)
            .await?;
        let unfinished = self
            .abandoned_runs(now.saturating_sub(UNFINISHED_MS))
            .await?;
        Ok(LastRun {
            due_after: lease.and_then(|row| row.last_run_at),
            started_at: last.map(|run| run.started_at),
            unfinished: unfinished.len(),
        })
    }
}

fn condition(group: &ReportGroup) -> Condition {
    use unfolded_report::Column;
    match group {
        ReportGroup::InState(state) => Condition::all().add(is_in_state(&[*state])),
        ReportGroup::WithoutLink => {
            let link = Query::select()
                .expr(Expr::val(1))
                .from(account_link::Entity)
                .and_where(
                    Expr::col((account_link::Entity, account_link::Column::AccountId))
                        .equals((unfolded_report::Entity, Column::AccountId)),
                )
                .to_owned();
            Condition::all()
                .add(is_in_state(&[State::Open, State::NoCustomer]))
                .add(Expr::exists(link).not())
        }
        ReportGroup::NotSentSince(moment) => Condition::all()
            .add(is_in_state(&State::NOT_SENT))
            .add(Column::FirstAt.lte(*moment)),
    }
}
