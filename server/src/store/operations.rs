//! Changes of subscriptions, kept step by step: what was asked for, how far it is, and how it ended.

mod draining;

use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, ConnectionTrait, DatabaseTransaction, DbErr,
    EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _, sea_query::Expr,
};
use uuid::Uuid;

use super::{
    Store,
    accounts::{find_account, insert_link, moment_behind_usage},
    boundaries::bump_version,
    close::close_account,
    recut::{recut_open_reports, relink_reports},
    subscriptions::end_link,
};
use crate::{
    entity::{billing_period, operation},
    error::{Error, Result},
    usage::{Millis, account::Billing, invoice::InvoiceState, subscription::Facts, window::Slots},
};

pub(crate) use draining::{Outstanding, Shown};

/// An operation as it stands in the database.
pub(crate) type Operation = operation::Model;

/// What is to be done to a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OperationKind {
    /// Other prices from now on.
    ChangePlan,
    /// An end now.
    Cancel,
}

/// How far an operation is.
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

impl OperationKind {
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
            Self::Draining => "draining",
            Self::Changing => "changing",
            Self::Done => "done",
            Self::Undone => "undone",
            Self::Refused => "refused",
        }
    }
}

/// An operation that is to be begun.
#[derive(Clone, Debug)]
pub(crate) struct NewOperation {
    pub(crate) account_id: String,
    pub(crate) kind: OperationKind,
    /// What was asked for, as JSON.
    pub(crate) request: String,
    pub(crate) requested_by: String,
    pub(crate) subscription: String,
    /// Who works on it.
    pub(crate) holder: String,
    /// How long usage is waited for.
    pub(crate) wait_ms: Millis,
}

impl Store {
    /// Begins an operation: sets its boundary to this moment, and closes what was used before it. Answers
    /// the one that is under way where there is one, and whether it is this one.
    pub(crate) async fn begin_operation(
        &self,
        new: &NewOperation,
        slots: Slots,
        clock: impl FnOnce() -> Millis + Send,
    ) -> Result<(Operation, bool)> {
        let tx = self.begin_moving_boundaries().await?;
        if let Some(other) = find_unfinished(&tx, &new.account_id).await? {
            tx.rollback().await?;
            return Ok((other, false));
        }
        let account = find_account(&tx, &new.account_id)
            .await?
            .ok_or_else(|| Error::AccountNotFound(new.account_id.clone()))?;
        let now = moment_behind_usage(&tx, &new.account_id, clock()).await?;
        let row = operation::ActiveModel {
            account_id: Set(new.account_id.clone()),
            id: Set(Uuid::now_v7()),
            kind: Set(new.kind.name().to_owned()),
            request: Set(new.request.clone()),
            requested_by: Set(new.requested_by.clone()),
            subscription: Set(new.subscription.clone()),
            step: Set(Step::Draining.name().to_owned()),
            boundary_at: Set(now),
            started_at: Set(now),
            deadline_at: Set(now.saturating_add(new.wait_ms)),
            heartbeat_at: Set(now),
            holder: Set(new.holder.clone()),
            finished_at: Set(None),
            error: Set(None),
        };
        let begun = operation::Entity::insert(row)
            .exec_with_returning(&tx)
            .await?;
        match new.kind {
            // What is used from here on is nobody's to pay.
            OperationKind::Cancel => {
                end_link(&tx, &account, now, now).await?;
            }
            // The same customer as before: the link is the boundary.
            OperationKind::ChangePlan => {
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
        recut_open_reports(&tx, &new.account_id, slots, now).await?;
        relink_reports(&tx, &new.account_id, now).await?;
        close_account(&tx, &new.account_id, now).await?;
        bump_version(&tx).await?;
        tx.commit().await?;
        Ok((begun, true))
    }

    /// The operation of an account that is under way.
    pub(crate) async fn find_operation(&self, account_id: &str) -> Result<Option<Operation>> {
        Ok(find_unfinished(&self.reader, account_id).await?)
    }

    /// An operation as it stands now.
    pub(crate) async fn get_operation(&self, account_id: &str, id: Uuid) -> Result<Operation> {
        operation::Entity::find_by_id((account_id.to_owned(), id))
            .one(&self.reader)
            .await?
            .ok_or_else(|| Error::Internal(format!("operation {id} is gone").into()))
    }

    /// Operations that nobody has worked on since a moment.
    pub(crate) async fn abandoned_operations(&self, since: Millis) -> Result<Vec<Operation>> {
        const A_LOOK: u64 = 64;
        Ok(operation::Entity::find()
            .filter(operation::Column::FinishedAt.is_null())
            .filter(operation::Column::HeartbeatAt.lt(since))
            .order_by_asc(operation::Column::HeartbeatAt)
            .limit(A_LOOK)
            .all(&self.reader)
            .await?)
    }

    /// Takes an operation over, or says that it is still worked on; false when somebody else has it.
    pub(crate) async fn hold_operation(
        &self,
        seen: &Operation,
        holder: &str,
        now: Millis,
    ) -> Result<bool> {
        let done = operation::Entity::update_many()
            .col_expr(operation::Column::Holder, Expr::value(holder))
            .col_expr(operation::Column::HeartbeatAt, Expr::value(now))
            .filter(operation::Column::AccountId.eq(&seen.account_id))
            .filter(operation::Column::Id.eq(seen.id))
            .filter(operation::Column::Holder.eq(&seen.holder))
            .filter(operation::Column::FinishedAt.is_null())
            .exec(&self.writer)
            .await?;
        Ok(done.rows_affected == 1)
    }

    /// Records that an operation happened, and what Stripe says of the subscription since.
    pub(crate) async fn finish_operation(
        &self,
        seen: &Operation,
        facts: &Facts,
        slots: Slots,
        now: Millis,
    ) -> Result<()> {
        let tx = self.begin_moving_boundaries().await?;
        if !finish(&tx, seen, Step::Done, None, now).await? {
            tx.rollback().await?;
            return Ok(());
        }
        let cut = seen.boundary_at;
        let kept: Vec<&str> = if facts.is_live {
            facts.all_items.iter().map(String::as_str).collect()
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
        super::subscriptions::record_change(&tx, &seen.account_id, facts, cut, now).await?;
        recut_open_reports(&tx, &seen.account_id, slots, now).await?;
        bump_version(&tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Records that an operation did not happen: usage from its boundary on is billed as before.
    pub(crate) async fn undo_operation(
        &self,
        seen: &Operation,
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
            recut_open_reports(&tx, &seen.account_id, slots, now).await?;
            relink_reports(&tx, &seen.account_id, now).await?;
            bump_version(&tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The newest operations of an account.
    pub(crate) async fn last_operation(&self, account_id: &str) -> Result<Option<Operation>> {
        Ok(operation::Entity::find()
            .filter(operation::Column::AccountId.eq(account_id))
            .order_by_desc(operation::Column::Id)
            .one(&self.reader)
            .await?)
    }
}

/// Ends an operation, while who ends it still has it and it is as far as he thinks.
async fn finish(
    tx: &impl ConnectionTrait,
    seen: &Operation,
    step: Step,
    error: Option<&str>,
    now: Millis,
) -> std::result::Result<bool, DbErr> {
    let done = operation::Entity::update_many()
        .col_expr(operation::Column::Step, Expr::value(step.name()))
        .col_expr(operation::Column::FinishedAt, Expr::value(now))
        .col_expr(operation::Column::Error, Expr::value(error))
        .filter(operation::Column::AccountId.eq(&seen.account_id))
        .filter(operation::Column::Id.eq(seen.id))
        .filter(operation::Column::Holder.eq(&seen.holder))
        .filter(operation::Column::Step.eq(&seen.step))
        .exec(tx)
        .await?;
    Ok(done.rows_affected == 1)
}

async fn find_unfinished(
    db: &impl ConnectionTrait,
    account_id: &str,
) -> std::result::Result<Option<Operation>, DbErr> {
    operation::Entity::find()
        .filter(operation::Column::AccountId.eq(account_id))
        .filter(operation::Column::FinishedAt.is_null())
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
    let under_way = operation::Entity::find()
        .filter(operation::Column::AccountId.eq(account_id))
        .filter(operation::Column::FinishedAt.is_null())
        .lock_shared()
        .one(tx)
        .await?;
    Ok(under_way.is_some_and(|operation| {
        operation.boundary_at <= at || operation.step == Step::Changing.name()
    }))
}
