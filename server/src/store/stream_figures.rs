//! The reports of a stream by the times of their meter events, which Stripe sums: closed and folded ones.

use sea_orm::{
    ColumnTrait as _, Condition, ConnectionTrait, DbErr,
    sea_query::{Expr, ExprTrait as _, Func},
};

use super::{
    Store,
    connection::Transaction,
    report_figures::{read_figures, read_folded_figures},
    sending_state::read_sending,
    stripe_account::sent_since,
};
use crate::{
    domain::{Millis, report_figure::ReportFigure, stream::Stream, window::Interval},
    entity::{folded_report, usage_report},
    error::Result,
};

impl Store {
    /// The reports of a stream whose meter events are in an interval, and that the present Stripe account may have: of
    /// whatever account, because Stripe sums by customer.
    pub(crate) async fn figures_of_stream(
        &self,
        stream: &Stream,
        range: Interval,
    ) -> Result<Vec<ReportFigure>> {
        // A report that is folded meanwhile is found once.
        let tx = self.begin_reading().await?;
        let figures = read_stream(&tx, stream, range).await?;
        tx.rollback().await?;
        Ok(figures)
    }
}

/// The same in a transaction.
pub(super) async fn read_stream(
    tx: &Transaction,
    stream: &Stream,
    range: Interval,
) -> std::result::Result<Vec<ReportFigure>, DbErr> {
    let adopted_at = read_sending(tx).await?.adopted_at;
    let mut figures = read_figures(tx, events(stream, range, adopted_at)).await?;
    figures.extend(read_folded_events(tx, stream, range, adopted_at).await?);
    Ok(figures)
}

/// The condition that a closed report's event is of a stream and in an interval.
pub(super) fn events(stream: &Stream, range: Interval, adopted_at: Option<Millis>) -> Condition {
    use usage_report::Column;
    sent_since(adopted_at)
        .add(Column::Customer.eq(&stream.customer))
        .add(Column::Meter.eq(&stream.meter))
        .add(Column::EventTimestamp.gte(range.start))
        .add(Column::EventTimestamp.lt(range.end))
}

/// The folded reports of a stream with events in an interval.
pub(super) async fn read_folded_events(
    db: &impl ConnectionTrait,
    stream: &Stream,
    range: Interval,
    adopted_at: Option<Millis>,
) -> std::result::Result<Vec<ReportFigure>, DbErr> {
    use folded_report::Column;
    let mut condition = Condition::all()
        .add(Column::Customer.eq(&stream.customer))
        .add(Column::Meter.eq(&stream.meter))
        .add(Column::EventTimestamp.gte(range.start))
        .add(Column::EventTimestamp.lt(range.end));
    if let Some(adopted_at) = adopted_at {
        let sent = Func::coalesce([Expr::col(Column::SentAt), Expr::value(adopted_at)]);
        condition = condition.add(Expr::expr(sent).gte(adopted_at));
    }
    read_folded_figures(db, condition).await
}
