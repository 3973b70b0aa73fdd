//! The billing of an account from a time on. The history is kept.

use sea_orm::entity::prelude::*;

use crate::domain::account_id::AccountId;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "account_links")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: AccountId,
    /// Counts the links of an account; a later one outranks an earlier one.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) version: i64,
    pub(crate) valid_from: i64,
    /// Null means free.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) customer: Option<String>,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) subscription: Option<String>,
    pub(crate) recorded_at: i64,
    /// The subscription ended: nothing is billed to the customer from `valid_from` on.
    pub(crate) ended: bool,
    /// Whether that end was requested here.
    pub(crate) end_requested: bool,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
