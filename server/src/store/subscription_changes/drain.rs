//! Queries of draining: which usage from before a change's boundary Stripe's totals do not include yet.

use sea_orm::{
    ColumnTrait as _, Condition, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _,
    QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, Func},
};

use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        billed_usage::UsagePrefilter,
        billing_period::BillingPeriod,
        report::State,
        report_figure::{Outstanding, total},
        stream::Stream,
        subscription_change::SubscriptionChange,
        window::Interval,
    },
    entity::{
        any_report,
        subscription_change::{self, SubscriptionChangeStep},
        usage_report::{self, UsageReportState},
    },
    error::Result,
    store::{
        Store,
        close::close_account,
        report_figures::{is_in_windows, passes_prefilter, read_any_figures},
        retried::retried,
        sending_state::read_sending,
        stream_figures::{events, read_folded_events},
        subscriptions::read_periods_around,
    },
};

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
        retried(|| self.close_counted_since_once(change)).await
    }

    async fn close_counted_since_once(&self, change: &SubscriptionChange) -> Result<()> {
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
    ) -> Result<Option<bool>> {
        retried(|| self.begin_changing_once(seen, since, shown)).await
    }

    async fn begin_changing_once(
        &self,
        seen: &SubscriptionChange,
        since: Millis,
        shown: &[ShownAtStripe],
    ) -> Result<Option<bool>> {
        let tx = self.begin().await?;
        let done = subscription_change::Entity::update_many()
            .col_expr(
                subscription_change::Column::Step,
                Expr::value(SubscriptionChangeStep::Changing),
            )
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

    /// The account's billing periods that contain a time: candidates, of which the domain chooses.
    pub(crate) async fn periods_around(
        &self,
        account_id: &AccountId,
        at: Millis,
    ) -> Result<Vec<BillingPeriod>> {
        Ok(read_periods_around(&self.reader, account_id, at).await?)
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
        let free = [UsageReportState::NotBillable, UsageReportState::WrittenOff];
        let condition = passes_prefilter(account_id, prefilter_from(since))
            .add(any_report::Column::State.is_not_in(free));
        let figures = read_any_figures(&self.reader, condition).await?;
        Ok(figures
            .iter()
            .any(|figure| figure.usage.billed_until() >= since))
    }
}

/// The reports that may be billed from a time on.
fn prefilter_from(since: Millis) -> UsagePrefilter {
    UsagePrefilter::of(Interval {
        start: since,
        end: Millis::MAX,
    })
}

async fn sent_sum(
    db: &impl ConnectionTrait,
    stream: &Stream,
    range: Interval,
) -> std::result::Result<SentSum, DbErr> {
    use usage_report::Column;
    // Stripe's totals include nothing that another account accepted before the present one was adopted.
    let adopted_at = read_sending(db).await?.adopted_at;
    let row: Option<(i64, Option<i64>, Option<i64>)> = usage_report::Entity::find()
        .select_only()
        .column_as(Column::Id.count(), "reports")
        .column_as(
            Func::sum(Expr::col(Column::Quantity)).cast_as("bigint"),
            "quantity",
        )
        .column_as(Column::Quantity.min(), "least")
        .filter(events(stream, range, adopted_at))
        .filter(Column::State.is_in(State::REPORTED.map(UsageReportState::from)))
        .into_tuple()
        .one(db)
        .await?;
    let (reports, quantity, least) = row.unwrap_or_default();
    // Of the period before, in the minute that a period of years began in.
    let mut folded = read_folded_events(db, stream, range, adopted_at).await?;
    folded.retain(|figure| figure.state.is_reported());
    let of_folded = folded.iter().map(|figure| figure.reports);
    Ok(SentSum {
        reports: of_folded.fold(reports, i64::saturating_add),
        quantity: quantity.unwrap_or(0).saturating_add(total(&folded)),
        has_negative: least.is_some_and(|least| least < 0),
    })
}

async fn outstanding(
    db: &impl ConnectionTrait,
    account_id: &AccountId,
    since: Millis,
    before: Millis,
) -> std::result::Result<Outstanding, DbErr> {
    use any_report::Column;
    let waiting = Column::State.is_in(Outstanding::WAITING.map(UsageReportState::from));
    let undecided = Condition::all()
        .add(is_in_windows(prefilter_from(since)))
        .add(Column::State.is_in(State::NEEDS_DECISION.map(UsageReportState::from)));
    // One statement: a decision in between would move a report from one group to the other.
    let either = Condition::all()
        .add(Column::AccountId.eq(account_id))
        .add(Condition::any().add(waiting).add(undecided));
    let figures = read_any_figures(db, either).await?;
    Ok(Outstanding::of(&figures, since, before))
}
