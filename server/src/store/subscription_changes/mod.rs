//! Changes of subscriptions, kept step by step: what was asked for, how far it is, and how it ended.

mod drain;

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait as _,
    QueryFilter as _, QueryOrder as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _},
};
use uuid::Uuid;

use super::{
    Store,
    accounts::{find_account, first_free_instant, insert_link},
    boundaries::bump_version,
    close::close_account,
    database_clock::HEARTBEAT_AHEAD_MS,
    reassign::{reassign_open_reports, relink_reports},
    subscriptions::end_link,
};
use crate::{
    domain::{
        Millis, account::Billing, invoice::InvoiceState, subscription::SubscriptionSnapshot,
        window::Slots,
    },
    entity::{billing_period, subscription_change},
    error::{Error, Result},
};

pub(crate) use drain::{Outstanding, ShownAtStripe};

/// A change as it is in the database.
pub(crate) type SubscriptionChange = subscription_change::Model;

/// What is to be done to a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    /// Other prices from now on.
    ChangePlan,
    /// An end now.
    Cancel,
}

/// How far a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Usage before the boundary is sent, and waited for at Stripe.
    Draining,
    /// Stripe is being told.
    Changing,
    /// It happened.
    Done,
    /// It could not happen in time, and nothing is changed.
    Undone,
    /// Stripe refused it, and nothing is changed.
    Refused,
}

impl ChangeKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ChangePlan => "change_plan",
            Self::Cancel => "cancel",
        }
    }
}

impl Step {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Draining => "drain",
            Self::Changing => "changing",
            Self::Done => "done",
            Self::Undone => "undone",
            Self::Refused => "refused",
        }
    }
}

/// A change that is to be begun.
#[derive(Clone, Debug)]
pub(crate) struct NewChange {
    pub(crate) account_id: String,
    pub(crate) kind: ChangeKind,
    /// What was asked for, as JSON.
    pub(crate) request: String,
    pub(crate) requested_by: String,
    pub(crate) subscription: String,
    /// Who works on it.
    pub(crate) holder: String,
    /// When it was begun, by the database's clock.
    pub(crate) begun_at: Millis,
    /// How long usage is waited for.
    pub(crate) wait_ms: Millis,
}

impl Store {
    /// Begins a change: sets its boundary to this moment, and closes what was used before it. Answers
    /// the one that is under way where there is one, and whether it is this one.
    pub(crate) async fn begin_change(
        &self,
        new: &NewChange,
        slots: Slots,
        clock: impl FnOnce() -> Millis + Send,
    ) -> Result<(SubscriptionChange, bool)> {
        let tx = self.begin_moving_boundaries().await?;
        if let Some(other) = find_unfinished(&tx, &new.account_id).await? {
            tx.rollback().await?;
            return Ok((other, false));
        }
        let account = find_account(&tx, &new.account_id)
            .await?
            .ok_or_else(|| Error::AccountNotFound(new.account_id.clone()))?;
        let now = first_free_instant(&tx, &new.account_id, clock()).await?;
        let row = subscription_change::ActiveModel {
            account_id: Set(new.account_id.clone()),
            id: Set(Uuid::now_v7()),
            kind: Set(new.kind.name().to_owned()),
            request: Set(new.request.clone()),
            requested_by: Set(new.requested_by.clone()),
            subscription: Set(new.subscription.clone()),
            step: Set(Step::Draining.name().to_owned()),
            boundary_at: Set(now),
            started_at: Set(new.begun_at),
            deadline_at: Set(new.begun_at.saturating_add(new.wait_ms)),
            heartbeat_at: Set(new.begun_at),
            holder: Set(new.holder.clone()),
            finished_at: Set(None),
            error: Set(None),
        };
        let begun = subscription_change::Entity::insert(row)
            .exec_with_returning(&tx)
            .await?;
        match new.kind {
            // What is used from here on is nobody's to pay.
            ChangeKind::Cancel => {
                end_link(&tx, &account, now, now).await?;
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
        relink_reports(&tx, &new.account_id, now).await?;
        close_account(&tx, &new.account_id, now).await?;
        bump_version(&tx).await?;
        tx.commit().await?;
        Ok((begun, true))
    }

    /// The change of an account that is under way.
    pub(crate) async fn find_change(&self, account_id: &str) -> Result<Option<SubscriptionChange>> {
        Ok(find_unfinished(&self.reader, account_id).await?)
    }

    /// A change as it is now.
    pub(crate) async fn get_change(
        &self,
        account_id: &str,
        id: Uuid,
    ) -> Result<SubscriptionChange> {
        subscription_change::Entity::find_by_id((account_id.to_owned(), id))
            .one(&self.reader)
            .await?
            .ok_or_else(|| Error::Internal(format!("change {id} is gone").into()))
    }

    /// SubscriptionChanges that nobody has worked on since a moment.
    pub(crate) async fn abandoned_changes(&self, since: Millis) -> Result<Vec<SubscriptionChange>> {
        const BATCH_SIZE: u64 = 64;
        Ok(subscription_change::Entity::find()
            .filter(subscription_change::Column::FinishedAt.is_null())
            .filter(
                subscription_change::Column::HeartbeatAt
                    .lt(since)
                    .or(subscription_change::Column::HeartbeatAt
                        .gt(since.saturating_add(HEARTBEAT_AHEAD_MS))),
            )
            .order_by_asc(subscription_change::Column::HeartbeatAt)
            .limit(BATCH_SIZE)
            .all(&self.reader)
            .await?)
    }

    /// Takes a change over, or says that it is still worked on; false when somebody else has it.
    pub(crate) async fn hold_change(
        &self,
        seen: &SubscriptionChange,
        holder: &str,
        now: Millis,
    ) -> Result<bool> {
        let done = subscription_change::Entity::update_many()
            .col_expr(subscription_change::Column::Holder, Expr::value(holder))
            .col_expr(subscription_change::Column::HeartbeatAt, Expr::value(now))
            .filter(subscription_change::Column::AccountId.eq(&seen.account_id))
            .filter(subscription_change::Column::Id.eq(seen.id))
            .filter(subscription_change::Column::Holder.eq(&seen.holder))
            .filter(subscription_change::Column::FinishedAt.is_null())
            .exec(&self.writer)
            .await?;
        Ok(done.rows_affected == 1)
    }

    /// Records that a change happened, and what Stripe says of the subscription since.
    pub(crate) async fn finish_change(
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
        let cut = seen.boundary_at;
        let kept: Vec<&str> = if snapshot.is_live {
            snapshot.all_items.iter().map(String::as_str).collect()
        } else {
            Vec::new()
        };
        // What the removed items charge ended at the boundary, and is on an invoice already.
        let removed = billing_period::Entity::find()
            .filter(billing_period::Column::AccountId.eq(&seen.account_id))
            .filter(billing_period::Column::Subscription.eq(&seen.subscription))
            .filter(billing_period::Column::Item.is_not_in(kept))
            .filter(billing_period::Column::PeriodEnd.gt(cut))
            .all(&tx)
            .await?;
        for row in removed {
            let end = Ord::max(cut, row.period_start.saturating_add(1));
            billing_period::Entity::update_many()
                .col_expr(billing_period::Column::PeriodEnd, Expr::value(end))
                .col_expr(
                    billing_period::Column::InvoiceState,
                    Expr::value(InvoiceState::Final.name()),
                )
                .filter(billing_period::Column::AccountId.eq(&row.account_id))
                .filter(billing_period::Column::Item.eq(&row.item))
                .filter(billing_period::Column::PeriodStart.eq(row.period_start))
                .exec(&tx)
                .await?;
        }
        super::subscriptions::record_change(&tx, &seen.account_id, snapshot, cut, now).await?;
        reassign_open_reports(&tx, &seen.account_id, slots, now).await?;
        bump_version(&tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Records that a change did not happen: usage from its boundary on is billed as before.
    pub(crate) async fn undo_change(
        &self,
        seen: &SubscriptionChange,
        (step, why): (Step, &str),
        slots: Slots,
        now: Millis,
    ) -> Result<()> {
        let tx = self.begin_moving_boundaries().await?;
        if !finish(&tx, seen, step, Some(why), now).await? {
            tx.rollback().await?;
            return Ok(());
        }
        if let Some(account) = find_account(&tx, &seen.account_id).await?
            && let Billing::Ended {
                customer,
                subscription,
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
            relink_reports(&tx, &seen.account_id, now).await?;
            bump_version(&tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The newest subscription_changes of an account.
    pub(crate) async fn last_change(&self, account_id: &str) -> Result<Option<SubscriptionChange>> {
        Ok(subscription_change::Entity::find()
            .filter(subscription_change::Column::AccountId.eq(account_id))
            .order_by_desc(subscription_change::Column::Id)
            .one(&self.reader)
            .await?)
    }
}

/// Ends a change, while who ends it still has it and it is as far as he thinks.
async fn finish(
    tx: &impl ConnectionTrait,
    seen: &SubscriptionChange,
    step: Step,
    error: Option<&str>,
    now: Millis,
) -> std::result::Result<bool, DbErr> {
    let done = subscription_change::Entity::update_many()
        .col_expr(subscription_change::Column::Step, Expr::value(step.name()))
        .col_expr(subscription_change::Column::FinishedAt, Expr::value(now))
        .col_expr(subscription_change::Column::Error, Expr::value(error))
        .filter(subscription_change::Column::AccountId.eq(&seen.account_id))
        .filter(subscription_change::Column::Id.eq(seen.id))
        .filter(subscription_change::Column::Holder.eq(&seen.holder))
        .filter(subscription_change::Column::Step.eq(&seen.step))
        .exec(tx)
        .await?;
    Ok(done.rows_affected == 1)
}

async fn find_unfinished(
    db: &impl ConnectionTrait,
    account_id: &str,
) -> std::result::Result<Option<SubscriptionChange>, DbErr> {
    subscription_change::Entity::find()
        .filter(subscription_change::Column::AccountId.eq(account_id))
        .filter(subscription_change::Column::FinishedAt.is_null())
        .one(db)
        .await
}

/// Whether somebody is changing an account's subscription.
pub(super) async fn has_unfinished(
    db: &impl ConnectionTrait,
    account_id: &str,
) -> std::result::Result<bool, DbErr> {
    Ok(find_unfinished(db, account_id).await?.is_some())
}

/// Whether an account's subscription is being changed, so that it is not known yet what usage of a moment is
/// charged by: what is used from the boundary on while earlier usage drains, and everything once Stripe is told.
pub(super) async fn is_held_back(
    tx: &DatabaseTransaction,
    account_id: &str,
    at: Millis,
) -> std::result::Result<bool, DbErr> {
    let under_way = subscription_change::Entity::find()
        .filter(subscription_change::Column::AccountId.eq(account_id))
        .filter(subscription_change::Column::FinishedAt.is_null())
        .lock_shared()
        .one(tx)
        .await?;
    Ok(under_way
        .is_some_and(|change| change.boundary_at <= at || change.step == Step::Changing.name()))
}
