//! A closed report: what an account used of a meter in one window. The view `all_reports` has the same columns for those
//! that are open.

use sea_orm::entity::prelude::*;

use super::stored_enum::stored_enum;
use crate::domain::account_id::AccountId;
use crate::domain::report::{Kind, State};

stored_enum! {
    /// The column `state`.
    UsageReportState of State {
        Open,
        Closed,
        Sending,
        Accepted,
        Confirmed,
        Invoiced,
        Missing,
        Rejected,
        CustomerDeleted,
        Unknown,
        NotBillable,
        NoCustomer,
        Uncharged,
        TooLate,
        WrittenOff,
    }
}

stored_enum! {
    /// The column `kind`.
    UsageReportKind of Kind {
        Usage,
        Correction,
        AlreadySent,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "usage_reports")]
pub(crate) struct Model {
    /// Grows in the order in which reports close. The engine gives it.
    pub(crate) number: i64,
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: AccountId,
    /// A UUIDv7.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    #[sea_orm(column_type = "Text")]
    pub(crate) meter: String,
    /// The first moment of the window.
    pub(crate) window_start: i64,
    /// The window's bound.
    pub(crate) window_end: i64,
    /// The end of the window; null in the view while the report is open.
    pub(crate) period_end: Option<i64>,
    /// Null in the view while the report is open.
    pub(crate) closed_at: Option<i64>,
    pub(crate) quantity: i64,
    /// The earliest time of its increments.
    pub(crate) first_at: i64,
    /// The latest time of its increments.
    pub(crate) last_at: i64,
    pub(crate) state: UsageReportState,
    /// A boundary inside the window became known too late to split it.
    pub(crate) straddled: bool,
    /// How often it got a new identifier.
    pub(crate) generation: i32,
    /// The meter event's timestamp.
    pub(crate) event_timestamp: Option<i64>,
    /// The Stripe customer it is billed to.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) customer: Option<String>,
    pub(crate) attempts: i32,
    /// When the sender may next send or check it; null if at once.
    pub(crate) next_attempt_at: Option<i64>,
    /// By when it should be sent, as far as is known; null until the sender has read that.
    pub(crate) send_by: Option<i64>,
    /// When its present identifier was first given to Stripe.
    pub(crate) first_sent_at: Option<i64>,
    pub(crate) last_sent_at: Option<i64>,
    pub(crate) reported_at: Option<i64>,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) last_error: Option<String>,
    /// The run that closed it.
    pub(crate) run_id: Option<Uuid>,
    pub(crate) kind: UsageReportKind,
    /// Why a correction was entered.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) note: Option<String>,
    /// Who entered a correction.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) entered_by: Option<String>,
    /// When it is billed instead of in its own window's period.
    pub(crate) bill_at: Option<i64>,
    /// When Stripe's totals were seen to contain it.
    pub(crate) confirmed_at: Option<i64>,
    /// When it was looked up at Stripe after a restore.
    pub(crate) looked_up_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
