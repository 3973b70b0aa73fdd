//! A change of a subscription, step by step, so that a crash leaves it where it can go on.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "subscription_changes")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    /// `change_plan` or `cancel`.
    #[sea_orm(column_type = "Text")]
    pub(crate) kind: String,
    /// What was asked for, as JSON.
    #[sea_orm(column_type = "Text")]
    pub(crate) request: String,
    #[sea_orm(column_type = "Text")]
    pub(crate) requested_by: String,
    #[sea_orm(column_type = "Text")]
    pub(crate) subscription: String,
    /// `drain`, `changing`, `done` or `undone`.
    #[sea_orm(column_type = "Text")]
    pub(crate) step: String,
    /// Usage before it is charged the old way, usage from it on the new way.
    pub(crate) boundary_at: i64,
    pub(crate) started_at: i64,
    /// Until when usage is waited for.
    pub(crate) deadline_at: i64,
    /// When somebody last worked on it.
    pub(crate) heartbeat_at: i64,
    /// The replica that works on it.
    #[sea_orm(column_type = "Text")]
    pub(crate) holder: String,
    pub(crate) finished_at: Option<i64>,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) error: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
