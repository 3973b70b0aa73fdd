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
    /// The link in force just before the period.
    pub(crate) before: Option<Link>,
    pub(crate) links: Vec<Link>,
    pub(crate) changes: Vec<SubscriptionChange>,
    /// Whether some are left out.
    pub(crate) is_truncated: bool,
}

impl Store {
    /// What happened to the billing of an account in a period.
    pub(crate) async fn account_history(
        &self,
        account_id: &AccountId,
        period: Interval,
    ) -> Result<AccountHistory> {
        let of_account = account_link::Entity::find()
            .filter(account_link::Column::AccountId.eq(account_id))
            .order_by_desc(account_link::Column::Version);
        let before = of_account
            .clone()
            .filter(account_link::Column::ValidFrom.lt(period.start))
            .one(&self.reader)
            .await?;
        let mut links = of_account
            .filter(account_link::Column::ValidFrom.gte(period.start))
            .filter(account_link::Column::ValidFrom.lt(period.end))
            .limit(MAX_LISTED.saturating_add(1))
            .all(&self.reader)
            .await?;
        let mut changes = subscription_change::Entity::find()
            .filter(subscription_change::Column::AccountId.eq(account_id))
            .filter(subscription_change::Column::BoundaryAt.gte(period.start))
            .filter(subscription_change::Column::BoundaryAt.lt(period.end))
            .order_by_desc(subscription_change::Column::Id)
            .limit(MAX_LISTED.saturating_add(1))
            .all(&self.reader)
            .await?;
        let listed = usize::try_from(MAX_LISTED).unwrap_or(usize::MAX);
        let is_truncated = links.len() > listed || changes.len() > listed;
        links.truncate(listed);
        changes.truncate(listed);
        Ok(AccountHistory {
            before: before.map(Link::from),
            links: links.into_iter().map(Link::from).collect(),
            changes: changes.into_iter().map(SubscriptionChange::from).collect(),
            is_truncated,
        })
    }
}
