//! Queries of draining: which usage from before a change's boundary Stripe's totals do not include yet.

use sea_orm::{
    ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, Func},
};

use crate::{
    domain::{
        Millis, account_id::AccountId, report::State, stream::Stream,
        subscription_change::SubscriptionChange, window::Interval,
    },
    entity::{
        billing_period,
        subscription_change::{self, SubscriptionChangeStep},
        usage_report::{self, UsageReportState},
    },
    error::Result,
    store::{Store, close::close_account},
};

/// Usage from before the boundary that Stripe has not accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outstanding {
    /// Open reports: increments arrived after the closing.
    pub(crate) open: u64,
    /// Reports that are open, closed or being sent.
    pub(crate) waiting: u64,
    /// Reports that need an admin's decision.
    pub(crate) needs_decision: u64,
}

/// The accepted usage of a stream in an interval that Stripe's totals include.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownAtStripe {
    pub(crate) stream: Stream,
    pub(crate) range: Interval,
    pub(crate) sum: SentSum,
}

/// The accepted events of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SentSum {
    pub(crate) reports: i64,
    pub(crate) quantity: i64,
    /// Whether a quantity is negative.
    pub(crate) has_negative: bool,
}

impl Store {
    /// Closes reports from before a change's boundary that were counted after the change began.
    pub(crate) async fn close_counted_since(&self, change: &SubscriptionChange) -> Result<()> {
        let tx = self.begin_within_boundaries().await?;
        close_account(&tx, &change.account_id, change.boundary_at).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Moves a change to the step `changing`, if nothing is outstanding and nothing was sent since Stripe's totals were
    /// read. Returns whether it did, or `None` if another replica has the change. The sender reads the change's row
    /// under the same lock: reports that it marked before are outstanding here, and afterwards it sends none of the
    /// account.
    pub(crate) async fn begin_changing(
        &self,
        seen: &SubscriptionChange,
        since: Millis,
        shown: &[ShownAtStripe],
        now: Millis,
    ) -> Result<Option<bool>> {
        let tx = self.begin().await?;
        let done = subscription_change::Entity::update_many()
            .col_expr(
                subscription_change::Column::Step,
                Expr::value(SubscriptionChangeStep::Changing),
            )
            .col_expr(subscription_change::Column::HeartbeatAt, Expr::value(now))
            .filter(subscription_change::Column::AccountId.eq(&seen.account_id))
            .filter(subscription_change::Column::Id.eq(seen.id))
            .filter(subscription_change::Column::Holder.eq(&seen.holder))
            .filter(subscription_change::Column::Step.eq(SubscriptionChangeStep::Draining))
            .exec(&tx)
            .await?;
        if done.rows_affected != 1 {
            tx.rollback().await?;
            return Ok(None);
        }
        let left = outstanding(&tx, &seen.account_id, since, seen.boundary_at).await?;
        let mut is_ready = left == Outstanding::default();
        for shown in shown {
            is_ready &= sent_sum(&tx, &shown.stream, shown.range).await? == shown.sum;
        }
        if is_ready {
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
        Ok(Some(is_ready))
    }

    /// The account's billable usage from before a boundary that Stripe has not accepted. Reports that need a decision
    /// and are billed before `since` do not count: an admin can still resolve them after the change.
    pub(crate) async fn outstanding(
        &self,
        account_id: &AccountId,
        since: Millis,
        before: Millis,
    ) -> Result<Outstanding> {
        Ok(outstanding(&self.reader, account_id, since, before).await?)
    }

    /// The time since which some items have been charging for usage at a time, by the boundaries stored here. The
    /// boundary of a plan change is up to a second before Stripe's.
    pub(crate) async fn charging_since(
        &self,
        account_id: &AccountId,
        items: &[&str],
        at: Millis,
    ) -> Result<Option<Millis>> {
        use billing_period::Column;
        let start: Option<Option<Millis>> = billing_period::Entity::find()
            .select_only()
            .column_as(Column::PeriodStart.min(), "start")
            .filter(Column::AccountId.eq(account_id))
            .filter(Column::Item.is_in(items.iter().copied()))
            .filter(Column::PeriodStart.lte(at))
            .filter(Column::PeriodEnd.gt(at))
            .into_tuple()
            .one(&self.reader)
            .await?;
        Ok(start.flatten())
    }

    /// The accepted events of a stream in an interval.
    pub(crate) async fn sent_sum(&self, stream: &Stream, range: Interval) -> Result<SentSum> {
        Ok(sent_sum(&self.reader, stream, range).await?)
    }

    /// Whether an account has billable usage since a time.
    pub(crate) async fn has_billable_usage(
        &self,
        account_id: &AccountId,
        since: Millis,
    ) -> Result<bool> {
        use usage_report::Column;
        let free = [UsageReportState::NotBillable, UsageReportState::WrittenOff];
        let one = usage_report::Entity::find()
            .filter(Column::AccountId.eq(account_id))
            .filter(billed_at(Column::LastAt).gte(since))
            .filter(Column::State.is_not_in(free))
            .one(&self.reader)
            .await?;
        Ok(one.is_some())
    }
}

/// The time at which a report is billed: `bill_at` if it is set, else the time of the usage.
fn billed_at(used_at: usage_report::Column) -> Expr {
    let bill_at = Expr::col(usage_report::Column::BillAt);
    Func::coalesce([bill_at, Expr::col(used_at)]).into()
}

async fn sent_sum(
    db: &impl ConnectionTrait,
    stream: &Stream,
    range: Interval,
) -> std::result::Result<SentSum, DbErr> {
    use usage_report::Column;
    let row: Option<(i64, Option<i64>, Option<i64>)> = usage_report::Entity::find()
        .select_only()
        .column_as(Column::Id.count(), "reports")
        .column_as(
            Func::sum(Expr::col(Column::Quantity)).cast_as("bigint"),
            "quantity",
        )
        .column_as(Column::Quantity.min(), "least")
        .filter(Column::Customer.eq(&stream.customer))
        .filter(Column::Meter.eq(&stream.meter))
        .filter(Column::EventTimestamp.gte(range.start))
        .filter(Column::EventTimestamp.lt(range.end))
        .filter(Column::State.is_in(State::REPORTED.map(UsageReportState::from)))
        .into_tuple()
        .one(db)
        .await?;
    let (reports, quantity, least) = row.unwrap_or_default();
    Ok(SentSum {
        reports,
        quantity: quantity.unwrap_or(0),
        has_negative: least.is_some_and(|least| least < 0),
    })
}

async fn outstanding(
    db: &impl ConnectionTrait,
    account_id: &AccountId,
    since: Millis,
    before: Millis,
) -> std::result::Result<Outstanding, DbErr> {
    use usage_report::Column;
    const WAITING: [State; 3] = [State::Open, State::Closed, State::Sending];
    let is_of_period = Column::State
        .is_in(State::NEEDS_DECISION.map(UsageReportState::from))
        .and(billed_at(Column::FirstAt).gte(since));
    let rows: Vec<(UsageReportState, i64)> = usage_report::Entity::find()
        .select_only()
        .column(Column::State)
        .column_as(Column::Id.count(), "reports")
        .filter(Column::AccountId.eq(account_id))
        .filter(billed_at(Column::FirstAt).lt(before))
        .filter(
            Column::State
                .is_in(WAITING.map(UsageReportState::from))
                .or(is_of_period),
        )
        .group_by(Column::State)
        .into_tuple()
        .all(db)
        .await?;
    let mut outstanding = Outstanding::default();
    for (state, reports) in rows {
        let reports = u64::try_from(reports).unwrap_or(0);
        let state = State::from(state);
        if WAITING.contains(&state) {
            outstanding.waiting = outstanding.waiting.saturating_add(reports);
        } else {
            outstanding.needs_decision = outstanding.needs_decision.saturating_add(reports);
        }
        if state == State::Open {
            outstanding.open = reports;
        }
    }
    Ok(outstanding)
}
