//! Which billing period a report belongs to, and whether that period's invoice still takes it.

use sea_orm::{
    ColumnTrait as _, DatabaseTransaction, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _,
    sea_query::Expr,
};

use super::{operations::has_operation_at, reports::Report, subscriptions::want};
use crate::{
    entity::{billing_period, subscription, usage_report},
    usage::{
        Millis, SECOND_MS,
        invoice::{InvoiceState, LateUsage, Timing},
    },
};

/// How long a report waits for what only Stripe can say.
const ASK_AGAIN_MS: Millis = 5 * SECOND_MS;

/// What is to be done with a report before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// It is sent, no earlier than the moment given where there is one.
    Now(Option<Millis>),
    /// It is sent as usage of a later moment: its own invoice is final.
    At(Millis),
    /// It waits until the moment given.
    Later(Millis),
    /// Its invoice is final.
    Missed,
}

/// Says what is to be done with a report, and asks the sync where only Stripe knows.
pub(super) async fn due(
    tx: &DatabaseTransaction,
    report: &Report,
    late_usage: LateUsage,
    now: Millis,
) -> Result<Due, DbErr> {
    let again = now.saturating_add(ASK_AGAIN_MS);
    let at = report.bill_at.unwrap_or(report.first_at);
    if has_operation_at(tx, &report.account_id, at).await? {
        return Ok(Due::Later(now.saturating_add(SECOND_MS)));
    }
    let Some(period) = period_at(tx, report, at).await? else {
        return Ok(Due::Now(None));
    };
    match timing(&period, now) {
        Timing::InTime => Ok(Due::Now(period.bills_from)),
        Timing::AskFirst => {
            if let Some(subscription) = &period.subscription {
                want(tx, &report.account_id, subscription, now).await?;
            }
            Ok(Due::Later(again))
        }
        Timing::TooLate => too_late(tx, report, &period, late_usage, now).await,
    }
}

/// What divides a boundary that was learned late goes to the later side then, and late usage where the
/// service is told to put it.
async fn too_late(
    tx: &DatabaseTransaction,
    report: &Report,
    period: &billing_period::Model,
    late_usage: LateUsage,
    now: Millis,
) -> Result<Due, DbErr> {
    if report.bill_at.is_none() && report.last_at >= period.period_end {
        let later = period_at(tx, report, report.last_at).await?;
        if let Some(later) = later.filter(|later| timing(later, now) == Timing::InTime) {
            let start = later.bills_from.unwrap_or(later.period_start);
            return Ok(Due::At(Ord::max(start, later.period_start)));
        }
    }
    if late_usage == LateUsage::CurrentPeriod && period_at(tx, report, now).await?.is_some() {
        return Ok(Due::At(now));
    }
    Ok(Due::Missed)
}

fn timing(period: &billing_period::Model, now: Millis) -> Timing {
    InvoiceState::from_parts(&period.invoice_state, period.draft_until)
        .timing(period.period_end, now)
}

/// The period of the report's customer and meter around a moment, where Stripe has said what it is.
async fn period_at(
    tx: &DatabaseTransaction,
    report: &Report,
    at: Millis,
) -> Result<Option<billing_period::Model>, DbErr> {
    use billing_period::Column;
    let periods = billing_period::Entity::find()
        .filter(Column::AccountId.eq(&report.account_id))
        .filter(Column::Meter.eq(&report.meter))
        .filter(Column::Subscription.is_not_null())
        .filter(Column::PeriodStart.lte(at))
        .filter(Column::PeriodEnd.gt(at))
        .order_by_desc(Column::PeriodStart)
        .all(tx)
        .await?;
    for period in periods {
        let id = (
            period.account_id.clone(),
            period.subscription.clone().unwrap_or_default(),
        );
        let of = subscription::Entity::find_by_id(id).one(tx).await?;
        if of.is_some_and(|of| Some(&of.customer) == report.customer.as_ref()) {
            return Ok(Some(period));
        }
    }
    Ok(None)
}

/// Makes a report wait, as it was seen.
pub(super) async fn postpone(
    tx: &DatabaseTransaction,
    report: &Report,
    until: Millis,
) -> Result<(), DbErr> {
    usage_report::Entity::update_many()
        .col_expr(usage_report::Column::NextAttemptAt, Expr::value(until))
        .filter(usage_report::Column::AccountId.eq(&report.account_id))
        .filter(usage_report::Column::Id.eq(report.id))
        .filter(usage_report::Column::State.eq(&report.state))
        .filter(usage_report::Column::Attempts.eq(report.attempts))
        .exec(tx)
        .await
        .map(|_| ())
}
