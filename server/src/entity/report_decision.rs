//! What admins decided on reports that the service leaves alone.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "report_decisions")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: String,
    /// A UUIDv7.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    pub(crate) report_id: Uuid,
    /// A name of `domain::decision::Action`.
    #[sea_orm(column_type = "Text")]
    pub(crate) action: String,
    #[sea_orm(column_type = "Text")]
    pub(crate) reason: String,
    #[sea_orm(column_type = "Text")]
    pub(crate) requested_by: String,
    /// The state that it was decided in.
    #[sea_orm(column_type = "Text")]
    pub(crate) from_state: String,
    /// The report's generation from then on.
    pub(crate) generation: i32,
    pub(crate) decided_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
