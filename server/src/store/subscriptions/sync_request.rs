//! Requests of syncs: a subscription whose sync is requested is read from Stripe before the next poll.

use sea_orm::{ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _, sea_query::Expr};

use crate::{
    domain::{Millis, account_id::AccountId},
    entity::subscription,
    store::connection::Transaction,
};

/// Requests a sync before the next poll. An earlier request that is still pending is kept.
pub(in crate::store) async fn request_sync(
    tx: &Transaction,
    account_id: &AccountId,
    subscription: &str,
    now: Millis,
) -> Result<(), DbErr> {
    subscription::Entity::update_many()
        .col_expr(subscription::Column::SyncRequestedAt, Expr::value(now))
        .filter(subscription::Column::AccountId.eq(account_id))
        .filter(subscription::Column::Subscription.eq(subscription))
        .filter(subscription::Column::SyncRequestedAt.is_null())
        .exec(tx)
        .await
        .map(|_| ())
}
