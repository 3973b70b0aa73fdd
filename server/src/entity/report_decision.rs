//! Admins' decisions on reports that the service does not retry.

use sea_orm::entity::prelude::*;

use super::{stored_enum::stored_enum, usage_report::UsageReportState};
use crate::domain::account_id::AccountId;
use crate::domain::decision::Action;

stored_enum! {
    /// The column `action`.
    ReportDecisionAction of Action {
        Retry,
        BillInCurrentPeriod,
        WriteOff,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "report_decisions")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: AccountId,
    /// A UUIDv7.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    pub(crate) report_id: Uuid,
    pub(crate) action: ReportDecisionAction,
    #[sea_orm(column_type = "Text")]
    pub(crate) reason: String,
    #[sea_orm(column_type = "Text")]
    pub(crate) requested_by: String,
    /// The report's state before the decision.
    pub(crate) from_state: UsageReportState,
    /// The report's generation from then on.
    pub(crate) generation: i32,
    pub(crate) decided_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
