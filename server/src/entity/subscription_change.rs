//! A change of a subscription with its step, so that another replica can continue it after a crash.

use sea_orm::entity::prelude::*;

use super::stored_enum::stored_enum;
use crate::domain::account_id::AccountId;
use crate::domain::subscription_change::{ChangeKind, Step};

stored_enum! {
    /// The column `kind`.
    SubscriptionChangeKind of ChangeKind {
        ChangePlan,
        Cancel,
    }
}

stored_enum! {
    /// The column `step`.
    SubscriptionChangeStep of Step {
        Draining,
        Changing,
        Done,
        Undone,
        Refused,
        Aborted,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "subscription_changes")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: AccountId,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    pub(crate) kind: SubscriptionChangeKind,
    /// The request, as JSON.
    #[sea_orm(column_type = "Text")]
    pub(crate) request: String,
    #[sea_orm(column_type = "Text")]
    pub(crate) requested_by: String,
    #[sea_orm(column_type = "Text")]
    pub(crate) subscription: String,
    pub(crate) step: SubscriptionChangeStep,
    /// Usage before it is charged the old way, usage from it on the new way.
    pub(crate) boundary_at: i64,
    pub(crate) started_at: i64,
    /// When draining gives up.
    pub(crate) deadline_at: i64,
    /// When Stripe was last asked to make it.
    pub(crate) requested_at: Option<i64>,
    /// When a replica last worked on it.
    pub(crate) heartbeat_at: i64,
    /// The replica that works on it.
    #[sea_orm(column_type = "Text")]
    pub(crate) holder: String,
    pub(crate) finished_at: Option<i64>,
    /// Why it waits, or why it was not made.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) error: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
