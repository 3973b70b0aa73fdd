//! The digest of the id of a deleted account.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "deleted_accounts")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) digest: String,
    /// The version of `boundary_version` from this deletion on. The greatest one is of the latest deletion.
    pub(crate) version: i64,
    /// Its usage is refused since then.
    pub(crate) deleted_at: i64,
    /// When its rows got another id; null until then.
    pub(crate) anonymised_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
