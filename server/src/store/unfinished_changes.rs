//! The change of an account's subscription that is in progress, if any: an account has at most one.

use sea_orm::{
    ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
};

use super::{Store, rows};
use crate::{
    domain::{Millis, account_id::AccountId, subscription_change::SubscriptionChange},
    entity::subscription_change,
    error::Result as StoreResult,
};

impl Store {
    /// Unfinished changes that began at a time or earlier, the oldest first.
    pub(crate) async fn old_changes(
        &self,
        begun_by: Millis,
        limit: u64,
    ) -> StoreResult<Vec<SubscriptionChange>> {
        use subscription_change::Column;
        let old = subscription_change::Entity::find()
            .filter(Column::FinishedAt.is_null())
            .filter(Column::StartedAt.lte(begun_by))
            .order_by_asc(Column::StartedAt)
            .limit(limit)
            .all(&self.reader)
            .await?;
        Ok(rows::all(old))
    }
}

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
