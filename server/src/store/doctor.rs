//! What the doctor asks of the database: it only reads.

use sea_orm::{
    ColumnTrait as _, Condition, DbErr, EntityTrait as _, FromQueryResult, QueryFilter as _,
    QueryOrder as _, QuerySelect as _,
    sea_query::{Alias, Expr, ExprTrait as _, Func, Query},
};

use super::Store;
use crate::{
    domain::{MINUTE_MS, Millis, account_id::AccountId, report::State},
    entity::{
        account_link,
        billing_period::{self, BillingPeriodInvoiceState},
        customer, lease,
        report_run::{self, ReportRunTrigger},
        usage_report::{self, UsageReportState},
    },
    error::Result,
};

/// Accounts whose names are read.
const NAMED: u64 = 16;
/// Linked customers that are looked at.
pub(crate) const LINKED_READ: u64 = 50_000;
/// Customers that one statement names.
const ASKED_AT_ONCE: usize = 1_000;
/// A run that nobody has worked on for so long is left unfinished.
const UNFINISHED_MS: Millis = 5 * MINUTE_MS;

/// Which reports are meant.
#[derive(Clone, Debug)]
pub(crate) enum Held {
    /// Those in a state.
    In(State),
    /// Those of accounts that nobody has put.
    OfNobody,
    /// Those not at Stripe whose first increment is of this moment or earlier.
    NotSentSince(Millis),
    /// Those not at Stripe whose invoice is a draft until this moment at most.
    NotSentInDraftUntil(Millis),
}

/// What some reports hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    /// Of how many accounts they are.
    pub(crate) accounts: usize,
    /// How many they are.
    pub(crate) reports: i64,
    /// Their quantity.
    pub(crate) quantity: i64,
    /// The time of the first increment of all.
    pub(crate) oldest: Option<Millis>,
    /// A few of the accounts.
    pub(crate) first: Vec<AccountId>,
    /// One of the errors that Stripe answered.
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

/// A customer that an account bills to.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub(crate) struct LinkedCustomer {
    /// The Stripe customer.
    pub(crate) customer: String,
    /// The account.
    pub(crate) account_id: AccountId,
    /// Whether its subscription is known to have ended: nothing is billed to it for now.
    pub(crate) has_ended: bool,
}

/// When the schedule was last synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastRun {
    /// From when the next run is reckoned; `None` where no server has ever looked.
    pub(crate) looked_from: Option<Millis>,
    /// When the last scheduled run began.
    pub(crate) started_at: Option<Millis>,
    /// Runs that nobody works on and that have not ended.
    pub(crate) unfinished: usize,
}

impl Store {
    /// What the reports of a kind hold, and whose they are.
    pub(crate) async fn holding(&self, held: &Held) -> Result<Holding> {
        use usage_report::Column;
        let which = condition(held);
        let sums = usage_report::Entity::find()
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
        let first = usage_report::Entity::find()
            .select_only()
            .column(Column::AccountId)
            .distinct()
            .filter(which)
            .order_by_asc(Column::AccountId)
            .limit(NAMED)
            .into_tuple()
            .all(&self.reader)
            .await?;
        let sums = sums.ok_or_else(|| DbErr::RecordNotFound("an aggregate".to_owned()))?;
        Ok(Holding {
            accounts: usize::try_from(sums.accounts).unwrap_or(usize::MAX),
            reports: sums.reports,
            quantity: sums.quantity.unwrap_or(0),
            oldest: sums.oldest,
            first,
            error: sums.error,
        })
    }

    /// The customers that belong to accounts now, up to [`LINKED_READ`], those that are billed first.
    pub(crate) async fn linked_customers(&self) -> Result<Vec<LinkedCustomer>> {
        let newest = Query::select()
            .expr(Expr::col((Alias::new("newest"), account_link::Column::Version)).max())
            .from_as(account_link::Entity, Alias::new("newest"))
            .and_where(
                Expr::col((Alias::new("newest"), account_link::Column::AccountId))
                    .equals((customer::Entity, customer::Column::AccountId)),
            )
            .to_owned();
        let ended = Query::select()
            .expr(Expr::val(1))
            .from(account_link::Entity)
            .and_where(
                Expr::col((account_link::Entity, account_link::Column::AccountId))
                    .equals((customer::Entity, customer::Column::AccountId)),
            )
            .and_where(account_link::Column::Ended.eq(true))
            .and_where(account_link::Column::Version.in_subquery(newest))
            .to_owned();
        Ok(customer::Entity::find()
            .select_only()
            .column(customer::Column::Customer)
            .column(customer::Column::AccountId)
            .expr_as(Expr::exists(ended), "has_ended")
            .order_by_asc(Expr::col(Alias::new("has_ended")))
            .order_by_asc(customer::Column::AccountId)
            .limit(LINKED_READ)
            .into_model::<LinkedCustomer>()
            .all(&self.reader)
            .await?)
    }

    /// Which of some customers have usage of a meter since a moment that is billed to them.
    pub(crate) async fn customers_with_usage(
        &self,
        meter: &str,
        customers: &[&str],
        since: Millis,
    ) -> Result<Vec<String>> {
        use usage_report::Column;
        let mut found = Vec::new();
        for some in customers.chunks(ASKED_AT_ONCE) {
            let page: Vec<String> = usage_report::Entity::find()
                .select_only()
                .column(Column::Customer)
                .distinct()
                .filter(Column::Customer.is_in(some.iter().copied()))
                .filter(Column::Meter.eq(meter))
                .filter(Column::WindowStart.gte(since))
                .filter(Column::Quantity.ne(0))
                .into_tuple()
                .all(&self.reader)
                .await?;
            found.extend(page);
        }
        Ok(found)
    }

    /// What the database's clock shows.
    pub(crate) async fn database_clock(&self) -> Result<Millis> {
        self.read_database_clock().await
    }

    /// When the schedule was last synced; unlike [`Store::last_run_at`] it notes nothing.
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
            looked_from: lease.and_then(|row| row.last_run_at),
            started_at: last.map(|run| run.started_at),
            unfinished: unfinished.len(),
        })
    }
}

fn condition(held: &Held) -> Condition {
    use usage_report::Column;
    let not_sent = [
        State::Open,
        State::Closed,
        State::Sending,
        State::NoCustomer,
        State::Unknown,
    ];
    let among =
        |states: &[State]| Column::State.is_in(states.iter().copied().map(UsageReportState::from));
    match held {
        Held::In(state) => Condition::all().add(among(&[*state])),
        Held::OfNobody => {
            let link = Query::select()
                .expr(Expr::val(1))
                .from(account_link::Entity)
                .and_where(
                    Expr::col((account_link::Entity, account_link::Column::AccountId))
                        .equals((usage_report::Entity, Column::AccountId)),
                )
                .to_owned();
            Condition::all()
                .add(among(&[State::Open, State::NoCustomer]))
                .add(Expr::exists(link).not())
        }
        Held::NotSentSince(moment) => Condition::all()
            .add(among(&not_sent))
            .add(Column::FirstAt.lte(*moment)),
        Held::NotSentInDraftUntil(moment) => {
            use billing_period::Column as P;
            let period = Query::select()
                .expr(Expr::val(1))
                .from(billing_period::Entity)
                .and_where(
                    Expr::col((billing_period::Entity, P::AccountId))
                        .equals((usage_report::Entity, Column::AccountId)),
                )
                .and_where(P::DraftUntil.lte(*moment))
                .and_where(P::InvoiceState.ne(BillingPeriodInvoiceState::Final))
                .and_where(
                    Expr::col((billing_period::Entity, P::PeriodStart))
                        .lte(Expr::col((usage_report::Entity, Column::WindowStart))),
                )
                .and_where(
                    Expr::col((billing_period::Entity, P::PeriodEnd))
                        .gt(Expr::col((usage_report::Entity, Column::WindowStart))),
                )
                .to_owned();
            Condition::all()
                .add(among(&not_sent))
                .add(Expr::exists(period))
        }
    }
}
