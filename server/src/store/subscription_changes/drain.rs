//! What has to be at Stripe before a change may tell it: usage from before the boundary, and what was sent.

use sea_orm::{
    ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, Func},
};

use super::{Step, SubscriptionChange};
use crate::{
    domain::stream::Stream,
    domain::{Millis, report::State, window::Interval},
    entity::{billing_period, subscription_change, usage_report},
    error::Result,
    store::{Store, close::close_account},
};

/// Usage of the boundary's earlier side that is not surely at Stripe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outstanding {
    /// Reports that still count: late increments came after the closing.
    pub(crate) open: u64,
    /// Reports that still count, will be sent, or are under way.
    pub(crate) waiting: u64,
    /// Reports on which an admin has to decide.
    pub(crate) undecided: u64,
}

/// What Stripe showed: of a stream, in an interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownAtStripe {
    pub(crate) stream: Stream,
    pub(crate) range: Interval,
    pub(crate) sum: SentSum,
}

/// What Stripe was given of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SentSum {
    pub(crate) reports: i64,
    pub(crate) quantity: i64,
    /// Whether something of it takes away.
    pub(crate) has_negative: bool,
}

impl Store {
    /// Closes what came late of what was used before a change's boundary.
    pub(crate) async fn close_late(&self, change: &SubscriptionChange) -> Result<()> {
        let tx = self.begin_within_boundaries().await?;
        close_account(&tx, &change.account_id, change.boundary_at).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Notes that Stripe is about to be told, where nothing is outstanding and nothing was sent since Stripe
    /// showed what it has; answers whether that is so, and `None` when somebody else went on with it. The
    /// sender looks at the change's row under the same lock: what it was about to send is seen here, and
    /// from here on it sends nothing of the account.
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
                Expr::value(Step::Changing.name()),
            )
            .col_expr(subscription_change::Column::HeartbeatAt, Expr::value(now))
            .filter(subscription_change::Column::AccountId.eq(&seen.account_id))
            .filter(subscription_change::Column::Id.eq(seen.id))
            .filter(subscription_change::Column::Holder.eq(&seen.holder))
            .filter(subscription_change::Column::Step.eq(Step::Draining.name()))
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

    /// What of an account's billable usage from before a boundary is not surely at Stripe. On what is charged
    /// earlier than `since` an admin may decide later.
    pub(crate) async fn outstanding(
        &self,
        account_id: &str,
        since: Millis,
        before: Millis,
    ) -> Result<Outstanding> {
        Ok(outstanding(&self.reader, account_id, since, before).await?)
    }

    /// Since when some items have been charging for what is used at a moment, as it is counted here: a plan
    /// change's boundary lies up to a second before Stripe's own.
    pub(crate) async fn charging_since(
        &self,
        account_id: &str,
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

    /// What Stripe was given of a stream in an interval.
    pub(crate) async fn sent_sum(&self, stream: &Stream, range: Interval) -> Result<SentSum> {
        Ok(sent_sum(&self.reader, stream, range).await?)
    }

    /// Whether an account has used anything since a moment that it pays for.
    pub(crate) async fn has_billable_usage(&self, account_id: &str, since: Millis) -> Result<bool> {
        use usage_report::Column;
        let free = [State::NotBillable, State::WrittenOff].map(State::name);
        let one = usage_report::Entity::find()
            .filter(Column::AccountId.eq(account_id))
            .filter(charged_at(Column::LastAt).gte(since))
            .filter(Column::State.is_not_in(free))
            .one(&self.reader)
            .await?;
        Ok(one.is_some())
    }
}

/// When a report's usage is charged, as far as that is known.
fn charged_at(used_at: usage_report::Column) -> Expr {
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
        .filter(Column::State.is_in(State::REPORTED.map(State::name)))
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
    account_id: &str,
    since: Millis,
    before: Millis,
) -> std::result::Result<Outstanding, DbErr> {
    use usage_report::Column;
    const WAITING: [State; 3] = [State::Open, State::Closed, State::Sending];
    let is_of_period = Column::State
        .is_in(State::UNDECIDED.map(State::name))
        .and(charged_at(Column::FirstAt).gte(since));
    let rows: Vec<(String, i64)> = usage_report::Entity::find()
        .select_only()
        .column(Column::State)
        .column_as(Column::Id.count(), "reports")
        .filter(Column::AccountId.eq(account_id))
        .filter(charged_at(Column::FirstAt).lt(before))
        .filter(
            Column::State
                .is_in(WAITING.map(State::name))
                .or(is_of_period),
        )
        .group_by(Column::State)
        .into_tuple()
        .all(db)
        .await?;
    let mut outstanding = Outstanding::default();
    for (state, reports) in rows {
        let reports = u64::try_from(reports).unwrap_or(0);
        match State::from_name(&state) {
            Some(state) if WAITING.contains(&state) => {
                outstanding.waiting = outstanding.waiting.saturating_add(reports);
                if state == State::Open {
                    outstanding.open = reports;
                }
            }
            _ => outstanding.undecided = outstanding.undecided.saturating_add(reports),
        }
    }
    Ok(outstanding)
}
