//! A report that is open: what an account used of a meter in one window, while it counts.

use sea_orm::entity::prelude::*;

use crate::domain::account_id::AccountId;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "open_reports")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: AccountId,
    /// The first moment of the window.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) window_start: i64,
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) meter: String,
    /// A UUIDv7, which the closed report keeps.
    pub(crate) id: Uuid,
    /// The window's bound, as far as it is known.
    pub(crate) window_end: i64,
    pub(crate) quantity: i64,
    /// The earliest time of its increments.
    pub(crate) first_at: i64,
    /// The latest time of its increments.
    pub(crate) last_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
