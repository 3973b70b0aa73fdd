//! Applies what was read of an account's subscriptions: their rows, their periods and the account's link, in one
//! transaction.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _, QuerySelect as _,
    sea_query::{Expr, OnConflict},
};

use super::{
    link_end::end_or_resume_link,
    periods::{insert_period, move_periods, period_row},
    sync_request::request_sync,
};
use crate::store::connection::Transaction;
use crate::{
    domain::{
        Millis, SECOND_MS,
        account_id::AccountId,
        followed_subscriptions::FollowedSubscriptions,
        read_order::is_outdated,
        report::{State, Transition},
        subscription::SubscriptionSnapshot,
        window::Slots,
    },
    entity::{
        subscription,
        usage_report::{self, UsageReportState},
    },
    error::Result,
    store::{
        Store,
        boundaries::record_boundary_change,
        deleted_accounts::is_deleted,
        links::find_account,
        reassign::{mark_straddled, reassign_open_reports, relink_reports},
        report_states::{at_once, is_due},
        retried::retried,
        send_order::forget_send_by,
        unfinished_changes::has_unfinished,
    },
};

/// What changed when subscriptions were recorded.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Recorded {
    /// Whether a status changed.
    is_new: bool,
    /// The boundaries that are new or moved.
    pub(in crate::store) moved: Vec<Millis>,
    /// Whether the end of the chosen one was requested here.
    is_end_requested: bool,
}

impl Store {
    /// Applies what was read of an account's subscriptions. Returns false if nothing changed, also because something newer
    /// was applied since it was read.
    pub(crate) async fn apply_followed(
        &self,
        account_id: &AccountId,
        followed: &FollowedSubscriptions,
        slots: Slots,
        now: Millis,
    ) -> Result<bool> {
        retried(|| self.apply_followed_once(account_id, followed, slots, now)).await
    }

    async fn apply_followed_once(
        &self,
        account_id: &AccountId,
        followed: &FollowedSubscriptions,
        slots: Slots,
        now: Millis,
    ) -> Result<bool> {
        let tx = self.begin_moving_boundaries().await?;
        if is_deleted(&tx, account_id).await? {
            tx.rollback().await?;
            return Ok(false);
        }
        let Some(account) = find_account(&tx, account_id).await? else {
            tx.rollback().await?;
            return Ok(false);
        };
        // A change in progress writes its own result; do not overwrite it.
        if has_unfinished(&tx, account_id).await? {
            tx.rollback().await?;
            return Ok(false);
        }
        let Some(mut recorded) = record_followed(&tx, account_id, followed, now).await? else {
            tx.rollback().await?;
            return Ok(false);
        };
        let mut is_relinked = false;
        if let Some(chosen) = &followed.chosen {
            let is_requested = recorded.is_end_requested;
            is_relinked = end_or_resume_link(&tx, &account, (chosen, is_requested), now).await?;
            if is_relinked {
                recorded.moved.extend(chosen.ended_at);
            }
        }
        let moved = &recorded.moved;
        if !moved.is_empty() {
            for boundary in moved {
                mark_straddled(&tx, account_id, *boundary).await?;
            }
            reassign_open_reports(&tx, account_id, slots, now).await?;
            if is_relinked {
                relink_reports(&tx, account_id).await?;
            }
            forget_send_by(&tx, account_id).await?;
            record_boundary_change(&tx, account_id, now).await?;
        } else if is_relinked {
            reassign_open_reports(&tx, account_id, slots, now).await?;
            relink_reports(&tx, account_id).await?;
            record_boundary_change(&tx, account_id, now).await?;
        }
        tx.commit().await?;
        Ok(recorded.is_new || is_relinked || !moved.is_empty())
    }
}

/// Records what was read of an account's subscriptions; `None` if something newer was applied since then. Which of them
/// charges a meter was read together, so it is applied together.
pub(in crate::store) async fn record_followed(
    tx: &Transaction,
    account_id: &AccountId,
    followed: &FollowedSubscriptions,
    now: Millis,
) -> std::result::Result<Option<Recorded>, DbErr> {
    let mut known = Vec::new();
    let mut all: Vec<&SubscriptionSnapshot> = followed.all().collect();
    // In the order in which others lock them.
    all.sort_by_key(|snapshot| &snapshot.subscription);
    for snapshot in all {
        let before = lock_subscription(tx, account_id, snapshot).await?;
        let applied = before.as_ref().map(|before| before.synced_at);
        if is_outdated(snapshot.read_at, applied, now) {
            tracing::info!(
                account = %account_id,
                subscription = %snapshot.subscription,
                read_at = snapshot.read_at,
                applied,
                "what Stripe answered came late and is not applied: something newer was"
            );
            return Ok(None);
        }
        known.push((snapshot, before));
    }
    let mut recorded = Recorded::default();
    for (snapshot, before) in known {
        let is_chosen = followed.is_chosen(&snapshot.subscription);
        if is_chosen {
            recorded.is_end_requested = before.as_ref().is_some_and(|before| before.end_requested);
        }
        let of = (snapshot, !is_chosen);
        recorded.is_new |= upsert_subscription(tx, account_id, of, before.as_ref()).await?;
        let synced_at = before.as_ref().map(|before| before.synced_at);
        let moved = move_periods(tx, account_id, (snapshot, synced_at), now).await?;
        recorded.moved.extend(moved);
    }
    if recorded.is_new || !recorded.moved.is_empty() {
        decide_uncharged_again(tx, account_id).await?;
    }
    Ok(Some(recorded))
}

/// Records a subscription after a change. Usage belongs to its new items from the boundary on. Stripe charges it from
/// the time it created them.
pub(in crate::store) async fn record_change(
    tx: &Transaction,
    account_id: &AccountId,
    snapshot: &SubscriptionSnapshot,
    boundary: Millis,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    let before = lock_subscription(tx, account_id, snapshot).await?;
    upsert_subscription(tx, account_id, (snapshot, false), before.as_ref()).await?;
    decide_uncharged_again(tx, account_id).await?;
    if !snapshot.is_live() {
        return Ok(());
    }
    for item in &snapshot.items {
        let charged = item.charged();
        // Items that existed before the change keep their periods.
        if item.created < boundary.saturating_sub(SECOND_MS) || charged.end <= boundary {
            continue;
        }
        let mut row = period_row(account_id, snapshot, item, now);
        row.period_start = Set(boundary);
        row.bills_from = Set(Some(Ord::max(charged.start, boundary)));
        insert_period(tx, row).await?;
    }
    Ok(())
}

/// Records that a subscription was cancelled here, so that usage after its end is not billable. Other subscriptions of the
/// customer go on: the account's link follows one of them after their next sync, which is requested.
pub(in crate::store) async fn record_requested_end(
    tx: &Transaction,
    account_id: &AccountId,
    snapshot: &SubscriptionSnapshot,
    now: Millis,
) -> std::result::Result<(), DbErr> {
    use subscription::Column;
    subscription::Entity::update_many()
        .col_expr(Column::EndRequested, Expr::value(true))
        .filter(Column::AccountId.eq(account_id))
        .filter(Column::Subscription.eq(&snapshot.subscription))
        .exec(tx)
        .await?;
    let others = subscription::Entity::find()
        .filter(Column::AccountId.eq(account_id))
        .all(tx)
        .await?;
    let is_live = |row: &&subscription::Model| {
        row.ended_at.is_none()
            && row.subscription != snapshot.subscription
            && row.customer == snapshot.customer
    };
    for other in others.iter().filter(is_live) {
        request_sync(tx, account_id, &other.subscription, now).await?;
    }
    Ok(())
}

/// Ends the wait of reports that no subscription charged: they are closed again, so that a change of the subscription
/// waits until it is decided whether they are charged now.
async fn decide_uncharged_again(
    tx: &Transaction,
    account_id: &AccountId,
) -> std::result::Result<(), DbErr> {
    use usage_report::Column;
    let uncharged = State::Uncharged;
    let Some(next) = uncharged.after(&Transition::DecideAgain) else {
        return Ok(());
    };
    usage_report::Entity::update_many()
        .col_expr(Column::State, Expr::value(UsageReportState::from(next)))
        .col_expr(Column::NextAttemptAt, at_once())
        .col_expr(Column::LastError, Expr::value(None::<String>))
        .filter(Column::AccountId.eq(account_id))
        .filter(is_due())
        .filter(Column::State.eq(UsageReportState::from(uncharged)))
        .exec(tx)
        .await
        .map(|_| ())
}

/// The stored subscription of a snapshot. It stays as it is until the end of the transaction.
async fn lock_subscription(
    tx: &Transaction,
    account_id: &AccountId,
    snapshot: &SubscriptionSnapshot,
) -> std::result::Result<Option<subscription::Model>, DbErr> {
    subscription::Entity::find_by_id((account_id.clone(), snapshot.subscription.clone()))
        .lock_exclusive()
        .one(tx)
        .await
}

/// Whether an end that was requested here was taken back in Stripe's dashboard.
pub(super) fn is_end_taken_back(snapshot: &SubscriptionSnapshot) -> bool {
    snapshot.is_live() && snapshot.cancel_at.is_none()
}

/// Stores a subscription and whether it is a companion. Returns whether the status is new.
async fn upsert_subscription(
    tx: &Transaction,
    account_id: &AccountId,
    (snapshot, is_companion): (&SubscriptionSnapshot, bool),
    before: Option<&subscription::Model>,
) -> std::result::Result<bool, DbErr> {
    use subscription::Column;
    let was_requested = before.is_some_and(|before| before.end_requested);
    let row = subscription::ActiveModel {
        account_id: Set(account_id.clone()),
        subscription: Set(snapshot.subscription.clone()),
        customer: Set(snapshot.customer.clone()),
        status: Set(snapshot.status.name().to_owned()),
        billing_mode: Set(snapshot.billing_mode.name().to_owned()),
        cancel_at: Set(snapshot.cancel_at.filter(|_| snapshot.is_live())),
        ended_at: Set(snapshot.ended_at.filter(|_| !snapshot.is_live())),
        synced_at: Set(snapshot.read_at),
        sync_requested_at: Set(None),
        is_companion: Set(is_companion),
        end_requested: Set(was_requested && !is_end_taken_back(snapshot)),
        relinked_from: Set(None),
        customer_deleted_at: Set(None),
    };
    let mut same = OnConflict::columns([Column::AccountId, Column::Subscription]);
    same.update_columns([
        Column::Customer,
        Column::Status,
        Column::BillingMode,
        Column::CancelAt,
        Column::EndedAt,
        Column::SyncedAt,
        Column::IsCompanion,
        Column::EndRequested,
    ]);
    subscription::Entity::insert(row)
        .on_conflict(same)
        .exec_without_returning(tx)
        .await?;
    Ok(before.is_none_or(|before| before.status != snapshot.status.name()))
}
