//! The ends of accounts' links: when their subscriptions end, as requested here or as found at Stripe, and when their
//! customers are deleted.

use sea_orm::{
    ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _, QuerySelect as _, sea_query::Expr,
};

use super::{periods::read_periods_around, sync_request::request_sync};
use crate::{
    domain::{
        Millis,
        account::{Account, Billing, link_start},
        account_id::AccountId,
        billing_period::BillingPeriod,
        read_order::is_outdated,
        subscription::SubscriptionSnapshot,
        window::Slots,
    },
    entity::subscription,
    error::Result,
    store::{
        Store,
        boundaries::record_boundary_change,
        connection::Transaction,
        deleted_accounts::is_deleted,
        links::{end_link, find_account, insert_link, read_links_of, taken_until},
        reassign::{mark_straddled, reassign_open_reports, relink_reports},
    },
};

impl Store {
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
            let goes_on = current.is_none_or(|current| current.cancel_at != row.cancel_at);
            if goes_on || is_deleted(&tx, &row.account_id).await? {
                tx.rollback().await?;
                continue;
            }
            let account = find_account(&tx, &row.account_id).await?;
            let at = row.cancel_at.unwrap_or(now);
            let is_ended = match &account {
                // The end of a companion ends its periods, which the sync finds.
                Some(account) if bills_to(account, &row.customer) && !row.is_companion => {
                    end_link(&tx, account, (at, row.end_requested), now).await?
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
                    && !is_outdated(read_at, Some(account.link.recorded_at), now)
                    && !is_deleted(&tx, account_id).await? =>
            {
                end_link(&tx, &account, (now, false), now).await?
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

/// Ends the account's link if its subscription ended, as requested here or at Stripe, and starts it again if the
/// subscription is live again. What was read before the link was recorded says nothing about it.
pub(super) async fn end_or_resume_link(
    tx: &Transaction,
    account: &Account,
    (snapshot, is_end_requested): (&SubscriptionSnapshot, bool),
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
            end_link(tx, account, (at, is_end_requested), now).await
        }
        // A subscription that was scheduled to end by now is not started again, because Stripe may end it slightly
        // late.
        (Billing::Ended { subscription, .. }, true)
            if snapshot.cancel_at.is_none_or(|at| at > now) =>
        {
            let Some(mut since) = snapshot.charges_since() else {
                return Ok(false);
            };
            // One that was a companion when the other one ended has charged ever since.
            let ended_at = account.link.valid_from;
            let around = read_periods_around(tx, &account.id, ended_at).await?;
            let is_own = |period: &BillingPeriod| {
                period.subscription.as_ref() == Some(&snapshot.subscription)
            };
            if around.iter().any(is_own) {
                since = Ord::min(since, ended_at);
            }
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
