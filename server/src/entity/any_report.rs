//! A report, open, closed or folded: those columns of the view `all_reports` that sums need.

use sea_orm::entity::prelude::*;

use super::usage_report::UsageReportState;
use crate::domain::account_id::AccountId;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "all_reports")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: AccountId,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    #[sea_orm(column_type = "Text")]
    pub(crate) meter: String,
    pub(crate) window_start: i64,
    pub(crate) quantity: i64,
    pub(crate) first_at: i64,
    pub(crate) last_at: i64,
    pub(crate) state: UsageReportState,
    pub(crate) event_timestamp: Option<i64>,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) customer: Option<String>,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) last_error: Option<String>,
    pub(crate) bill_at: Option<i64>,
    /// How many reports it is: more than one only if they were folded.
    pub(crate) reports: i64,
    /// The number of the archive that has them, if they were folded.
    pub(crate) archive: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
