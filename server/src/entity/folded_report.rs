//! Old reports of one window, summed: each of them is in an archive.

use sea_orm::entity::prelude::*;

use super::usage_report::UsageReportState;
use crate::domain::account_id::AccountId;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "folded_reports")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: AccountId,
    /// The first moment of the window.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) window_start: i64,
    /// That of the oldest report in it.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    #[sea_orm(column_type = "Text")]
    pub(crate) meter: String,
    /// The window's bound.
    pub(crate) window_end: i64,
    pub(crate) state: UsageReportState,
    /// The Stripe customer it is billed to.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) customer: Option<String>,
    /// A time that Stripe bills with it.
    pub(crate) event_timestamp: Option<i64>,
    /// When it is billed instead of in its own window's period.
    pub(crate) bill_at: Option<i64>,
    /// When Stripe accepted the last of them, or it was first sent.
    pub(crate) sent_at: Option<i64>,
    pub(crate) quantity: i64,
    /// How many reports it is the sum of.
    pub(crate) reports: i64,
    /// The earliest time of their increments.
    pub(crate) first_at: i64,
    /// The latest time of their increments.
    pub(crate) last_at: i64,
    /// The number of the archive that has them one by one.
    pub(crate) archive: i64,
    /// When and what admins decided on them: see `domain::decision::Decided`.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) decisions: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
