//! The Stripe subscription that an account follows.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "subscriptions")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: String,
    /// `sub_...`
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) subscription: String,
    #[sea_orm(column_type = "Text")]
    pub(crate) customer: String,
    /// As Stripe names it, such as `active`.
    #[sea_orm(column_type = "Text")]
    pub(crate) status: String,
    /// `flexible` or `classic`.
    #[sea_orm(column_type = "Text")]
    pub(crate) billing_mode: String,
    /// When it is known to end.
    pub(crate) cancel_at: Option<i64>,
    /// When it ended.
    pub(crate) ended_at: Option<i64>,
    pub(crate) synced_at: i64,
    /// Since when somebody needs the truth before the next poll.
    pub(crate) sync_requested_at: Option<i64>,
    /// When it was learned that Stripe has its customer no more.
    pub(crate) customer_deleted_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
