//! The Stripe subscriptions that accounts are synced with.

use sea_orm::entity::prelude::*;

use crate::domain::account_id::AccountId;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "subscriptions")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: AccountId,
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
    /// The moment of the reading at Stripe that the row is from. An older answer is not applied.
    pub(crate) synced_at: i64,
    /// When a sync earlier than the next poll was requested.
    pub(crate) sync_requested_at: Option<i64>,
    /// Whether the account's link follows another one.
    pub(crate) is_companion: bool,
    /// Whether its end was requested here.
    pub(crate) end_requested: bool,
    /// After that end, an admin linked the account to the customer again, from this time on.
    pub(crate) relinked_from: Option<i64>,
    /// When a sync found that its customer was deleted at Stripe.
    pub(crate) customer_deleted_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
