//! Queries of subscription changes: begin, take over after a crash, finish or undo.

mod drain;

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, UpdateMany,
    sea_query::{Expr, ExprTrait as _},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Store,
    billing_start::read_billing_start,
    boundaries::record_boundary_change,
    close::close_account,
    deleted_accounts::check_not_deleted,
    heartbeat::is_abandoned,
    links::{end_link, find_account, first_free_instant, insert_link},
    reassign::{reassign_open_reports, relink_reports},
    retried::retried,
    rows,
    send_order::forget_send_by,
    subscriptions::{finalize_period, record_change, record_requested_end},
    unfinished_changes::find_unfinished,
    unindexed,
};
use crate::{
    domain::{
        Millis,
        account::Billing,
        account_id::AccountId,
        billing_period::BillingPeriod,
        subscription::SubscriptionSnapshot,
        subscription_change::{ChangeKind, Step, SubscriptionChange},
        window::Slots,
    },
    entity::{
        billing_period,
        subscription_change::{self, SubscriptionChangeStep},
    },
    error::{Error, Result},
};

pub(crate) use drain::ShownAtStripe;

/// A change to begin.
#[derive(Clone, Debug)]
pub(crate) struct NewChange {
    pub(crate) account_id: AccountId,
    pub(crate) kind: ChangeKind,
    /// What was requested, as JSON.
    pub(crate) request: String,
    pub(crate) requested_by: String,
    pub(crate) subscription: String,
    /// The replica that works on it.
    pub(crate) holder: String,
    /// When it begins, by the database's clock.
    pub(crate) begun_at: Millis,
    /// How long draining may take.
    pub(crate) wait_ms: Millis,
}

impl Store {
    /// Begins a change: sets its boundary to the current time, and closes usage from before it. If another change is in
    /// progress, returns that one. The flag is true if the change is new.
    pub(crate) async fn begin_change(
        &self,
        new: &NewChange,
        slots: Slots,
        clock: impl Fn() -> Millis + Send + Sync,
    ) -> Result<(SubscriptionChange, bool)> {
        let asked = Instant::now();
        retried(|| self.begin_change_once((new, asked), slots, &clock)).await
    }

    async fn begin_change_once(
        &self,
        (new, asked): (&NewChange, Instant),
        slots: Slots,
        clock: impl Fn() -> Millis + Send,
    ) -> Result<(SubscriptionChange, bool)> {
        let tx = self.begin_requested_change().await?;
        check_not_deleted(&tx, &new.account_id).await?;
        if let Some(other) = find_unfinished(&tx, &new.account_id).await? {
            tx.rollback().await?;
            return Ok((other, false));
        }
        let account = find_account(&tx, &new.account_id)
            .await?
            .ok_or_else(|| Error::AccountNotFound(new.account_id.to_string()))?;
        let now = first_free_instant(&tx, &new.account_id, clock()).await?;
        let start = read_billing_start(&tx).await?;
        if start.is_elsewhere(now) {
            return Err(Error::BilledElsewhere { at: now, start });
        }
        // A lock may have taken as long as a change without a sign of life is left alone.
        let waited = i64::try_from(asked.elapsed().as_millis()).unwrap_or(i64::MAX);
        let begun_at = new.begun_at.saturating_add(waited);
        let row = subscription_change::ActiveModel {
            account_id: Set(new.account_id.clone()),
            id: Set(Uuid::now_v7()),
            kind: Set(new.kind.into()),
            request: Set(new.request.clone()),
            requested_by: Set(new.requested_by.clone()),
            subscription: Set(new.subscription.clone()),
            step: Set(SubscriptionChangeStep::Draining),
            boundary_at: Set(now),
            started_at: Set(begun_at),
            deadline_at: Set(begun_at.saturating_add(new.wait_ms)),
            requested_at: Set(None),
            heartbeat_at: Set(begun_at),
            holder: Set(new.holder.clone()),
            finished_at: Set(None),
            error: Set(None),
        };
        let begun = subscription_change::Entity::insert(row)
            .exec_with_returning(&tx)
            .await?;
        match new.kind {
            // Usage after the boundary is not billed until the change ends.
            ChangeKind::Cancel => {
                end_link(&tx, &account, (now, true), now).await?;
            }
            // The same customer as before: the link is the boundary.
            ChangeKind::ChangePlan => {
                let version = account.link.version.saturating_add(1);
                insert_link(
                    &tx,
                    &new.account_id,
                    &account.link.billing,
                    (version, now),
                    now,
                )
                .await?;
            }
        }
        reassign_open_reports(&tx, &new.account_id, slots, now).await?;
        relink_reports(&tx, &new.account_id).await?;
        close_account(&tx, &new.account_id, now).await?;
        // The change waits for usage from before it.
        forget_send_by(&tx, &new.account_id).await?;
        record_boundary_change(&tx, &new.account_id, now).await?;
        tx.commit().await?;
        Ok((begun.into(), true))
    }

    /// The change in progress of an account.
    pub(crate) async fn find_change(
        &self,
        account_id: &AccountId,
    ) -> Result<Option<SubscriptionChange>> {
        Ok(find_unfinished(&self.reader, account_id).await?)
    }

    /// The current state of a change.
    pub(crate) async fn get_change(
        &self,
        account_id: &AccountId,
        id: Uuid,
    ) -> Result<SubscriptionChange> {
        subscription_change::Entity::find_by_id((account_id.clone(), id))
            .one(&self.reader)
            .await?
            .map(SubscriptionChange::from)
            .ok_or_else(|| Error::Internal(format!("subscription change {id} not found").into()))
    }

    /// Unfinished changes without a heartbeat since a time.
    pub(crate) async fn abandoned_changes(&self, since: Millis) -> Result<Vec<SubscriptionChange>> {
        const BATCH_SIZE: u64 = 64;
        let abandoned = subscription_change::Entity::find()
            .filter(subscription_change::Column::FinishedAt.is_null())
            .filter(is_abandoned(
                subscription_change::Column::HeartbeatAt,
                since,
            ))
            .order_by_asc(subscription_change::Column::HeartbeatAt)
            .limit(BATCH_SIZE)
            .all(&self.reader)
            .await?;
        Ok(rows::all(abandoned))
    }

    /// Takes a change over, or renews its heartbeat. Returns false if another replica has it.
    pub(crate) async fn claim_change(
        &self,
        seen: &SubscriptionChange,
        holder: &str,
    ) -> Result<bool> {
        let column = subscription_change::Column::HeartbeatAt;
        let claimed = retried(|| self.stamp_change_once(seen, holder, column)).await?;
        Ok(claimed.is_some())
    }

    /// Records that Stripe is asked to make a change now, and returns that time; none if the change is no longer the
    /// holder's: then Stripe must not be asked.
    pub(crate) async fn set_change_requested(
        &self,
        change: &SubscriptionChange,
    ) -> Result<Option<Millis>> {
        let column = subscription_change::Column::RequestedAt;
        retried(|| self.stamp_change_once(change, &change.holder, column)).await
    }

    /// Writes the time to a column of a change that is still its holder's, and gives it a holder. The time is read once the row is
    /// locked, so that it is not as old as the wait for the lock.
    async fn stamp_change_once(
        &self,
        seen: &SubscriptionChange,
        holder: &str,
        column: subscription_change::Column,
    ) -> Result<Option<Millis>> {
        let tx = self.begin().await?;
        let done = update_held(seen)
            .col_expr(subscription_change::Column::Holder, Expr::value(holder))
            .exec(&tx)
            .await?;
        if done.rows_affected != 1 {
            tx.rollback().await?;
            return Ok(None);
        }
        let now = self.now_in(&tx).await?;
        subscription_change::Entity::update_many()
            .col_expr(column, Expr::value(now))
            .filter(subscription_change::Column::AccountId.eq(&seen.account_id))
            .filter(subscription_change::Column::Id.eq(seen.id))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(Some(now))
    }

    /// Records why a change waits.
    pub(crate) async fn set_change_error(
        &self,
        change: &SubscriptionChange,
        why: &str,
    ) -> Result<()> {
        update_held(change)
            .col_expr(subscription_change::Column::Error, Expr::value(why))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Records that Stripe made a change, and the subscription after it.
    pub(crate) async fn finish_change(
        &self,
        seen: &SubscriptionChange,
        snapshot: &SubscriptionSnapshot,
        slots: Slots,
        now: Millis,
    ) -> Result<()> {
        retried(|| self.finish_change_once(seen, snapshot, slots, now)).await
    }

    async fn finish_change_once(
        &self,
        seen: &SubscriptionChange,
        snapshot: &SubscriptionSnapshot,
        slots: Slots,
        now: Millis,
    ) -> Result<()> {
        let tx = self.begin_moving_boundaries().await?;
        if !finish(&tx, seen, Step::Done, None, now).await? {
            tx.rollback().await?;
            return Ok(());
        }
        let boundary = seen.boundary_at;
        let kept: Vec<&str> = if snapshot.is_live() {
            snapshot
                .all_items
                .iter()
                .map(|one| one.item.as_str())
                .collect()
        } else {
            Vec::new()
        };
        // The removed items charged until the boundary, and Stripe has invoiced that.
        let removed = billing_period::Entity::find()
            .filter(billing_period::Column::AccountId.eq(&seen.account_id))
            .filter(billing_period::Column::Subscription.eq(&seen.subscription))
            .filter(billing_period::Column::Item.is_not_in(kept))
            .filter(unindexed(billing_period::Column::PeriodEnd).gt(boundary))
            .all(&tx)
            .await?;
        for row in rows::all::<_, BillingPeriod>(removed) {
            let end = Ord::max(boundary, row.period_start.saturating_add(1));
            finalize_period(&row, snapshot.read_at)
                .col_expr(billing_period::Column::PeriodEnd, Expr::value(end))
                .exec(&tx)
                .await?;
        }
        record_change(&tx, &seen.account_id, snapshot, boundary, now).await?;
        if seen.kind == ChangeKind::Cancel {
            record_requested_end(&tx, &seen.account_id, snapshot, now).await?;
        }
        reassign_open_reports(&tx, &seen.account_id, slots, now).await?;
        record_boundary_change(&tx, &seen.account_id, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Records that a change was not made. Usage from its boundary on is billed as before. Returns false if its holder or
    /// step is another one now.
    pub(crate) async fn undo_change(
        &self,
        seen: &SubscriptionChange,
        end: (Step, &str),
        slots: Slots,
        now: Millis,
    ) -> Result<bool> {
        retried(|| self.undo_change_once(seen, end, slots, now)).await
    }

    async fn undo_change_once(
        &self,
        seen: &SubscriptionChange,
        (step, why): (Step, &str),
        slots: Slots,
        now: Millis,
    ) -> Result<bool> {
        let tx = self.begin_moving_boundaries().await?;
        if !finish(&tx, seen, step, Some(why), now).await? {
            tx.rollback().await?;
            return Ok(false);
        }
        if let Some(account) = find_account(&tx, &seen.account_id).await?
            && let Billing::Ended {
                customer,
                subscription,
                ..
            } = account.link.billing.clone()
            && account.link.valid_from == seen.boundary_at
        {
            let version = account.link.version.saturating_add(1);
            let billing = Billing::Stripe {
                customer,
                subscription,
            };
            insert_link(
                &tx,
                &seen.account_id,
                &billing,
                (version, seen.boundary_at),
                now,
            )
            .await?;
            reassign_open_reports(&tx, &seen.account_id, slots, now).await?;
            relink_reports(&tx, &seen.account_id).await?;
            record_boundary_change(&tx, &seen.account_id, now).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// The newest change of an account.
    pub(crate) async fn last_change(
        &self,
        account_id: &AccountId,
    ) -> Result<Option<SubscriptionChange>> {
        let last = subscription_change::Entity::find()
            .filter(subscription_change::Column::AccountId.eq(account_id))
            .order_by_desc(subscription_change::Column::Id)
            .one(&self.reader)
            .await?;
        Ok(last.map(SubscriptionChange::from))
    }
}

/// Updates an unfinished change that is still its holder's.
fn update_held(seen: &SubscriptionChange) -> UpdateMany<subscription_change::Entity> {
    subscription_change::Entity::update_many()
        .filter(subscription_change::Column::AccountId.eq(&seen.account_id))
        .filter(subscription_change::Column::Id.eq(seen.id))
        .filter(subscription_change::Column::Holder.eq(&seen.holder))
        .filter(subscription_change::Column::FinishedAt.is_null())
}

/// Ends a change if its holder and step are still as they were read.
async fn finish(
    tx: &impl ConnectionTrait,
    seen: &SubscriptionChange,
    step: Step,
    error: Option<&str>,
    now: Millis,
) -> std::result::Result<bool, DbErr> {
    let done = subscription_change::Entity::update_many()
        .col_expr(
            subscription_change::Column::Step,
            Expr::value(SubscriptionChangeStep::from(step)),
        )
        .col_expr(subscription_change::Column::FinishedAt, Expr::value(now))
        .col_expr(subscription_change::Column::Error, Expr::value(error))
        .filter(subscription_change::Column::AccountId.eq(&seen.account_id))
        .filter(subscription_change::Column::Id.eq(seen.id))
        .filter(subscription_change::Column::Holder.eq(&seen.holder))
        .filter(subscription_change::Column::Step.eq(SubscriptionChangeStep::from(seen.step)))
        .exec(tx)
        .await?;
    Ok(done.rows_affected == 1)
}
