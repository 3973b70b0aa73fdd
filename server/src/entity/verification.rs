//! What verification last found of a customer, a meter and a UTC day.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "verifications")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) customer: String,
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) meter: String,
    /// The day's first moment.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) day: i64,
    /// What we reported with a timestamp of that day.
    pub(crate) ours: i64,
    /// What Stripe holds of it; null where it does not say so in whole numbers.
    pub(crate) stripes: Option<i64>,
    /// A name of `domain::verification::Finding`.
    #[sea_orm(column_type = "Text")]
    pub(crate) state: String,
    /// When any of the three last changed.
    pub(crate) changed_at: i64,
    pub(crate) verified_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
