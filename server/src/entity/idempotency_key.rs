//! The idempotency keys of single increments, each with the content it was used with.

use sea_orm::entity::prelude::*;

use crate::domain::account_id::AccountId;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "idempotency_keys")]
pub(crate) struct Model {
    /// See `domain::stored_key`.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) key: Uuid,
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: AccountId,
    #[sea_orm(column_type = "Text")]
    pub(crate) meter: String,
    pub(crate) quantity: i64,
    /// The time that the caller stated.
    pub(crate) stated_at: Option<i64>,
    pub(crate) created_at: i64,
    /// The report that the increment was added to.
    pub(crate) report_id: Uuid,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
