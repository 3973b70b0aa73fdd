//! What verification reads and records: which days of which customers hold something that Stripe's totals were not
//! seen to contain, and what was found.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, DatabaseTransaction, DbErr, EntityTrait as _, FromQueryResult,
    QueryFilter as _, QueryOrder as _, QuerySelect as _, Statement,
    sea_query::{Expr, OnConflict},
};

use super::{Store, reports::Report};
use crate::{
    domain::stream::Stream,
    domain::{
        Millis,
        report::{State, Transition},
        verification::Finding,
        window::Interval,
    },
    entity::{
        usage_report::{self, Column},
        verification,
    },
    error::Result,
};

/// How many events of one customer, meter and range of days are read.
pub(crate) const EVENTS_READ: u64 = 20_000;

/// A day with something to settle.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct UnverifiedDay {
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
pub(crate) type VerifiedDay = verification::Model;

/// What is to be recorded of a customer's day.
#[derive(Debug)]
pub(crate) struct DayVerification {
    /// The customer and meter.
    pub(crate) stream: Stream,
    /// The day's first moment.
    pub(crate) day: Millis,
    /// What we say Stripe took.
    pub(crate) ours: i64,
    /// What it holds, where it says so.
    pub(crate) stripes: Option<i64>,
    /// What that means.
    pub(crate) finding: Finding,
    /// What happened to single reports.
    pub(crate) happened: Vec<(Report, Transition)>,
    /// What was found before.
    pub(crate) before: Option<VerifiedDay>,
}

impl DayVerification {
    /// Whether something else was found before.
    pub(crate) fn is_news(&self) -> bool {
        self.before.as_ref().is_none_or(|before| {
            (before.ours, before.stripes, before.state.as_str())
                != (self.ours, self.stripes, self.finding.name())
        })
    }
}

impl Store {
    /// Days after the stream given whose events are not all confirmed, in the order of streams and days.
    pub(crate) async fn unverified_days(
        &self,
        after: Option<&Stream>,
        since: Millis,
        limit: u64,
    ) -> Result<Vec<UnverifiedDay>> {
        let (customer, meter) = after.map_or(("", ""), |stream| (&stream.customer, &stream.meter));
        // Written out as the partial index says it: the engines see no bound values in a condition.
        let sql = "SELECT customer, meter, (event_timestamp / 86400000) * 86400000 AS day, \
             MIN(CASE WHEN state = 'accepted' THEN reported_at END) AS oldest_at \
             FROM usage_reports WHERE state IN ('accepted', 'missing') AND event_timestamp >= $1 \
             AND (customer, meter) > ($2, $3) \
             GROUP BY customer, meter, (event_timestamp / 86400000) * 86400000 \
             ORDER BY customer, meter, day LIMIT $4";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = [since.into(), customer.into(), meter.into(), limit.into()];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        Ok(UnverifiedDay::find_by_statement(statement)
            .all(&self.reader)
            .await?)
    }

    /// What was found before of a stream's days.
    pub(crate) async fn verifications(
        &self,
        stream: &Stream,
        days: Interval,
    ) -> Result<Vec<VerifiedDay>> {
        Ok(verification::Entity::find()
            .filter(verification::Column::Customer.eq(&stream.customer))
            .filter(verification::Column::Meter.eq(&stream.meter))
            .filter(verification::Column::Day.gte(days.start))
            .filter(verification::Column::Day.lt(days.end))
            .all(&self.reader)
            .await?)
    }

    /// The events of a stream in a range, by their timestamps.
    pub(crate) async fn stream_events(
        &self,
        stream: &Stream,
        range: Interval,
    ) -> Result<Vec<Report>> {
        Ok(usage_report::Entity::find()
            .filter(Column::Customer.eq(&stream.customer))
            .filter(Column::Meter.eq(&stream.meter))
            .filter(Column::EventTimestamp.gte(range.start))
            .filter(Column::EventTimestamp.lt(range.end))
            .order_by_asc(Column::EventTimestamp)
            .limit(EVENTS_READ)
            .all(&self.reader)
            .await?)
    }

    /// Records what was found of a day and what it means for its reports; what changed meanwhile stays.
    pub(crate) async fn record_verification(
        &self,
        found: &DayVerification,
        now: Millis,
    ) -> Result<()> {
        use verification::Column as S;
        let tx = self.begin().await?;
        let mut in_order: Vec<&(Report, Transition)> = found.happened.iter().collect();
        in_order.sort_unstable_by_key(|(report, _)| report.id);
        for (report, event) in in_order {
            record_results(&tx, report, event, now).await?;
        }
        let changed_at = match &found.before {
            Some(before) if !found.is_news() => before.changed_at,
            _ => now,
        };
        let row = verification::ActiveModel {
            customer: Set(found.stream.customer.clone()),
            meter: Set(found.stream.meter.clone()),
            day: Set(found.day),
            ours: Set(found.ours),
            stripes: Set(found.stripes),
            state: Set(found.finding.name().to_owned()),
            changed_at: Set(changed_at),
            verified_at: Set(now),
        };
        let again = OnConflict::columns([S::Customer, S::Meter, S::Day])
            .update_columns([S::Ours, S::Stripes, S::State, S::ChangedAt, S::VerifiedAt])
            .to_owned();
        verification::Entity::insert(row)
            .on_conflict(again)
            .exec_without_returning(&tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}

async fn record_results(
    tx: &DatabaseTransaction,
    report: &Report,
    event: &Transition,
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
