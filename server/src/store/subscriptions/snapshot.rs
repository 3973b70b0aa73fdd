//! Applies a snapshot of a subscription: its row, its periods and the account's link, in one transaction.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _, QuerySelect as _,
    sea_query::{Expr, OnConflict},
};

use super::{
    periods::{insert_period, move_periods, period_row},
    sync_request::request_sync,
};
use crate::store::connection::Transaction;
use crate::{
    domain::{
        Millis, SECOND_MS,
        account::{Account, Billing, link_start},
        account_id::AccountId,
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
        links::{end_link, find_account, insert_link, read_links_of, taken_until},
        reassign::{mark_straddled, reassign_open_reports, relink_reports},
        report_states::{at_once, is_due},
        send_order::forget_send_by,
        unfinished_changes::has_unfinished,
    },
};

impl Store {
    /// Applies a snapshot of an account's subscription. Returns false if nothing changed, also because something newer
    /// was applied since it was read.
    pub(crate) async fn apply_snapshot(
        &self,
        account_id: &AccountId,
        snapshot: &SubscriptionSnapshot,
        slots: Slots,
        now: Millis,
    ) -> Result<bool> {
        let tx = self.begin_moving_boundaries().await?;
        let Some(account) = find_account(&tx, account_id).await? else {
            tx.rollback().await?;
            return Ok(false);
        };
        // A change in progress writes its own result; do not overwrite it.
        if has_unfinished(&tx, account_id).await? {
            tx.rollback().await?;
            return Ok(false);
        }
        let recorded = record_snapshot(&tx, account_id, snapshot, now).await?;
        let Some((is_new, mut moved)) = recorded else {
            tx.rollback().await?;
            return Ok(false);
        };
        let is_relinked = end_or_resume_link(&tx, &account, snapshot, now).await?;
        if is_relinked {
            moved.extend(snapshot.ended_at);
        }
        if !moved.is_empty() {
            for boundary in &moved {
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
        Ok(is_new || is_relinked || !moved.is_empty())
    }

    /// Ends the links of accounts whose subscriptions were scheduled to end by now.
    pub(crate) async fn end_due_subscriptions(&self, slots: Slots, now: Millis) -> Result<u64> {
        const BATCH_SIZE: u64 = 500;
        let due = subscription::Entity::find()
            .filter(subscription::Column::CancelAt.lte(now))
            .filter(subscription::Column::EndedAt.is_null())
            .limit(BATCH_SIZE)
            .all(&self.reader)
            .await?;
        let mut ended = 0_u64;
        for row in due {
            let tx = self.begin_moving_boundaries().await?;
            let key = (row.account_id.clone(), row.subscription.clone());
            let current = subscription::Entity::find_by_id(key).one(&tx).await?;
            // A sync may have found meanwhile that it goes on.
            if current.is_none_or(|current| current.cancel_at != row.cancel_at) {
                tx.rollback().await?;
                continue;
            }
            let account = find_account(&tx, &row.account_id).await?;
            let at = row.cancel_at.unwrap_or(now);
            let is_ended = match &account {
                Some(account) if bills_to(account, &row.customer) => {
                    end_link(&tx, account, at, now).await?
                }
                _ => false,
            };
            if is_ended {
                mark_straddled(&tx, &row.account_id, at).await?;
                reassign_open_reports(&tx, &row.account_id, slots, now).await?;
                relink_reports(&tx, &row.account_id).await?;
                record_boundary_change(&tx, &row.account_id, now).await?;
                ended = ended.saturating_add(1);
            }
            // Request a sync, to learn whether it ended at Stripe too.
            request_sync(&tx, &row.account_id, &row.subscription, now).await?;
            subscription::Entity::update_many()
                .col_expr(subscription::Column::CancelAt, Expr::value(None::<i64>))
                .filter(subscription::Column::AccountId.eq(&row.account_id))
                .filter(subscription::Column::Subscription.eq(&row.subscription))
                .exec(&tx)
                .await?;
            tx.commit().await?;
        }
        Ok(ended)
    }

    /// Ends the link to a customer that was found deleted at Stripe, unless it was linked since that was read.
    pub(crate) async fn end_customer(
        &self,
        (account_id, customer): (&AccountId, &str),
        slots: Slots,
        read_at: Millis,
        now: Millis,
    ) -> Result<bool> {
        let tx = self.begin_moving_boundaries().await?;
        let ended = match find_account(&tx, account_id).await? {
            Some(account)
                if bills_to(&account, customer)
                    && !is_outdated(read_at, Some(account.link.recorded_at), now) =>
            {
                end_link(&tx, &account, now, now).await?
            }
            _ => false,
        };
        if ended {
            reassign_open_reports(&tx, account_id, slots, now).await?;
            relink_reports(&tx, account_id).await?;
            record_boundary_change(&tx, account_id, now).await?;
        }
        tx.commit().await?;
        Ok(ended)
    }
}

/// Records a snapshot of an account's subscription. Returns whether its status changed, and the boundaries that are new
/// or moved; `None` if something newer was applied since it was read.
pub(in crate::store) async fn record_snapshot(
    tx: &Transaction,
    account_id: &AccountId,
    snapshot: &SubscriptionSnapshot,
    now: Millis,
) -> std::result::Result<Option<(bool, Vec<Millis>)>, DbErr> {
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
    let (is_new, has_other_meters) =
        upsert_subscription(tx, account_id, snapshot, before.as_ref()).await?;
    let moved = move_periods(tx, account_id, snapshot, now).await?;
    if is_new || has_other_meters || !moved.is_empty() {
        decide_uncharged_again(tx, account_id).await?;
    }
    Ok(Some((is_new, moved)))
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
    upsert_subscription(tx, account_id, snapshot, before.as_ref()).await?;
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

/// Returns whether the status is new, and whether the meters of the customer's other subscriptions are.
async fn upsert_subscription(
    tx: &Transaction,
    account_id: &AccountId,
    snapshot: &SubscriptionSnapshot,
    before: Option<&subscription::Model>,
) -> std::result::Result<(bool, bool), DbErr> {
    use subscription::Column;
    let other_meters = snapshot
        .other_meters
        .as_ref()
        .map(|meters| meters.join(" "));
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
        other_meters: Set(other_meters.clone().unwrap_or_default()),
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
    ]);
    if other_meters.is_some() {
        same.update_column(Column::OtherMeters);
    }
    subscription::Entity::insert(row)
        .on_conflict(same)
        .exec_without_returning(tx)
        .await?;
    let is_new = before.is_none_or(|before| before.status != snapshot.status.name());
    let has_other_meters = other_meters
        .is_some_and(|meters| before.map_or("", |before| &before.other_meters) != meters);
    Ok((is_new, has_other_meters))
}

/// Ends the account's link if its subscription ended, and starts it again if the subscription is live again. What was read
/// before the link was recorded says nothing about it.
async fn end_or_resume_link(
    tx: &Transaction,
    account: &Account,
    snapshot: &SubscriptionSnapshot,
    now: Millis,
) -> std::result::Result<bool, DbErr> {
    if account.link.billing.customer() != Some(&snapshot.customer)
        || is_outdated(snapshot.read_at, Some(account.link.recorded_at), now)
    {
        return Ok(false);
    }
    match (&account.link.billing, snapshot.is_live()) {
        (Billing::Stripe { .. }, false) => {
            let at = Ord::min(snapshot.ended_at.unwrap_or(now), now);
            end_link(tx, account, at, now).await
        }
        // A subscription that was scheduled to end by now is not started again, because Stripe may end it slightly
        // late.
        (Billing::Ended { subscription, .. }, true)
            if snapshot.cancel_at.is_none_or(|at| at > now) =>
        {
            let Some(since) = snapshot.charges_since() else {
                return Ok(false);
            };
            let links = read_links_of(tx, &account.id).await?;
            let taken = taken_until(tx, &snapshot.customer, &account.id, now).await?;
            let from = link_start(&links, &snapshot.customer, taken, None, Some(since), now)
                .map_err(|violation| DbErr::Custom(violation.message))?;
            let version = account.link.version.saturating_add(1);
            let billing = Billing::Stripe {
                customer: snapshot.customer.clone(),
                subscription: subscription.as_ref().map(|_| snapshot.subscription.clone()),
            };
            insert_link(tx, &account.id, &billing, (version, from), now).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn bills_to(account: &Account, customer: &str) -> bool {
    matches!(&account.link.billing, Billing::Stripe { customer: own, .. } if own == customer)
}
