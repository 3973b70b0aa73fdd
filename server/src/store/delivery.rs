//! Queries of the delivery check: which other events explain the total of a minute.

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, Func},
};

use super::{Store, stripe_account::sent_since};
use crate::{
    domain::{
        Millis,
        report::{MAX_EVENT_AGE_MS, Report, State},
        stream::Stream,
        window::Interval,
    },
    entity::usage_report::{self, Column, UsageReportState},
    error::Result,
};

/// The events of a stream in one minute.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MinuteSum {
    /// The total of the accepted events.
    pub(crate) arrived: i64,
    /// When the last of them was accepted.
    pub(crate) last_arrived_at: Option<Millis>,
    /// Whether there are other events that may or may not have arrived.
    pub(crate) has_uncertain: bool,
}

impl Store {
    /// The events of a stream in one minute, except that of one report.
    pub(crate) async fn minute_sum(
        &self,
        stream: &Stream,
        minute: Interval,
        except: &Report,
    ) -> Result<MinuteSum> {
        let adopted_at = self.sending().await?.adopted_at;
        let rows: Vec<(UsageReportState, i64, Option<Millis>)> = usage_report::Entity::find()
            .filter(sent_since(adopted_at))
            .select_only()
            .column(Column::State)
            .column_as(
                Func::sum(Expr::col(Column::Quantity)).cast_as("bigint"),
                "quantity",
            )
            .column_as(Column::ReportedAt.max(), "last_at")
            .filter(Column::Customer.eq(&stream.customer))
            .filter(Column::Meter.eq(&stream.meter))
            .filter(Column::EventTimestamp.gte(minute.start))
            .filter(Column::EventTimestamp.lt(minute.end))
            .filter(Column::Id.ne(except.id))
            .group_by(Column::State)
            .into_tuple()
            .all(&self.reader)
            .await?;
        let mut sum = MinuteSum::default();
        for (state, quantity, last_at) in rows {
            match state {
                state if State::from(state).is_reported() => {
                    sum.arrived = sum.arrived.saturating_add(quantity);
                    sum.last_arrived_at = Ord::max(sum.last_arrived_at, last_at);
                }
                UsageReportState::Rejected | UsageReportState::CustomerDeleted => {}
                _ => sum.has_uncertain = true,
            }
        }
        Ok(sum)
    }

    /// An accepted report of the stream that was first sent after a time. Totals that include it are current: they
    /// include every event from before. The time of acceptance would prove less: an event that is sent again after a
    /// crash may have arrived much earlier.
    pub(crate) async fn find_later_report(
        &self,
        stream: &Stream,
        after: Millis,
    ) -> Result<Option<Report>> {
        let found = usage_report::Entity::find()
            .filter(Column::Customer.eq(&stream.customer))
            .filter(Column::Meter.eq(&stream.meter))
            .filter(Column::State.is_in(State::REPORTED.map(UsageReportState::from)))
            .filter(Column::FirstSentAt.gt(after))
            // Nothing older is sent. Without a limit, all events of the stream would be read.
            .filter(Column::EventTimestamp.gte(after.saturating_sub(MAX_EVENT_AGE_MS)))
            .order_by_asc(Column::FirstSentAt)
            .one(&self.reader)
            .await?;
        Ok(found.map(Report::from))
    }
}
