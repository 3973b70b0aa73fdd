//! Whether reports are sent, and what is known of the last restore: one row.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "sending")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: i32,
    /// Null while reports are sent.
    pub(crate) paused_at: Option<i64>,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) paused_why: Option<String>,
    /// The last moment that the restored backup contains.
    pub(crate) backup_at: Option<i64>,
    pub(crate) restored_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
