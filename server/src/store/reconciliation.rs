//! Queries of reconciliation: accounts that are or were billed, their billing periods, and their reports.

use sea_orm::{
    ColumnTrait as _, Condition, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, Func},
};

use super::{Store, links::read_links_of};
use crate::{
    domain::{
        HOUR_MS, Millis, account::Link, account_id::AccountId, report::State, stream::Stream,
        window::Interval,
    },
    entity::{
        account_link, billing_period,
        usage_report::{self, Column, UsageReportState},
    },
    error::Result,
};

/// The maximum number of billing periods that are read per account.
const PERIODS_READ: u64 = 1_000;
/// How much later than its window's start an event may be while it is billed in the same period.
const AROUND_MS: Millis = 2 * HOUR_MS;

/// A billing period, and its meter if it is known.
pub(crate) type KnownPeriod = (Interval, Option<String>);

/// The parts of a report that reconciliation needs.
#[derive(Clone, Debug)]
pub(crate) struct ReportFigure {
    pub(crate) meter: String,
    pub(crate) state: State,
    pub(crate) quantity: i64,
    pub(crate) customer: Option<String>,
    pub(crate) window_start: Millis,
    pub(crate) first_at: Millis,
    pub(crate) bill_at: Option<Millis>,
    pub(crate) event_timestamp: Option<Millis>,
}

/// The columns of a [`ReportFigure`], in its order.
type FigureColumns = (
    String,
    UsageReportState,
    i64,
    Option<String>,
    Millis,
    Millis,
    Option<Millis>,
    Option<Millis>,
);

impl From<FigureColumns> for ReportFigure {
    fn from(columns: FigureColumns) -> Self {
        let (meter, state, quantity, customer, window_start, first_at, bill_at, event_timestamp) =
            columns;
        Self {
            meter,
            state: state.into(),
            quantity,
            customer,
            window_start,
            first_at,
            bill_at,
            event_timestamp,
        }
    }
}

impl ReportFigure {
    /// The time that decides the billing period.
    pub(crate) fn moment(&self) -> Millis {
        match (self.event_timestamp, self.bill_at) {
            // If a window contains no whole second, the event's second begins before it.
            (Some(stamp), _) => Ord::max(stamp, self.window_start),
            (None, Some(bill_at)) => bill_at,
            (None, None) => self.first_at,
        }
    }
}

impl Store {
    /// Accounts that are or were billed, ordered by id, after the given one.
    pub(crate) async fn billed_accounts(&self, after: &str, limit: u64) -> Result<Vec<AccountId>> {
        Ok(account_link::Entity::find()
            .select_only()
            .column(account_link::Column::AccountId)
            .distinct()
            .filter(account_link::Column::Customer.is_not_null())
            .filter(account_link::Column::AccountId.gt(after))
            .order_by_asc(account_link::Column::AccountId)
            .limit(limit)
            .into_tuple()
            .all(&self.reader)
            .await?)
    }

    /// An account's links, oldest first, and its billing periods that overlap an interval.
    pub(crate) async fn links_and_periods(
        &self,
        account_id: &AccountId,
        time: Interval,
    ) -> Result<(Vec<Link>, Vec<KnownPeriod>)> {
        let links = read_links_of(&self.reader, account_id).await?;
        let periods = billing_period::Entity::find()
            .filter(billing_period::Column::AccountId.eq(account_id))
            .filter(billing_period::Column::PeriodStart.lt(time.end))
            .filter(billing_period::Column::PeriodEnd.gt(time.start))
            .order_by_asc(billing_period::Column::PeriodStart)
            .limit(PERIODS_READ)
            .all(&self.reader)
            .await?
            .into_iter()
            .map(|row| {
                let period = Interval {
                    start: row.period_start,
                    end: row.period_end,
                };
                (period, row.meter)
            })
            .collect();
        Ok((links, periods))
    }

    /// An account's reports that may be billed in an interval.
    pub(crate) async fn figures(
        &self,
        account_id: &AccountId,
        time: Interval,
    ) -> Result<Vec<ReportFigure>> {
        let in_window = Condition::all()
            .add(Column::WindowStart.gte(time.start.saturating_sub(AROUND_MS)))
            .add(Column::WindowStart.lt(time.end));
        let rows: Vec<FigureColumns> = usage_report::Entity::find()
            .select_only()
            .columns([
                Column::Meter,
                Column::State,
                Column::Quantity,
                Column::Customer,
                Column::WindowStart,
                Column::FirstAt,
                Column::BillAt,
                Column::EventTimestamp,
            ])
            .filter(Column::AccountId.eq(account_id))
            .filter(
                Condition::any()
                    .add(in_window)
                    .add(Column::BillAt.gte(time.start)),
            )
            .into_tuple()
            .all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(ReportFigure::from).collect())
    }

    /// The accepted total in a range that does not belong to the account's usage of a period: usage of other accounts
    /// that had the customer, and usage of the adjacent periods around the period's edges.
    pub(crate) async fn reported_beside(
        &self,
        stream: &Stream,
        account_id: &AccountId,
        range: Interval,
        period: Interval,
    ) -> Result<i64> {
        let of_others = Column::AccountId.ne(account_id);
        let moment = || {
            // The later of the two, on both engines.
            Expr::case(
                Expr::col(Column::EventTimestamp).gte(Expr::col(Column::WindowStart)),
                Expr::col(Column::EventTimestamp),
            )
            .finally(Expr::col(Column::WindowStart))
        };
        let is_outside = Condition::any()
            .add(Expr::expr(moment()).lt(period.start))
            .add(Expr::expr(moment()).gte(period.end));
        let sum: Option<Option<i64>> = usage_report::Entity::find()
            .select_only()
            .column_as(
                Func::sum(Expr::col(Column::Quantity)).cast_as("bigint"),
                "quantity",
            )
            .filter(Column::Customer.eq(&stream.customer))
            .filter(Column::Meter.eq(&stream.meter))
            .filter(Column::State.is_in(State::REPORTED.map(UsageReportState::from)))
            .filter(Column::EventTimestamp.gte(range.start))
            .filter(Column::EventTimestamp.lt(range.end))
            .filter(Condition::any().add(of_others).add(is_outside))
            .into_tuple()
            .one(&self.reader)
            .await?;
        Ok(sum.flatten().unwrap_or(0))
    }
}
