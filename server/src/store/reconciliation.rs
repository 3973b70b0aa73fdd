//! What reconciliation reads: accounts that are or were billed, their periods, and their reports in a time.

use sea_orm::{
    ColumnTrait as _, Condition, EntityTrait as _, FromQueryResult, QueryFilter as _,
    QueryOrder as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, Func},
};

use super::{Store, boundaries::read_links};
use crate::{
    domain::stream::Stream,
    domain::{HOUR_MS, Millis, account::Link, report::State, window::Interval},
    entity::{
        account_link, billing_period,
        usage_report::{self, Column},
    },
    error::Result,
};

/// Billing periods of an account that are looked at.
const PERIODS_READ: u64 = 1_000;
/// How far an event may lie behind its window's start without being billed elsewhere.
const AROUND_MS: Millis = 2 * HOUR_MS;

/// A billing period, and the meter it is of where that is known.
pub(crate) type KnownPeriod = (Interval, Option<String>);

/// What reconciliation needs of a report.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct ReportFigure {
    pub(crate) meter: String,
    pub(crate) state: String,
    pub(crate) quantity: i64,
    pub(crate) customer: Option<String>,
    pub(crate) window_start: Millis,
    pub(crate) first_at: Millis,
    pub(crate) bill_at: Option<Millis>,
    pub(crate) event_timestamp: Option<Millis>,
}

impl ReportFigure {
    /// The moment that says which period it is billed in.
    pub(crate) fn moment(&self) -> Millis {
        match (self.event_timestamp, self.bill_at) {
            // Where a window holds no whole second of its own, the event's second begins before it.
            (Some(stamp), _) => Ord::max(stamp, self.window_start),
            (None, Some(bill_at)) => bill_at,
            (None, None) => self.first_at,
        }
    }
}

impl Store {
    /// Accounts that are or were billed, by id, after the one given.
    pub(crate) async fn billed_accounts(&self, after: &str, limit: u64) -> Result<Vec<String>> {
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

    /// An account's links, oldest first, and its billing periods that overlap a time.
    pub(crate) async fn links_and_periods(
        &self,
        account_id: &str,
        time: Interval,
    ) -> Result<(Vec<Link>, Vec<KnownPeriod>)> {
        let links = read_links(&self.reader, std::iter::once(account_id))
            .await?
            .remove(account_id)
            .unwrap_or_default();
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

    /// An account's reports that may be billed in a time.
    pub(crate) async fn figures(
        &self,
        account_id: &str,
        time: Interval,
    ) -> Result<Vec<ReportFigure>> {
        let in_window = Condition::all()
            .add(Column::WindowStart.gte(time.start.saturating_sub(AROUND_MS)))
            .add(Column::WindowStart.lt(time.end));
        Ok(usage_report::Entity::find()
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
            .into_model::<ReportFigure>()
            .all(&self.reader)
            .await?)
    }

    /// What Stripe took with timestamps in a range that is not the account's usage of a period: other accounts'
    /// that had the customer, and in the minutes around the period's edges the periods' beside it.
    pub(crate) async fn reported_beside(
        &self,
        stream: &Stream,
        account_id: &str,
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
            .filter(Column::State.is_in(State::REPORTED.map(State::name)))
            .filter(Column::EventTimestamp.gte(range.start))
            .filter(Column::EventTimestamp.lt(range.end))
            .filter(Condition::any().add(of_others).add(is_outside))
            .into_tuple()
            .one(&self.reader)
            .await?;
        Ok(sum.flatten().unwrap_or(0))
    }
}
