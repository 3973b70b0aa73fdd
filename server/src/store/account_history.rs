//! What happened to the billing of an account: its links, and the changes of its subscription.

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
};

use super::Store;
use crate::{
    domain::{
        account::Link, account_id::AccountId, subscription_change::SubscriptionChange,
        window::Interval,
    },
    entity::{account_link, subscription_change},
    error::Result,
};

/// The links of one answer, and the changes.
const MAX_LISTED: u64 = 100;

/// The links that apply from a time in some period, and the changes with their boundary in it, the latest first.
#[derive(Debug)]
pub(crate) struct AccountHistory {
    pub(crate) links: Vec<Link>,
    pub(crate) changes: Vec<SubscriptionChange>,
}

impl Store {
    /// What happened to the billing of an account in a period.
    pub(crate) async fn account_history(
        &self,
        account_id: &AccountId,
        period: Interval,
    ) -> Result<AccountHistory> {
        let links = account_link::Entity::find()
            .filter(account_link::Column::AccountId.eq(account_id))
            .filter(account_link::Column::ValidFrom.gte(period.start))
            .filter(account_link::Column::ValidFrom.lt(period.end))
            .order_by_desc(account_link::Column::Version)
            .limit(MAX_LISTED)
            .all(&self.reader)
            .await?;
        let changes = subscription_change::Entity::find()
            .filter(subscription_change::Column::AccountId.eq(account_id))
            .filter(subscription_change::Column::BoundaryAt.gte(period.start))
            .filter(subscription_change::Column::BoundaryAt.lt(period.end))
            .order_by_desc(subscription_change::Column::Id)
            .limit(MAX_LISTED)
            .all(&self.reader)
            .await?;
        Ok(AccountHistory {
            links: links.into_iter().map(Link::from).collect(),
            changes: changes.into_iter().map(SubscriptionChange::from).collect(),
        })
    }
}
