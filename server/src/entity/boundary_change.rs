//! The accounts whose boundaries moved, by which replicas notice what in their caches is stale.

use sea_orm::entity::prelude::*;

use crate::domain::account_id::AccountId;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "boundary_changes")]
pub(crate) struct Model {
    /// The version of `boundary_version` from this change on.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) version: i64,
    /// The version before it.
    pub(crate) previous: i64,
    #[sea_orm(column_type = "Text")]
    pub(crate) account_id: AccountId,
    pub(crate) recorded_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
