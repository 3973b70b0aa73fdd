//! One run of the reporter.

use sea_orm::entity::prelude::*;

use super::stored_enum::stored_enum;
use crate::domain::run::Trigger;

stored_enum! {
    /// The column `trigger`.
    ReportRunTrigger of Trigger {
        Schedule,
        Force,
        PeriodEnd,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "report_runs")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    pub(crate) trigger: ReportRunTrigger,
    #[sea_orm(column_type = "Text")]
    pub(crate) requested_by: String,
    /// The accounts as a JSON array; null means all.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) scope: Option<String>,
    pub(crate) started_at: i64,
    /// When a replica last closed reports for it.
    pub(crate) heartbeat_at: i64,
    pub(crate) closing_finished_at: Option<i64>,
    pub(crate) closed_reports: i64,
    pub(crate) closed_quantity: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
