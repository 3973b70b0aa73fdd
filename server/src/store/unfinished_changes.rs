//! The change of an account's subscription that is in progress, if any: an account has at most one.

use sea_orm::{ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _};

use crate::{
    domain::{account_id::AccountId, subscription_change::SubscriptionChange},
    entity::subscription_change,
};

/// The change in progress.
pub(super) async fn find_unfinished(
    db: &impl ConnectionTrait,
    account_id: &AccountId,
) -> Result<Option<SubscriptionChange>, DbErr> {
    let found = subscription_change::Entity::find()
        .filter(subscription_change::Column::AccountId.eq(account_id))
        .filter(subscription_change::Column::FinishedAt.is_null())
        .one(db)
        .await?;
    Ok(found.map(SubscriptionChange::from))
}

/// Whether a change is in progress.
pub(super) async fn has_unfinished(
    db: &impl ConnectionTrait,
    account_id: &AccountId,
) -> Result<bool, DbErr> {
    Ok(find_unfinished(db, account_id).await?.is_some())
}
