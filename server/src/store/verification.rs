//! Queries of verification: days with events that are not confirmed, and the results of comparisons.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, DbErr, EntityTrait as _, FromQueryResult, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, Statement,
    sea_query::{Expr, OnConflict},
};

use super::{
    Store, as_read::update_in_state, connection::Transaction,
    invoice_comparison::compare_again_around, report_states::state_in, rows,
    stripe_account::sent_since,
};
use crate::{
    domain::{
        Millis,
        billed_usage::BilledUsage,
        invoice_comparison::LONGEST_DRAFT_MS,
        read_order::is_outdated,
        report::{Report, State, Transition},
        stream::Stream,
        verification::{DayResult, VerifiedDay},
        window::Interval,
    },
    entity::{
        usage_report::{self, Column, UsageReportState},
        verification,
    },
    error::Result,
};

/// The maximum number of events that are read of one customer, meter and range of days.
pub(crate) const EVENTS_READ: u64 = 20_000;

/// A UTC day with events to verify.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct UnverifiedDay {
    /// The Stripe customer.
    pub(crate) customer: String,
    /// The meter.
    pub(crate) meter: String,
    /// The day's first moment.
    pub(crate) day: Millis,
    /// When Stripe accepted the first of the accepted events; absent if all are missing.
    pub(crate) oldest_at: Option<Millis>,
}

/// The verification of a stream's UTC day.
#[derive(Debug)]
pub(crate) struct DayVerification {
    /// The customer and meter.
    pub(crate) stream: Stream,
    /// The day's first moment.
    pub(crate) day: Millis,
    /// The comparison of the totals.
    pub(crate) result: DayResult,
    /// The reports that it decided, and their transitions.
    pub(crate) transitions: Vec<(Report, Transition)>,
    /// The last verification.
    pub(crate) before: Option<VerifiedDay>,
}

impl Store {
    /// Days of the streams after `after` with events that are not confirmed, ordered by stream and day.
    pub(crate) async fn unverified_days(
        &self,
        after: Option<&Stream>,
        since: Millis,
        limit: u64,
    ) -> Result<Vec<UnverifiedDay>> {
        let (customer, meter) = after.map_or(("", ""), |stream| (&stream.customer, &stream.meter));
        let accepted = state_in(&[State::Accepted]);
        let unconfirmed = state_in(&[State::Accepted, State::Missing]);
        let sql = format!(
            "SELECT customer, meter, (event_timestamp / 86400000) AS day_number, \
             (event_timestamp / 86400000) * 86400000 AS day, \
             MIN(CASE WHEN {accepted} THEN reported_at END) AS oldest_at \
             FROM usage_reports WHERE {unconfirmed} AND event_timestamp >= $1 \
             AND (customer, meter) > ($2, $3) AND COALESCE(reported_at, first_sent_at, $5) >= $5 \
             GROUP BY customer, meter, (event_timestamp / 86400000) \
             ORDER BY customer, meter, day_number LIMIT $4"
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        // What went to an earlier Stripe account is not in the totals of the present one.
        let adopted_at = self.sending().await?.adopted_at.unwrap_or(0);
        let values = [
            since.into(),
            customer.into(),
            meter.into(),
            limit.into(),
            adopted_at.into(),
        ];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        Ok(UnverifiedDay::find_by_statement(statement)
            .all(&self.reader)
            .await?)
    }

    /// The last verifications of a stream's days.
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

    /// The reports of a stream with an event timestamp in a range, ordered by that timestamp: at most [`EVENTS_READ`].
    /// Without those that went to an earlier Stripe account.
    pub(crate) async fn stream_events(
        &self,
        stream: &Stream,
        range: Interval,
    ) -> Result<Vec<Report>> {
        let adopted_at = self.sending().await?.adopted_at;
        let events = usage_report::Entity::find()
            .filter(sent_since(adopted_at))
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

    /// Records the verification of a day and the transitions of its reports, unless a later one was recorded. A report that
    /// changed meanwhile keeps its state.
    pub(crate) async fn record_verification(
        &self,
        verified: &DayVerification,
        now: Millis,
    ) -> Result<()> {
        use verification::Column as S;
        let current = self.shared_now().await?;
        let tx = self.begin().await?;
        let stream = &verified.stream;
        let key = (stream.customer.clone(), stream.meter.clone(), verified.day);
        let recorded = verification::Entity::find_by_id(key)
            .lock_exclusive()
            .one(&tx)
            .await?;
        // A replica may have stood still after it read the totals.
        let recorded_at = recorded.map(|recorded| recorded.verified_at);
        if is_outdated(now, recorded_at, current) {
            tx.rollback().await?;
            return Ok(());
        }
        let mut in_order: Vec<&(Report, Transition)> = verified.transitions.iter().collect();
        in_order.sort_unstable_by_key(|(report, _)| report.id);
        for (report, transition) in in_order {
            record_transition(&tx, report, transition, now).await?;
        }
        // Locked after the reports, as in every transaction.
        for at in confirmed_late(verified, now) {
            compare_again_around(&tx, stream, at, now).await?;
        }
        let result = verified.result;
        let changed_at = match &verified.before {
            Some(before) if !result.is_new(Some(before)) => before.changed_at,
            _ => now,
        };
        let row = verification::ActiveModel {
            customer: Set(verified.stream.customer.clone()),
            meter: Set(verified.stream.meter.clone()),
            day: Set(verified.day),
            sent_total: Set(result.sent_total),
            stripe_total: Set(result.stripe_total),
            finding: Set(result.finding.into()),
            changed_at: Set(changed_at),
            verified_at: Set(now),
        };
        let replace = OnConflict::columns([S::Customer, S::Meter, S::Day])
            .update_columns([
                S::SentTotal,
                S::StripeTotal,
                S::Finding,
                S::ChangedAt,
                S::VerifiedAt,
            ])
            .to_owned();
        verification::Entity::insert(row)
            .on_conflict(replace)
            .exec_without_returning(&tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}

/// When confirmed usage is billed whose period may have been compared for the last time.
fn confirmed_late(verified: &DayVerification, now: Millis) -> impl Iterator<Item = Millis> {
    let confirmed = verified.transitions.iter();
    confirmed
        .filter(|(_, transition)| *transition == Transition::Confirm)
        .map(|(report, _)| BilledUsage::of(report).billed_at_stripe())
        .filter(move |at| now.saturating_sub(*at) >= LONGEST_DRAFT_MS)
}

async fn record_transition(
    tx: &Transaction,
    report: &Report,
    transition: &Transition,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    let Some(next) = report.state.after(transition) else {
        return Ok(());
    };
    let is_confirmed = next == State::Confirmed;
    let error = (!is_confirmed)
        .then_some("Stripe accepted it, but a day later its totals do not include it".to_owned());
    update_in_state(report)
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
