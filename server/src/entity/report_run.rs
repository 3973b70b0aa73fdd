//! One run of the reporter.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "report_runs")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    #[sea_orm(column_type = "Text")]
    pub(crate) trigger: String,
    #[sea_orm(column_type = "Text")]
    pub(crate) requested_by: String,
    /// The accounts as a JSON array; null means all.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) scope: Option<String>,
    pub(crate) started_at: i64,
    /// When somebody last worked on closing.
    pub(crate) heartbeat_at: i64,
    pub(crate) closing_finished_at: Option<i64>,
    pub(crate) closed_reports: i64,
    pub(crate) closed_quantity: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
