//! What settling reads and records: which days of which customers hold something that Stripe's totals were not
//! seen to contain, and what was found.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, DatabaseTransaction, DbErr, EntityTrait as _, FromQueryResult,
    QueryFilter as _, QueryOrder as _, QuerySelect as _, Statement,
    sea_query::{Expr, OnConflict},
};

use super::{Store, reports::Report, send::Lane};
use crate::{
    entity::{
        settlement,
        usage_report::{self, Column},
    },
    error::Result,
    usage::{
        Millis,
        report::{Event, State},
        settling::Finding,
        window::Interval,
    },
};

/// How many events of one customer, meter and range of days are read.
pub(crate) const EVENTS_READ: u64 = 20_000;

/// A day with something to settle.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct UnsettledDay {
    /// The Stripe customer.
    pub(crate) customer: String,
    /// The meter.
    pub(crate) meter: String,
    /// The day's first moment.
    pub(crate) day: Millis,
    /// When the first of what is not confirmed was taken; absent where all of it is short.
    pub(crate) oldest_at: Option<Millis>,
}

/// What was found before.
pub(crate) type Settled = settlement::Model;

/// What is to be recorded of a customer's day.
#[derive(Debug)]
pub(crate) struct DaySettled {
    /// The customer and meter.
    pub(crate) lane: Lane,
    /// The day's first moment.
    pub(crate) day: Millis,
    /// What we say Stripe took.
    pub(crate) ours: i64,
    /// What it holds, where it says so.
    pub(crate) stripes: Option<i64>,
    /// What that means.
    pub(crate) finding: Finding,
    /// What happened to single reports.
    pub(crate) happened: Vec<(Report, Event)>,
    /// What was found before.
    pub(crate) before: Option<Settled>,
}

impl DaySettled {
    /// Whether something else was found before.
    pub(crate) fn is_news(&self) -> bool {
        self.before.as_ref().is_none_or(|before| {
            (before.ours, before.stripes, before.state.as_str())
                != (self.ours, self.stripes, self.finding.name())
        })
    }
}

impl Store {
    /// Days after the lane given whose events are not all confirmed, in the order of lanes and days.
    pub(crate) async fn unsettled_days(
        &self,
        after: Option<&Lane>,
        since: Millis,
        limit: u64,
    ) -> Result<Vec<UnsettledDay>> {
        let (customer, meter) = after.cloned().unwrap_or_default();
        // Written out as the partial index says it: the engines see no bound values in a condition.
        let sql = "SELECT customer, meter, (event_timestamp / 86400000) * 86400000 AS day, \
             MIN(CASE WHEN state = 'accepted' THEN reported_at END) AS oldest_at \
             FROM usage_reports WHERE state IN ('accepted', 'short') AND event_timestamp >= $1 \
             AND (customer, meter) > ($2, $3) \
             GROUP BY customer, meter, (event_timestamp / 86400000) * 86400000 \
             ORDER BY customer, meter, day LIMIT $4";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = [since.into(), customer.into(), meter.into(), limit.into()];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        Ok(UnsettledDay::find_by_statement(statement)
            .all(&self.reader)
            .await?)
    }

    /// What was found before of a lane's days.
    pub(crate) async fn settlements(&self, lane: &Lane, days: Interval) -> Result<Vec<Settled>> {
        Ok(settlement::Entity::find()
            .filter(settlement::Column::Customer.eq(&lane.0))
            .filter(settlement::Column::Meter.eq(&lane.1))
            .filter(settlement::Column::Day.gte(days.start))
            .filter(settlement::Column::Day.lt(days.end))
            .all(&self.reader)
            .await?)
    }

    /// The events of a lane in a range, by their timestamps.
    pub(crate) async fn lane_events(&self, lane: &Lane, range: Interval) -> Result<Vec<Report>> {
        Ok(usage_report::Entity::find()
            .filter(Column::Customer.eq(&lane.0))
            .filter(Column::Meter.eq(&lane.1))
            .filter(Column::EventTimestamp.gte(range.start))
            .filter(Column::EventTimestamp.lt(range.end))
            .order_by_asc(Column::EventTimestamp)
            .limit(EVENTS_READ)
            .all(&self.reader)
            .await?)
    }

    /// Records what was found of a day and what it means for its reports; what changed meanwhile stays.
    pub(crate) async fn record_settlement(&self, found: &DaySettled, now: Millis) -> Result<()> {
        use settlement::Column as S;
        let tx = self.begin().await?;
        let mut in_order: Vec<&(Report, Event)> = found.happened.iter().collect();
        in_order.sort_unstable_by_key(|(report, _)| report.id);
        for (report, event) in in_order {
            settle_report(&tx, report, event, now).await?;
        }
        let changed_at = match &found.before {
            Some(before) if !found.is_news() => before.changed_at,
            _ => now,
        };
        let row = settlement::ActiveModel {
            customer: Set(found.lane.0.clone()),
            meter: Set(found.lane.1.clone()),
            day: Set(found.day),
            ours: Set(found.ours),
            stripes: Set(found.stripes),
            state: Set(found.finding.name().to_owned()),
            changed_at: Set(changed_at),
            settled_at: Set(now),
        };
        let again = OnConflict::columns([S::Customer, S::Meter, S::Day])
            .update_columns([S::Ours, S::Stripes, S::State, S::ChangedAt, S::SettledAt])
            .to_owned();
        settlement::Entity::insert(row)
            .on_conflict(again)
            .exec_without_returning(&tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}

async fn settle_report(
    tx: &DatabaseTransaction,
    report: &Report,
    event: &Event,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    let Some(next) = State::from_name(&report.state).and_then(|state| state.after(event)) else {
        return Ok(());
    };
    let is_confirmed = next == State::Confirmed;
    let error = (!is_confirmed)
        .then_some("Stripe took it, and a day later its totals still lack it".to_owned());
    usage_report::Entity::update_many()
        .filter(Column::AccountId.eq(report.account_id.as_str()))
        .filter(Column::Id.eq(report.id))
        .filter(Column::State.eq(report.state.as_str()))
        .filter(Column::Generation.eq(report.generation))
        .col_expr(Column::State, Expr::value(next.name()))
        .col_expr(
            Column::ConfirmedAt,
            Expr::value(is_confirmed.then_some(now)),
        )
        .col_expr(Column::LastError, Expr::value(error))
        .exec(tx)
        .await
        .map(|_| ())
}
