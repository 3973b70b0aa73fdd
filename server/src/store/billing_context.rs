//! Which billing period a report belongs to, and whether that period's invoice still takes it.

use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DatabaseTransaction, DbErr, EntityTrait as _,
    QueryFilter as _, QueryOrder as _, Statement,
    sea_query::{Expr, ExprTrait as _},
};

use super::{
    Store, reports::Report, subscription_changes::is_held_back, subscriptions::request_sync,
};
use crate::{
    domain::{
        DAY_MS, HOUR_MS, MINUTE_MS, Millis, SECOND_MS,
        invoice::{InvoiceState, LateUsage, Timing},
        report::CLOSE_AT_ONCE_MS,
    },
    entity::{billing_period, subscription, usage_report},
};

/// How long a report waits for what only Stripe can say.
const ASK_AGAIN_MS: Millis = 5 * SECOND_MS;

/// How long after a period's end Stripe may still show it as the present one.
const ROLLED_MS: Millis = HOUR_MS;

/// How long before a draft's end what is not sent is said.
const NEAR_DRAFT_END_MS: Millis = 15 * MINUTE_MS;
/// Periods that ended longer ago are history.
const RELEVANT_MS: Millis = 40 * DAY_MS;

/// What is to be done with a report before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendDecision {
    /// It is sent, no earlier than the moment given where there is one.
    Now(Option<Millis>),
    /// It is sent as usage of a later moment: its own invoice is final.
    At(Millis),
    /// It waits until the moment given.
    Later(Millis),
    /// Its invoice is final.
    TooLate,
    /// Its invoice is final, and Stripe has its customer no more.
    CustomerDeleted,
}

/// Says what is to be done with a report, and asks the sync where only Stripe knows.
pub(super) async fn due(
    tx: &DatabaseTransaction,
    report: &Report,
    late_usage: LateUsage,
    now: Millis,
) -> Result<SendDecision, DbErr> {
    let again = now.saturating_add(ASK_AGAIN_MS);
    let at = report.bill_at.unwrap_or(report.first_at);
    if is_held_back(tx, &report.account_id, at).await? {
        return Ok(SendDecision::Later(now.saturating_add(SECOND_MS)));
    }
    let Some(period) = period_at(tx, report, at).await? else {
        return outside_periods(tx, report, at, late_usage, now).await;
    };
    match timing(&period, now) {
        Timing::InTime => Ok(SendDecision::Now(period.bills_from)),
        Timing::AskFirst => {
            if let Some(subscription) = &period.subscription {
                request_sync(tx, &report.account_id, subscription, now).await?;
            }
            Ok(SendDecision::Later(again))
        }
        Timing::TooLate if is_customer_gone(tx, &period).await? => {
            Ok(SendDecision::CustomerDeleted)
        }
        Timing::TooLate => too_late(tx, report, &period, late_usage, now).await,
    }
}

/// What becomes of usage that lies in no known period: where the customer's subscription charges only from
/// later on, or charges no more, Stripe would take it and charge it nowhere, and an admin decides.
async fn outside_periods(
    tx: &DatabaseTransaction,
    report: &Report,
    at: Millis,
    late_usage: LateUsage,
    now: Millis,
) -> Result<SendDecision, DbErr> {
    use billing_period::Column;
    if find_period(tx, report, Column::PeriodStart.gt(at))
        .await?
        .is_some()
    {
        return beyond_invoices(tx, report, late_usage, now).await;
    }
    let Some(last) = find_period(tx, report, Column::PeriodEnd.lte(at)).await? else {
        return Ok(SendDecision::Now(None));
    };
    let Some(of) = subscription_of(tx, &last).await? else {
        return Ok(SendDecision::Now(None));
    };
    let is_over =
        of.ended_at.is_some() || of.synced_at >= last.period_end.saturating_add(ROLLED_MS);
    if is_over {
        return if of.customer_deleted_at.is_some() {
            Ok(SendDecision::CustomerDeleted)
        } else {
            beyond_invoices(tx, report, late_usage, now).await
        };
    }
    // Nobody has seen yet what follows.
    request_sync(tx, &of.account_id, &of.subscription, now).await?;
    Ok(SendDecision::Later(now.saturating_add(MINUTE_MS)))
}

/// What divides a boundary that was learned late goes to the later side then, and late usage where the
/// service is told to put it.
async fn too_late(
    tx: &DatabaseTransaction,
    report: &Report,
    period: &billing_period::Model,
    late_usage: LateUsage,
    now: Millis,
) -> Result<SendDecision, DbErr> {
    if report.bill_at.is_none() && report.last_at >= period.period_end {
        let later = period_at(tx, report, report.last_at).await?;
        if let Some(later) = later.filter(|later| timing(later, now) == Timing::InTime) {
            let start = later.bills_from.unwrap_or(later.period_start);
            return Ok(SendDecision::At(Ord::max(start, later.period_start)));
        }
    }
    beyond_invoices(tx, report, late_usage, now).await
}

/// What becomes of usage that no invoice takes any more. What takes away waits for an admin in any case: the
/// current period may hold less than that, and Stripe would bill it as 0.
async fn beyond_invoices(
    tx: &DatabaseTransaction,
    report: &Report,
    late_usage: LateUsage,
    now: Millis,
) -> Result<SendDecision, DbErr> {
    let may_move = late_usage == LateUsage::CurrentPeriod && report.quantity >= 0;
    if may_move && period_at(tx, report, now).await?.is_some() {
        return Ok(SendDecision::At(now));
    }
    Ok(SendDecision::TooLate)
}

fn timing(period: &billing_period::Model, now: Millis) -> Timing {
    InvoiceState::from_parts(&period.invoice_state, period.draft_until)
        .timing(period.period_end, now)
}

async fn is_customer_gone(
    tx: &DatabaseTransaction,
    period: &billing_period::Model,
) -> Result<bool, DbErr> {
    let of = subscription_of(tx, period).await?;
    Ok(of.is_some_and(|of| of.customer_deleted_at.is_some()))
}

/// The subscription that a period is of.
async fn subscription_of(
    tx: &DatabaseTransaction,
    period: &billing_period::Model,
) -> Result<Option<subscription::Model>, DbErr> {
    let subscription = period.subscription.clone().unwrap_or_default();
    subscription::Entity::find_by_id((period.account_id.clone(), subscription))
        .one(tx)
        .await
}

/// The period of the report's customer and meter around a moment, where Stripe has said what it is.
async fn period_at(
    tx: &DatabaseTransaction,
    report: &Report,
    at: Millis,
) -> Result<Option<billing_period::Model>, DbErr> {
    use billing_period::Column;
    let around = Column::PeriodStart.lte(at).and(Column::PeriodEnd.gt(at));
    find_period(tx, report, around).await
}

/// Whether Stripe charges the report's customer and meter for what is used now, as far as anything is known of
/// what it charges them for.
pub(super) async fn may_be_charged(
    tx: &DatabaseTransaction,
    report: &Report,
    now: Millis,
) -> Result<bool, DbErr> {
    let any = billing_period::Column::PeriodEnd.gt(0);
    Ok(
        period_at(tx, report, now).await?.is_some()
            || find_period(tx, report, any).await?.is_none(),
    )
}

/// The last such period of the report's customer and meter.
async fn find_period(
    tx: &DatabaseTransaction,
    report: &Report,
    which: Expr,
) -> Result<Option<billing_period::Model>, DbErr> {
    use billing_period::Column;
    let periods = billing_period::Entity::find()
        .filter(Column::AccountId.eq(&report.account_id))
        .filter(Column::Meter.eq(&report.meter))
        .filter(Column::Subscription.is_not_null())
        .filter(which)
        .order_by_desc(Column::PeriodStart)
        .all(tx)
        .await?;
    for period in periods {
        let of = subscription_of(tx, &period).await?;
        if of.is_some_and(|of| Some(&of.customer) == report.customer.as_ref()) {
            return Ok(Some(period));
        }
    }
    Ok(None)
}

/// Reports that Stripe has not taken and soon cannot take in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NearDeadlines {
    /// Their invoices' drafts end within a quarter of an hour.
    pub(crate) drafts: i64,
    /// They are older than 33 days.
    pub(crate) old: i64,
}

impl Store {
    /// How many reports are near their deadlines.
    pub(crate) async fn near_deadlines(&self, now: Millis) -> crate::error::Result<NearDeadlines> {
        const DRAFTS: &str = "SELECT COUNT(*) AS number FROM billing_periods p \
            JOIN usage_reports r ON r.account_id = p.account_id AND r.meter = p.meter \
            AND r.state IN ('closed', 'sending', 'unknown') \
            AND COALESCE(r.bill_at, r.first_at) >= p.period_start \
            AND COALESCE(r.bill_at, r.first_at) < p.period_end \
            WHERE p.period_end <= $1 AND p.period_end > $2 AND p.invoice_state <> 'final' \
            AND COALESCE(p.draft_until, p.period_end + 3600000) < $3";
        const OLD: &str = "SELECT COUNT(*) AS number FROM usage_reports \
            WHERE state IN ('closed', 'sending', 'unknown') AND window_start < $1";
        let count = async |sql: &str, values: Vec<sea_orm::Value>| {
            let statement = Statement::from_sql_and_values(self.backend(), sql, values);
            let row = self.reader.query_one_raw(statement).await?;
            row.map_or(Ok(0), |row| row.try_get("", "number"))
        };
        let soon = now.saturating_add(NEAR_DRAFT_END_MS);
        let ended = [now, now.saturating_sub(RELEVANT_MS), soon].map(Into::into);
        let oldest = now.saturating_sub(CLOSE_AT_ONCE_MS);
        Ok(NearDeadlines {
            drafts: count(DRAFTS, ended.to_vec()).await?,
            old: count(OLD, vec![oldest.into()]).await?,
        })
    }
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
