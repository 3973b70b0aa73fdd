//! What verification reads and records: the days with events that Stripe's totals were not seen to contain, and
//! what was found.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, DatabaseTransaction, DbErr, EntityTrait as _, FromQueryResult,
    QueryFilter as _, QueryOrder as _, QuerySelect as _, Statement,
    sea_query::{Expr, OnConflict},
};

use super::{Store, rows};
use crate::{
    domain::{
        Millis,
        report::{Report, State, Transition},
        stream::Stream,
        verification::{Finding, VerifiedDay},
        window::Interval,
    },
    entity::{
        usage_report::{self, Column, UsageReportState},
        verification,
    },
    error::Result,
};

/// How many events of one customer, meter and range of days are read.
pub(crate) const EVENTS_READ: u64 = 20_000;

/// A day with events to verify.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct UnverifiedDay {
    /// The Stripe customer.
    pub(crate) customer: String,
    /// The meter.
    pub(crate) meter: String,
    /// The day's first moment.
    pub(crate) day: Millis,
    /// When the first of the accepted events was accepted; absent where all are missing.
    pub(crate) oldest_at: Option<Millis>,
}

/// What is to be recorded of a customer's day.
#[derive(Debug)]
pub(crate) struct DayVerification {
    /// The customer and meter.
    pub(crate) stream: Stream,
    /// The day's first moment.
    pub(crate) day: Millis,
    /// The total of what we sent and Stripe accepted.
    pub(crate) sent_total: i64,
    /// Stripe's total; nothing where it is not a whole number.
    pub(crate) stripe_total: Option<i64>,
    /// What their difference means.
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
            (before.sent_total, before.stripe_total, before.finding)
                != (self.sent_total, self.stripe_total, self.finding)
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
        // State names are written out: the engines use a partial index only for a condition without bound values.
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
        let days = verification::Entity::find()
            .filter(verification::Column::Customer.eq(&stream.customer))
            .filter(verification::Column::Meter.eq(&stream.meter))
            .filter(verification::Column::Day.gte(days.start))
            .filter(verification::Column::Day.lt(days.end))
            .all(&self.reader)
            .await?;
        Ok(rows::all(days))
    }

    /// The events of a stream in a range, by their timestamps.
    pub(crate) async fn stream_events(
        &self,
        stream: &Stream,
        range: Interval,
    ) -> Result<Vec<Report>> {
        let events = usage_report::Entity::find()
            .filter(Column::Customer.eq(&stream.customer))
            .filter(Column::Meter.eq(&stream.meter))
            .filter(Column::EventTimestamp.gte(range.start))
            .filter(Column::EventTimestamp.lt(range.end))
            .order_by_asc(Column::EventTimestamp)
            .limit(EVENTS_READ)
            .all(&self.reader)
            .await?;
        Ok(rows::all(events))
    }

    /// Records what was found for a day, and the transitions of its reports; a report that changed meanwhile stays.
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
            sent_total: Set(found.sent_total),
            stripe_total: Set(found.stripe_total),
            finding: Set(found.finding.into()),
            changed_at: Set(changed_at),
            verified_at: Set(now),
        };
        let again = OnConflict::columns([S::Customer, S::Meter, S::Day])
            .update_columns([
                S::SentTotal,
                S::StripeTotal,
                S::Finding,
                S::ChangedAt,
                S::VerifiedAt,
            ])
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
    let Some(next) = report.state.after(event) else {
        return Ok(());
    };
    let is_confirmed = next == State::Confirmed;
    let error = (!is_confirmed)
        .then_some("Stripe accepted it, but a day later its totals do not contain it".to_owned());
    usage_report::Entity::update_many()
        .filter(Column::AccountId.eq(&report.account_id))
        .filter(Column::Id.eq(report.id))
        .filter(Column::State.eq(UsageReportState::from(report.state)))
        .filter(Column::Generation.eq(report.generation))
        .col_expr(Column::State, Expr::value(UsageReportState::from(next)))
        .col_expr(
            Column::ConfirmedAt,
            Expr::value(is_confirmed.then_some(now)),
        )
        .col_expr(Column::LastError, Expr::value(error))
        .exec(tx)
        .await
        .map(|_| ())
}
