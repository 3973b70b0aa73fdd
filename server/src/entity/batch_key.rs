//! The idempotency keys of batches, each with a digest of its content and its results.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "batch_keys")]
pub(crate) struct Model {
    /// Who sent it: see `domain::access::Caller`.
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) caller: String,
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) key: String,
    #[sea_orm(column_type = "Text")]
    pub(crate) fingerprint: String,
    /// Duplicates and rejected items as JSON; empty if every item was counted.
    #[sea_orm(column_type = "Text")]
    pub(crate) results: String,
    pub(crate) created_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
